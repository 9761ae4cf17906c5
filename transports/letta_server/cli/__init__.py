"""The command ``letta-proxy``: arguments and environment in, `Settings` and an exit code out."""
