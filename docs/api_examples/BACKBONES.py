"""The catalogue is a mapping from names to records."""

from nas_attn import BACKBONES

backbone = BACKBONES["resnet18"]
print(backbone.summary, backbone.kinds)
print([(option.name, option.default) for option in backbone.options])
