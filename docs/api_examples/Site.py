"""The sites of a space's backbone."""

from nas_attn import SearchSpace, Site

space = SearchSpace.load("densenet_attn", num_classes=10, in_channels=1, image_size=8)
first: Site = space.bound.table.sites[0]
print(first.name, first.kind, (first.channels, first.height, first.width))
