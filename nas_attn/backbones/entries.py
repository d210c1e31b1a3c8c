"""The backbones of the catalogue, one literal record each; facts only, no torch."""

from __future__ import annotations

from nas_attn.backbones.entry import Backbone, BackboneOption, Spec


def _smallest_densenet(spec: Spec) -> int:
    """A map of at least one pixel must be left after every transition (floor) and the stem (ceiling)."""
    last_halvings: int = 2 ** (len(spec.get("block_config", (6, 12, 24, 16))) - 1)
    return last_halvings if spec["stem"] == "small" else 4 * (last_halvings - 1) + 1


def _smallest_resnet(spec: Spec) -> int:
    """Every stride must still halve its map: the last stage's comes from two pixels or more."""
    return 5 if spec["stem"] == "small" else 17


def _default_image(spec: Spec) -> int:
    return 32 if spec["stem"] == "small" else 224


def _stem(default: str) -> BackboneOption:
    about = "3x3 at stride 1 without pooling (small), or 7x7 at stride 2 and a pooling (imagenet)"
    return BackboneOption("stem", default, "str", about, choices=("small", "imagenet"))


_DROP_RATE = BackboneOption("drop_rate", 0.0, "float", "dropout after each dense layer", low=0.0, high=0.9)

_DENSENET_SOURCE = "Huang et al., CVPR 2017, arXiv:1608.06993"
_RESNET_SOURCE = "He et al., CVPR 2016, arXiv:1512.03385"
_RESIDUAL_KINDS = ("output", "pre", "branch", "shortcut", "conv", "merge", "head")
_BOTTLENECK_KINDS = ("output", "pre", "branch", "shortcut", "hidden", "conv", "merge", "head")

ENTRIES = (
    Backbone(
        name="densenet",
        build="nas_attn.backbones.families:densenet",
        places="nas_attn.backbones.places_plain:densenet_places",
        summary="DenseNet-BC of free width and depth, for small images (compression 0.5)",
        source=_DENSENET_SOURCE,
        options=(
            BackboneOption("growth_rate", 12, "int", "channels that each layer adds", low=1, high=256),
            BackboneOption("block_config", [6, 6, 6], "ints", "layers of each block", low=1, high=128, longest=8),
            BackboneOption(
                "num_init_features",
                None,
                "int",
                "channels of the stem; auto: twice the growth rate",
                low=1,
                high=2048,
                auto=lambda spec: 2 * spec["growth_rate"],
            ),
            BackboneOption("bn_size", 4, "int", "width of a layer's bottleneck, in growth rates", low=1, high=16),
            _DROP_RATE,
            _stem("small"),
        ),
        kinds=("output",),
        smallest_image=_smallest_densenet,
        default_image=_default_image,
    ),
    Backbone(
        name="densenet121",
        build="nas_attn.backbones.families:known_densenet",
        fixed={"arch": "densenet121"},
        places="nas_attn.backbones.places_plain:densenet_places",
        summary="DenseNet-121: 4 blocks of 6, 12, 24 and 16 layers, growth rate 32",
        source=_DENSENET_SOURCE,
        options=(_DROP_RATE, _stem("imagenet")),
        kinds=("output",),
        smallest_image=_smallest_densenet,
        default_image=_default_image,
    ),
    Backbone(
        name="resnet18",
        build="nas_attn.backbones.families:resnet",
        fixed={"arch": "resnet18"},
        places="nas_attn.backbones.places:resnet_places",
        summary="ResNet-18: 4 stages of 2 basic blocks",
        source=_RESNET_SOURCE,
        options=(_stem("imagenet"),),
        kinds=_RESIDUAL_KINDS,
        smallest_image=_smallest_resnet,
        default_image=_default_image,
    ),
    Backbone(
        name="resnet50",
        build="nas_attn.backbones.families:resnet",
        fixed={"arch": "resnet50"},
        places="nas_attn.backbones.places:resnet_places",
        summary="ResNet-50: 4 stages of 3, 4, 6 and 3 bottleneck blocks",
        source=_RESNET_SOURCE,
        options=(_stem("imagenet"),),
        kinds=_BOTTLENECK_KINDS,
        smallest_image=_smallest_resnet,
        default_image=_default_image,
    ),
)
