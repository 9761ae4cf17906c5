"""Where agents live: each package speaks one protocol of Letta's."""
