"""A turn of an agent, independent of any API: the request, the conversation with the upstream, the events."""
