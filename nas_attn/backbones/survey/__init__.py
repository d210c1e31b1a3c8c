"""Finds the sites of a network that is not in the catalogue, by running a copy of it."""
