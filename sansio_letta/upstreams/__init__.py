"""Clients of Letta's APIs, one package for each API."""
