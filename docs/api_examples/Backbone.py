"""A record that makes a network of your own a backbone; its sites are found by running it."""

from torch import nn

from nas_attn import Backbone, BackboneOption


def make_net(num_classes, in_channels, width=32):
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, num_classes),
    )


record = Backbone(
    name="one_layer",
    build=make_net,
    summary="One convolution and a classifier.",
    default_image=32,
    options=(BackboneOption("width", 32, "int", "channels of the map", low=2, high=512),),
)
