"""The attention modules, a family a file, and the table that describes them."""
