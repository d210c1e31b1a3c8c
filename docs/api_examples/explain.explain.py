"""Grad-CAM and the weights of the attentions for two images; needs the package captum."""

import torch

from nas_attn import Placement, build_model
from nas_attn.explain import explain

placement = Placement.from_dict({"stage1.pool": {"name": "cbam", "reduction": 2}})
model = build_model("lenet", placement, num_classes=10, in_channels=1, image_size=28).eval()
explanation = explain(model, torch.rand(2, 1, 28, 28), classes=[3, 7])
print(explanation.cams.shape, "at the", explanation.last_map)
