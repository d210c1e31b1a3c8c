"""A placement as an `nn.Module`: build, insert, save, load, preprocess."""
