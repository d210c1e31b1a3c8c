"""Names the sites of networks without residual blocks; stages and blocks are counted from 1."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from nas_attn.backbones.places.ends import features, stem
from nas_attn.backbones.sites import Place

_ACTIVATIONS = (nn.ReLU, nn.Tanh)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d)


def densenet_places(net: nn.Module) -> list[Place]:
    """Name a DenseNet's 3x3 convolutions, the outputs of its layers, blocks and transitions, its stem and pooling.

    The output of a transition belongs to the next stage. A layer's ReLU precedes its convolution.
    """
    places = stem("features.relu0", "features.pool0")
    stage = ""
    for name, child in net.get_submodule("features").named_children():
        kind, number = name.rstrip("0123456789"), name.lstrip("abcdefghijklmnopqrstuvwxyz")
        if kind == "denseblock":
            stage = f"stage{number}"
            for k in range(1, len(list(child.children())) + 1):
                path = f"features.{name}.denselayer{k}"
                places.append(Place(f"{name}.layer{k}.conv", "conv", f"{path}.conv2", stage, relu=False))
                places.append(Place(f"{name}.layer{k}", "output", path, stage))
            places.append(Place(name, "output", f"features.{name}", stage))
        elif kind == "transition":
            places.append(Place(name, "output", f"features.{name}", f"stage{int(number) + 1}"))
    return [*places, features("activation", stage), Place("head", "head", "head", stage)]


def layer_places(net: nn.Module) -> list[Place]:
    """Name the sites of layers in a row (LeNet, AlexNet, VGG): a block ends in its activation, a stage in its pooling.

    A block's convolution is a site if it is 3x3. The output of a pooling is the site `pool` of its stage.
    """
    layers = [(f"features.{child}", layer) for child, layer in net.get_submodule("features").named_children()]
    places = _first_of(layers)
    stage, block = 1, 0
    for index, (path, layer) in enumerate(layers):
        name = f"stage{stage}.block{block}"
        if isinstance(layer, nn.Conv2d):
            block += 1
            behind, norm = layers[index + 1]
            norm_path = behind if isinstance(norm, nn.BatchNorm2d) else None
            if _is_3x3(layer):
                places.append(Place(f"stage{stage}.block{block}.conv", "conv", path, f"stage{stage}", norm=norm_path))
        elif isinstance(layer, _ACTIVATIONS):
            places.append(Place(f"{name}.output", "output", path, f"stage{stage}"))
        elif isinstance(layer, _POOLS):
            places.append(Place(f"stage{stage}.pool", "output", path, f"stage{stage}"))
            stage, block = stage + 1, 0
    return [*places, features(layers[-1][0], f"stage{stage - 1}")]


def _first_of(layers: Sequence[tuple[str, nn.Module]]) -> list[Place]:
    """Name the output of the first activation, and of a pooling right behind it."""
    index = next(k for k, (_, layer) in enumerate(layers) if isinstance(layer, _ACTIVATIONS))
    behind, pool = layers[index + 1]
    return stem(layers[index][0], behind if isinstance(pool, _POOLS) else None)


def googlenet_places(net: nn.Module) -> list[Place]:
    """Name GoogLeNet's 3x3 convolutions and the outputs of its modules, whose stages are numbered as in the paper."""
    stages = {3: "ab", 4: "abcde", 5: "ab"}
    places = [*stem("conv1", "maxpool1"), *_units(net, "stage2", "conv3", "stage2")]
    for number, letters in stages.items():
        places += _modules(net, f"stage{number}", [f"inception{number}{letter}" for letter in letters])
    return [*places, features("inception5b", "stage5"), Place("head", "head", "avgpool", "stage5")]


def inception_places(net: nn.Module) -> list[Place]:
    """Name Inception-v3's 3x3 convolutions that keep the map but for the stride, and the outputs of its modules."""
    stages = {3: ("5", "bcd"), 4: ("6", "abcde"), 5: ("7", "abc")}
    places = [*stem("Conv2d_1a_3x3"), *_units(net, "stage1", "Conv2d_2b_3x3", "stage1")]
    for stage, (number, letters) in stages.items():
        places += _modules(net, f"stage{stage}", [f"Mixed_{number}{letter}" for letter in letters])
    return [*places, features("Mixed_7c", "stage5"), Place("head", "head", "avgpool", "stage5")]


def squeezenet_places(net: nn.Module) -> list[Place]:
    """Name SqueezeNet's 3x3 convolutions and the outputs of its Fire modules; it pools class scores only."""
    places = stem("features.1", "features.2")
    for number, children in enumerate(((3, 4), (6, 7), (9, 10, 11, 12)), 1):
        stage = f"stage{number}"
        for block, child in enumerate(children, 1):
            name, path = f"{stage}.block{block}", f"features.{child}"
            places.append(Place(f"{name}.conv", "conv", f"{path}.expand3x3", stage))
            places.append(Place(f"{name}.output", "output", path, stage))
    return [*places, features("features.12", "stage3")]


def _modules(net: nn.Module, stage: str, paths: Sequence[str]) -> list[Place]:
    """Name the 3x3 convolutions and the output of each of these Inception modules."""
    places: list[Place] = []
    for number, path in enumerate(paths, 1):
        name = f"{stage}.block{number}"
        places += _units(net, name, path, stage)
        places.append(Place(f"{name}.output", "output", path, stage))
    return places


def _units(net: nn.Module, name: str, path: str, stage: str) -> list[Place]:
    """Name the 3x3 convolutions below `path`: `conv`, or `conv1`, `conv2`, ...; a norm and a ReLU follow each."""
    found = [
        f"{path}.{child}".removesuffix(".conv")
        for child, module in net.get_submodule(path).named_modules()
        if isinstance(module, nn.Conv2d) and _is_3x3(module)
    ]
    names = [f"{name}.conv{k}" for k in range(1, len(found) + 1)] if len(found) > 1 else [f"{name}.conv"]
    return [
        Place(site, "conv", f"{unit}.conv", stage, norm=f"{unit}.bn") for site, unit in zip(names, found, strict=False)
    ]


def _is_3x3(conv: nn.Conv2d) -> bool:
    """Return whether the convolution is 3x3 and keeps the map size up to its stride."""
    return conv.kernel_size == (3, 3) and conv.padding == (1, 1)
