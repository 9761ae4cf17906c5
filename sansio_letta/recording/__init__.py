"""Recordings of what passed between client, proxy and Letta: format, redaction, replay, comparison."""
