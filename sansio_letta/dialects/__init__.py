"""Dialects of the OpenAI API, which clients speak. Each package is one of them."""
