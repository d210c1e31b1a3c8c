"""The backbones of the catalogue, one literal record each; facts only, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nas_attn.backbones.entry import Backbone, BackboneOption, Spec


def _smallest_densenet(spec: Spec) -> int:
    """A map of at least one pixel must be left after every transition (floor) and the stem (ceiling)."""
    last_halvings: int = 2 ** (len(spec.get("block_config", (6, 12, 24, 16))) - 1)
    return last_halvings if spec["stem"] == "small" else 4 * (last_halvings - 1) + 1


def _by_stem(small: int, imagenet: int) -> Callable[[Spec], int]:
    """Every stride must still halve its map: the last one's comes from two pixels or more."""
    return lambda spec: small if spec["stem"] == "small" else imagenet


_default_image = _by_stem(32, 224)


def _stem(default: str, first: str = "7x7 at stride 2 and a pooling") -> BackboneOption:
    about = f"3x3 at stride 1 without pooling (small), or {first} (imagenet)"
    return BackboneOption("stem", default, "str", about, choices=("small", "imagenet"))


_DROP_RATE = BackboneOption("drop_rate", 0.0, "float", "dropout after each dense layer", low=0.0, high=0.9)
_WIDTH_MULT = BackboneOption("width_mult", 1.0, "float", "factor of all widths", low=0.05, high=4.0)
_PLAIN_STRIDE = _stem("imagenet", "3x3 at stride 2")
_STRIDE_AND_POOL = _stem("imagenet", "3x3 at stride 2 and a pooling")


def _not(reason: str, *kinds: str) -> dict[str, str]:
    """Return one reason why these kinds of site are missing, for each of them."""
    return dict.fromkeys(kinds, reason)


_EDGES = ("pre", "branch", "shortcut", "merge")
_IN_TURN = _not("its layers run in turn, and nothing is added", *_EDGES, "hidden")
_CONCATENATED = _not("a module's parallel branches are concatenated, and nothing is added", *_EDGES, "hidden")
_FLATTENED = _not("its last map is flattened, not pooled to a pixel", "head")
_SCORES = _not("what it pools to a pixel is the scores of the classes", "head")
_BASIC = _not("a basic block's branch has no 1x1 convolution at its end", "hidden")
_SOME_ADDED = _not("only a block that keeps the map's size and channels is added to its input", *_EDGES)
_SOME_5X5 = _not("the other blocks' depthwise convolutions are 5x5", "conv")

_DENSE = _not("a layer's maps are concatenated with those before, and nothing is added", *_EDGES, "hidden")

_RESIDUAL_KINDS = ("output", "pre", "branch", "shortcut", "conv", "merge", "head")
_BOTTLENECK_KINDS = ("output", "pre", "branch", "shortcut", "hidden", "conv", "merge", "head")


def _densenet(
    name: str, summary: str, options: tuple[BackboneOption, ...], fixed: Mapping[str, Any] | None = None
) -> Backbone:
    return Backbone(
        name=name,
        build="nas_attn.backbones.networks.families:densenet",
        places="nas_attn.backbones.places.plain:densenet_places",
        summary=summary,
        source="Huang et al., CVPR 2017, arXiv:1608.06993",
        options=options,
        kinds=("output", "conv", "head"),
        lacks=_DENSE,
        smallest_image=_smallest_densenet,
        default_image=_default_image,
        fixed=fixed or {},
    )


def _known_densenet(depth: int, *n_layers: int) -> Backbone:
    *first, last = map(str, n_layers)
    return _densenet(
        f"densenet{depth}",
        f"DenseNet-{depth}: 4 blocks of {', '.join(first)} and {last} layers, growth rate 32",
        (_DROP_RATE, _stem("imagenet")),
        {"growth_rate": 32, "block_config": n_layers, "num_init_features": 64, "bn_size": 4},
    )


def _resnet(
    name: str,
    summary: str,
    source: str = "He et al., CVPR 2016, arXiv:1512.03385",
    *,
    kinds: tuple[str, ...] = _BOTTLENECK_KINDS,
    arch: str = "",
) -> Backbone:
    return Backbone(
        name=name,
        build="nas_attn.backbones.networks.families:resnet",
        places="nas_attn.backbones.places.residual:resnet_places",
        summary=summary,
        source=source,
        options=(_stem("imagenet"),),
        kinds=kinds,
        lacks={} if "hidden" in kinds else _BASIC,
        smallest_image=_by_stem(5, 17),
        default_image=_default_image,
        fixed={"arch": arch or name},
    )


def _vgg(name: str, layers: str) -> Backbone:
    return Backbone(
        name=name,
        build="nas_attn.backbones.networks.families:vgg",
        places="nas_attn.backbones.places.plain:layer_places",
        summary=f"VGG with {layers}",
        source="Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556",
        options=(),
        kinds=("output", "conv"),
        lacks={**_IN_TURN, **_not("it pools to 7x7, not to a pixel", "head")},
        smallest_image=32,
        default_image=224,
        fixed={"arch": name},
    )


def _mobilenet_v3(size: str, n_blocks: int) -> Backbone:
    return Backbone(
        name=f"mobilenet_v3_{size}",
        build="nas_attn.backbones.networks.families:mobilenet_v3",
        places=f"nas_attn.backbones.places.residual:mobilenet_v3_{size}_places",
        summary=f"MobileNet-v3 {size}: {n_blocks} inverted residual blocks, most with squeeze-and-excitation",
        source="Howard et al., ICCV 2019, arXiv:1905.02244",
        options=(_WIDTH_MULT, _PLAIN_STRIDE),
        kinds=_BOTTLENECK_KINDS,
        lacks={**_SOME_ADDED, **_SOME_5X5},
        smallest_image=_by_stem(9, 17),
        default_image=_default_image,
        fixed={"arch": f"mobilenet_v3_{size}"},
    )


ENTRIES = (
    Backbone(
        name="lenet",
        build="nas_attn.backbones.networks.lenet:LeNet",
        places="nas_attn.backbones.places.plain:layer_places",
        summary="LeNet-5: 2 convolutions, each with a pooling, and 3 linear layers",
        source="LeCun et al., Proceedings of the IEEE 86, 1998",
        options=(),
        kinds=("output",),
        lacks={**_IN_TURN, **_not("its convolutions are 5x5", "conv"), **_FLATTENED},
        smallest_image=12,
        default_image=32,
        sized=True,
    ),
    Backbone(
        name="alexnet",
        build="nas_attn.backbones.networks.families:alexnet",
        places="nas_attn.backbones.places.plain:layer_places",
        summary="AlexNet: 5 convolutions and 3 linear layers, in one column",
        source="Krizhevsky, arXiv:1404.5997",
        options=(),
        kinds=("output", "conv"),
        lacks={
            **_IN_TURN,
            **_not("its first two convolutions are 11x11 and 5x5", "conv"),
            **_not("it pools to 6x6, not to a pixel", "head"),
        },
        smallest_image=63,
        default_image=224,
    ),
    _vgg("vgg11", "8 convolutions and 3 linear layers"),
    _vgg("vgg11_bn", "8 convolutions, each with batch norm, and 3 linear layers"),
    _vgg("vgg16", "13 convolutions and 3 linear layers"),
    _vgg("vgg16_bn", "13 convolutions, each with batch norm, and 3 linear layers"),
    Backbone(
        name="googlenet",
        build="nas_attn.backbones.networks.families:googlenet",
        places="nas_attn.backbones.places.plain:googlenet_places",
        summary="GoogLeNet with batch norm: 9 Inception modules, no auxiliary classifiers",
        source="Szegedy et al., CVPR 2015, arXiv:1409.4842",
        options=(_stem("imagenet", "7x7 at stride 2 and two poolings"),),
        kinds=("output", "conv", "head"),
        lacks=_CONCATENATED,
        smallest_image=_by_stem(4, 15),
        default_image=_default_image,
    ),
    Backbone(
        name="inception_v3",
        build="nas_attn.backbones.networks.families:inception_v3",
        places="nas_attn.backbones.places.plain:inception_places",
        summary="Inception-v3: 11 Inception modules, no auxiliary classifier",
        source="Szegedy et al., CVPR 2016, arXiv:1512.00567",
        options=(),
        kinds=("output", "conv", "head"),
        lacks={**_CONCATENATED, **_not("the other modules have 1x7 and 7x1 convolutions", "conv")},
        smallest_image=75,
        default_image=299,
    ),
    _resnet("resnet18", "ResNet-18: 4 stages of 2 basic blocks", kinds=_RESIDUAL_KINDS),
    _resnet("resnet34", "ResNet-34: 4 stages of 3, 4, 6 and 3 basic blocks", kinds=_RESIDUAL_KINDS),
    _resnet("resnet50", "ResNet-50: 4 stages of 3, 4, 6 and 3 bottleneck blocks"),
    _resnet("resnet101", "ResNet-101: 4 stages of 3, 4, 23 and 3 bottleneck blocks"),
    _resnet(
        "resnext50",
        "ResNeXt-50 (32x4d): ResNet-50 with convolutions in 32 groups",
        "Xie et al., CVPR 2017, arXiv:1611.05431",
        arch="resnext50_32x4d",
    ),
    _resnet(
        "wide_resnet50",
        "Wide ResNet-50-2: ResNet-50 with bottlenecks twice as wide",
        "Zagoruyko and Komodakis, BMVC 2016, arXiv:1605.07146",
        arch="wide_resnet50_2",
    ),
    Backbone(
        name="preact_resnet",
        build="nas_attn.backbones.networks.preact:PreActivationResNet",
        places="nas_attn.backbones.places.residual:preact_places",
        summary="Pre-activation ResNet for small images: 3 stages; bottleneck blocks at depth 164",
        source="He et al., ECCV 2016, arXiv:1603.05027",
        options=(
            BackboneOption("depth", 20, "int", "layers: 20, 56, 110 or 164", choices=(20, 56, 110, 164)),
            BackboneOption("width", 16, "int", "channels of the first convolution", low=1, high=512),
        ),
        kinds=_BOTTLENECK_KINDS,
        lacks={
            **_not("where the size or the channels change, the shortcut begins with the branch's norm and ReLU", "pre"),
            **_not("only at depth 164 does a branch end in a 1x1 convolution", "hidden"),
        },
        smallest_image=3,
        default_image=32,
    ),
    _densenet(
        "densenet",
        "DenseNet-BC of free width and depth, for small images (compression 0.5)",
        (
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
    ),
    _known_densenet(121, 6, 12, 24, 16),
    _known_densenet(169, 6, 12, 32, 32),
    Backbone(
        name="squeezenet",
        build="nas_attn.backbones.networks.families:squeezenet",
        places="nas_attn.backbones.places.plain:squeezenet_places",
        summary="SqueezeNet 1.1: 8 Fire modules",
        source="Iandola et al., arXiv:1602.07360",
        options=(_STRIDE_AND_POOL,),
        kinds=("output", "conv"),
        lacks={**_CONCATENATED, **_SCORES},
        smallest_image=_by_stem(4, 17),
        default_image=_default_image,
    ),
    Backbone(
        name="mobilenet_v1",
        build="nas_attn.backbones.networks.mobilenet_v1:MobileNetV1",
        places="nas_attn.backbones.places.residual:mobilenet_v1_places",
        summary="MobileNet-v1: 13 depthwise separable blocks",
        source="Howard et al., arXiv:1704.04861",
        options=(_WIDTH_MULT, _PLAIN_STRIDE),
        kinds=("output", "hidden", "conv", "head"),
        lacks=_not("a block adds nothing to its input", *_EDGES),
        smallest_image=_by_stem(9, 17),
        default_image=_default_image,
    ),
    Backbone(
        name="mobilenet_v2",
        build="nas_attn.backbones.networks.families:mobilenet_v2",
        places="nas_attn.backbones.places.residual:mobilenet_v2_places",
        summary="MobileNet-v2: 17 inverted residual blocks",
        source="Sandler et al., CVPR 2018, arXiv:1801.04381",
        options=(_WIDTH_MULT, _PLAIN_STRIDE),
        kinds=_BOTTLENECK_KINDS,
        lacks=_SOME_ADDED,
        smallest_image=_by_stem(9, 17),
        default_image=_default_image,
    ),
    _mobilenet_v3("large", 15),
    _mobilenet_v3("small", 11),
    Backbone(
        name="efficientnet_b0",
        build="nas_attn.backbones.networks.families:efficientnet_b0",
        places="nas_attn.backbones.places.residual:efficientnet_places",
        summary="EfficientNet-B0: 16 inverted residual blocks with squeeze-and-excitation",
        source="Tan and Le, ICML 2019, arXiv:1905.11946",
        options=(_PLAIN_STRIDE,),
        kinds=_BOTTLENECK_KINDS,
        lacks={**_SOME_ADDED, **_SOME_5X5},
        smallest_image=_by_stem(9, 17),
        default_image=_default_image,
    ),
    Backbone(
        name="regnet_y_400mf",
        build="nas_attn.backbones.networks.families:regnet_y_400mf",
        places="nas_attn.backbones.places.residual:regnet_places",
        summary="RegNet-Y-400MF: 16 residual blocks with grouped convolutions and squeeze-and-excitation",
        source="Radosavovic et al., CVPR 2020, arXiv:2003.13678",
        options=(_PLAIN_STRIDE,),
        kinds=_BOTTLENECK_KINDS,
        lacks={},
        smallest_image=_by_stem(9, 17),
        default_image=_default_image,
    ),
    Backbone(
        name="shufflenet_v2",
        build="nas_attn.backbones.networks.families:shufflenet_v2",
        places="nas_attn.backbones.places.residual:shufflenet_places",
        summary="ShuffleNet-v2 x1.0: 16 blocks that shuffle the channels of two halves",
        source="Ma et al., ECCV 2018, arXiv:1807.11164",
        options=(_STRIDE_AND_POOL,),
        kinds=("output", "branch", "shortcut", "hidden", "conv", "head"),
        lacks={
            **_not("a block splits its channels in its forward, and its branch takes one half", "pre"),
            **_not("only in a stage's first block does the other half pass through layers", "shortcut"),
            **_not("a block's halves are concatenated and shuffled, not added", "merge"),
        },
        smallest_image=_by_stem(5, 17),
        default_image=_default_image,
    ),
    Backbone(
        name="mini_xception",
        build="nas_attn.backbones.networks.xception:MiniXception",
        places="nas_attn.backbones.places.residual:xception_places",
        summary="mini_XCEPTION: 4 residual modules of separable convolutions",
        source="Arriaga et al., arXiv:1710.07557",
        options=(),
        kinds=("output", "pre", "branch", "shortcut", "conv", "merge"),
        lacks={**_not("its 1x1 convolutions are the second halves of separable ones", "hidden"), **_SCORES},
        smallest_image=13,
        default_image=64,
    ),
    Backbone(
        name="cats_dogs_cnn",
        build="nas_attn.backbones.networks.cats_dogs:CatsDogsCNN",
        places="nas_attn.backbones.places.plain:layer_places",
        summary="A tutorial's network for cats and dogs: 3 convolutions, each with a pooling, and 2 linear layers",
        source="TensorFlow 2.0 tutorials, image classification",
        options=(),
        kinds=("output", "conv"),
        lacks={**_IN_TURN, **_FLATTENED},
        smallest_image=8,
        default_image=128,
        sized=True,
    ),
)
