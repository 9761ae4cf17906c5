"""A turn of an agent, in no wire's format: what is asked, what is said, and how one leads to the other."""
