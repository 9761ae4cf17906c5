"""One HTTP request of a client, from its bytes to the bytes of its response."""
