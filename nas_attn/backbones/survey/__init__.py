"""A network of somebody else: its sites are found by running a copy of it."""
