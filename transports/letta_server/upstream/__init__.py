"""What answers the core's commands: a Letta server, or recordings of one."""
