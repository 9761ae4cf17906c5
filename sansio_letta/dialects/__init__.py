"""What clients speak: each package is one dialect of the OpenAI API."""
