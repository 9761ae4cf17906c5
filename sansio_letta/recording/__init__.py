"""What passed between client, proxy and Letta: written, read, replayed, compared and inspected."""
