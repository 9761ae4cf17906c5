"""Processes of the server: how they start, share a port, reload and end."""
