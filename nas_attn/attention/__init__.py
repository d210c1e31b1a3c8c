"""The attention modules, one family per file, and the catalogue that describes them."""
