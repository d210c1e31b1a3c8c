"""The records of the catalogue, a file per family: facts only, no torch."""
