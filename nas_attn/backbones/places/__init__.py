"""Where the sites of the catalogue's networks lie, and what they are called."""
