"""A network of your own gets a name; spaces and `best.json` can use it then."""

import torch
from torch import nn

from nas_attn import BACKBONES, Backbone, Placement, build_model, register_backbone


def make_net(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, num_classes),
    )


register_backbone(Backbone("one_layer", make_net, "One convolution and a classifier.", default_image=32))
placement = Placement.from_dict({"0": {"name": "se", "reduction": 4}})  # behind the module at path "0"
model = build_model("one_layer", placement, num_classes=10, in_channels=1, image_size=8)
logits = model(torch.rand(2, 1, 8, 8))
BACKBONES.unregister("one_layer")
