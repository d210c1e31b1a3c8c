"""What `explain` returns: the predicted classes, the weights by site, and Grad-CAM."""

import torch

from nas_attn import Placement, build_model
from nas_attn.explain import Explanation, explain

placement = Placement.from_dict({"stage1.pool": {"name": "se", "reduction": 2}})
model = build_model("lenet", placement, num_classes=10, in_channels=1, image_size=28).eval()
found: Explanation = explain(model, torch.rand(2, 1, 28, 28))
for site, weights in found.weights.items():
    print(site, found.attentions[site], weights.meaning, weights.channels.mean())
