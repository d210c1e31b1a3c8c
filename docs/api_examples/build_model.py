"""A backbone of the catalogue, or a network of your own, with attention in it."""

import torch

from nas_attn import Placement, build_model

placement = Placement.from_dict({"stage3.block1.branch": {"name": "cbam", "reduction": 8}})
model = build_model({"name": "resnet18", "stem": "small"}, placement, num_classes=10, in_channels=3, image_size=32)
logits = model(torch.rand(2, 3, 32, 32))  # (2, 10)
