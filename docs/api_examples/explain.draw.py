"""A figure of what a network looks at, with attention and without."""

import torch

from nas_attn import Placement, build_model
from nas_attn.explain import draw, explain

placement = Placement.from_dict({"stage1.pool": {"name": "cbam", "reduction": 2}})
images = torch.rand(2, 1, 28, 28)
models = [
    build_model("lenet", each, num_classes=10, in_channels=1, image_size=28).eval() for each in (placement, Placement())
]
found, plain = (explain(model, images, classes=[3, 7]) for model in models)
draw(found, plain).savefig("maps.png")
