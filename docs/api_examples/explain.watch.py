"""The weights that each attention computed in a forward pass; nothing stays on the model."""

import torch

from nas_attn import Placement, build_model
from nas_attn.explain import watch

placement = Placement.from_dict({"stage1.pool": {"name": "cbam", "reduction": 2}})
model = build_model("lenet", placement, num_classes=10, in_channels=1, image_size=28).eval()
with watch(model) as weights, torch.no_grad():
    model(torch.rand(4, 1, 28, 28))
print(weights["stage1.pool"].channels.shape, weights["stage1.pool"].pixels.shape)
