"""Names and modules of the sites of the catalogue's networks."""
