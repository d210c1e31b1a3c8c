"""Names the sites of networks of residual or separable blocks; stages and blocks are counted from 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from nas_attn.backbones.places.ends import features, stem
from nas_attn.backbones.sites import Place


def resnet_places(net: nn.Module) -> list[Place]:
    """Name the edges and 3x3 convolutions of a ResNet's blocks, its stem and its pooling."""
    places = stem("relu", "maxpool")
    for number in range(1, 5):
        stage = f"stage{number}"
        for name, path, block in _blocks(net, f"layer{number}", stage):
            places += residual(name, path, stage, _resnet_steps(name, path, block, stage))
    return [*places, features("layer4", "stage4"), Place("head", "head", "avgpool", "stage4")]


def preact_places(net: nn.Module) -> list[Place]:
    """Name the edges and 3x3 convolutions of a pre-activation ResNet's blocks, its stem and its pooling."""
    places = stem("stem")
    for number in range(3):
        stage = f"stage{number + 1}"
        for name, path, block in _blocks(net, f"stages.{number}", stage):
            steps = _preact_steps(name, f"{path}.branch", block.get_submodule("branch"), stage)
            projected = isinstance(block.projection, nn.Module)
            places += residual(name, path, stage, steps, pre=not projected)
    return [*places, features("activation", "stage3"), Place("head", "head", "pool", "stage3")]


def regnet_places(net: nn.Module) -> list[Place]:
    """Name the edges, the 3x3 convolution and the widest map of a RegNet's blocks, its stem and its pooling."""
    places = stem("stem.2")
    for number in range(1, 5):
        stage = f"stage{number}"
        for name, path, block in _blocks(net, f"trunk_output.block{number}", stage):
            steps = depthwise(name, f"{path}.f.b", block.get_submodule("f.b"), stage)
            places += residual(name, path, stage, steps)
    return [*places, features("trunk_output", "stage4"), Place("head", "head", "avgpool", "stage4")]


def mobilenet_v1_places(net: nn.Module) -> list[Place]:
    """Name the depthwise convolutions of a MobileNet-v1's blocks, their outputs, its stem and its pooling."""
    places = stem("stem.2")
    for number in range(5):
        stage = f"stage{number + 1}"
        for name, path, block in _blocks(net, f"stages.{number}", stage):
            places += depthwise(name, f"{path}.depthwise", block.get_submodule("depthwise"), stage)
            places.append(Place(f"{name}.output", "output", path, stage))
    return [*places, features("stages", "stage5"), Place("head", "head", "pool", "stage5")]


def mobilenet_v2_places(net: nn.Module) -> list[Place]:
    """Name the sites of a MobileNet-v2, whose stages are the lines of the paper's table."""
    head = Place("head", "head", "features.head", "stage7")
    return [*_in_a_row(net, (1, 2, 3, 4, 3, 3, 1)), features("features.18", "stage7"), head]


def mobilenet_v3_large_places(net: nn.Module) -> list[Place]:
    """Name the sites of a MobileNet-v3 large, whose stages are the blocks of one width."""
    head = Place("head", "head", "avgpool", "stage6")
    return [*_in_a_row(net, (1, 2, 3, 4, 2, 3)), features("features.16", "stage6"), head]


def mobilenet_v3_small_places(net: nn.Module) -> list[Place]:
    """Name the sites of a MobileNet-v3 small, whose stages are the blocks of one width."""
    head = Place("head", "head", "avgpool", "stage5")
    return [*_in_a_row(net, (1, 2, 3, 2, 3)), features("features.12", "stage5"), head]


def efficientnet_places(net: nn.Module) -> list[Place]:
    """Name the sites of an EfficientNet's blocks, its stem and its pooling."""
    places = stem("features.0")
    for number in range(1, 8):
        stage = f"stage{number}"
        for name, path, block in _blocks(net, f"features.{number}", stage):
            places += _inverted(name, path, block, stage)
    return [*places, features("features.8", "stage7"), Place("head", "head", "avgpool", "stage7")]


def shufflenet_places(net: nn.Module) -> list[Place]:
    """Name the branches of a ShuffleNet-v2's blocks, which are concatenated and shuffled, its stem and its pooling.

    Only in the first block of a stage, the other half passes layers too: the site `shortcut`.
    """
    places = stem("conv1", "maxpool")
    for number in range(1, 4):
        stage = f"stage{number}"
        for name, path, block in _blocks(net, f"stage{number + 1}", stage):
            branch = f"{path}.branch2"
            places.append(Place(f"{name}.conv", "conv", f"{branch}.3", stage, norm=f"{branch}.4", relu=False))
            places.append(Place(f"{name}.hidden", "hidden", f"{branch}.4", stage))
            places.append(Place(f"{name}.branch", "branch", branch, stage))
            if len(list(block.get_submodule("branch1").children())):
                places.append(Place(f"{name}.shortcut", "shortcut", f"{path}.branch1", stage))
            places.append(Place(f"{name}.output", "output", path, stage))
    return [*places, features("conv5.2", "stage3"), Place("head", "head", "conv5.head", "stage3")]


def xception_places(net: nn.Module) -> list[Place]:
    """Name the edges and depthwise convolutions of mini_XCEPTION's modules, and its stem; it pools class scores."""
    places = stem("stem.2")
    for index in range(4):
        path, stage = f"stages.{index}", f"stage{index + 1}"
        name = f"{stage}.block1"
        steps = [
            Place(f"{name}.conv{k}", "conv", f"{path}.branch.{child}", stage, relu=False)
            for k, child in ((1, 0), (2, 4))
        ]
        places += residual(name, path, stage, steps)
    return [*places, features("stages", "stage4")]


def residual(name: str, path: str, stage: str, steps: Sequence[Place], *, pre: bool = True) -> list[Place]:
    """Name the edges of a residual block around the steps of its branch, in the order of the data flow."""
    before = [Place(f"{name}.pre", "pre", path, stage)] if pre else []
    edges = ("branch", "shortcut", "merge", "output")
    return [*before, *steps, *(Place(f"{name}.{kind}", kind, path, stage) for kind in edges)]


def depthwise(name: str, path: str, unit: nn.Module, stage: str) -> list[Place]:
    """Name the convolution of a unit (convolution, norm, activation) if it is 3x3, and the output of the unit."""
    conv, activation = unit.get_submodule("0"), unit.get_submodule("2")
    assert isinstance(conv, nn.Conv2d), f"{path}.0 is no convolution"
    hidden = Place(f"{name}.hidden", "hidden", path, stage)
    if conv.kernel_size != (3, 3):
        return [hidden]
    relu = isinstance(activation, nn.ReLU)
    return [Place(f"{name}.conv", "conv", f"{path}.0", stage, norm=f"{path}.1", relu=relu), hidden]


def _blocks(net: nn.Module, path: str, stage: str) -> Iterator[tuple[str, str, nn.Module]]:
    """Yield name, path and module of each block of a stage."""
    for number, (child, block) in enumerate(net.get_submodule(path).named_children(), 1):
        yield f"{stage}.block{number}", f"{path}.{child}", block


def _in_a_row(net: nn.Module, n_blocks: Sequence[int]) -> list[Place]:
    """Name the sites of a stem and the blocks after it; `n_blocks` is their number per stage."""
    places = stem("features.0")
    index = 0
    for number, n in enumerate(n_blocks, 1):
        for block in range(1, n + 1):
            index += 1
            path = f"features.{index}"
            places += _inverted(f"stage{number}.block{block}", path, net.get_submodule(path), f"stage{number}")
    return places


def _inverted(name: str, path: str, block: nn.Module, stage: str) -> list[Place]:
    """Name the sites of an inverted residual block; one without a shortcut has only its inner sites and its output."""
    inner, steps_of = next(block.named_children())
    child, unit = next((key, child) for key, child in steps_of.named_children() if _is_depthwise(child))
    steps = depthwise(name, f"{path}.{inner}.{child}", unit, stage)
    if block.use_res_connect:
        return residual(name, path, stage, steps)
    return [*steps, Place(f"{name}.output", "output", path, stage)]


def _is_depthwise(unit: nn.Module) -> bool:
    first = next(unit.children(), None)
    return isinstance(first, nn.Conv2d) and first.groups > 1


def _resnet_steps(name: str, path: str, block: nn.Module, stage: str) -> list[Place]:
    """Name the 3x3 convolutions of a block: `conv`, or `conv1` and `conv2`; no ReLU follows a basic block's last."""
    if hasattr(block, "conv3"):
        conv = Place(f"{name}.conv", "conv", f"{path}.conv2", stage, norm=f"{path}.bn2")
        return [conv, Place(f"{name}.hidden", "hidden", path, stage)]
    return [
        Place(f"{name}.conv{k}", "conv", f"{path}.conv{k}", stage, norm=f"{path}.bn{k}", relu=k == 1) for k in (1, 2)
    ]


def _preact_steps(name: str, path: str, branch: nn.Module, stage: str) -> list[Place]:
    """Name the 3x3 convolutions of a pre-activation branch; norm and ReLU of the next one follow, but for the last."""
    if hasattr(branch, "conv3"):
        conv = Place(f"{name}.conv", "conv", f"{path}.conv2", stage, norm=f"{path}.norm3")
        return [conv, Place(f"{name}.hidden", "hidden", f"{path}.relu3", stage)]
    return [
        Place(f"{name}.conv1", "conv", f"{path}.conv1", stage, norm=f"{path}.norm2"),
        Place(f"{name}.conv2", "conv", f"{path}.conv2", stage, relu=False),
    ]
