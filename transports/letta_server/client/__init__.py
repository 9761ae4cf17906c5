"""One client's connection: HTTP/1.1 over a trio stream."""
