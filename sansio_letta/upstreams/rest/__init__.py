"""Letta's REST API: HTTP and server-sent events."""
