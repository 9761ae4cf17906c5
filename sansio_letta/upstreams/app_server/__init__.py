"""Letta Code's App Server: frames over one WebSocket, for all conversations of its agents."""
