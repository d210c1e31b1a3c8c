"""Networks with attention as people write them: subclasses of torchvision's blocks, or its layers put together again.

Each has a placement that builds the same network. Both use our attention modules, so they differ only in the way of
insertion.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import DenseNet, MobileNetV2
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from nas_attn import Attention, Placement, build_model, create_attention
from nas_attn.attention.entry import Context
from nas_attn.backbones.site_table import site_table
from nas_attn.model.build import AttentionModel
from nas_attn.placement import Convolution

CLASSES = 10


class BranchBottleneck(Bottleneck):
    """SE at the end of the branch, as in SENet."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.attention = create_attention("se", self.conv3.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.attention(self.bn3(self.conv3(out)))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class PreBottleneck(Bottleneck):
    """SE before the branch."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.attention = create_attention("se", self.conv1.in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block."""
        out = self.relu(self.bn1(self.conv1(self.attention(x))))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ShortcutBottleneck(BranchBottleneck):
    """SE on the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += self.attention(x if self.downsample is None else self.downsample(x))
        return self.relu(out)


class OutputBottleneck(BranchBottleneck):
    """SE after the block."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block."""
        return self.attention(Bottleneck.forward(self, x))


class SelectiveBottleneck(Bottleneck):
    """SK in place of the 3x3 convolution, its norm and its ReLU."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        conv = self.conv2
        replaced = Convolution(conv.in_channels, conv.out_channels, stride=conv.stride[0], bias=False)
        self.attention = create_attention("sk", conv.out_channels, context=Context(replaced=replaced))
        self.conv2 = self.bn2 = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block."""
        out = self.attention(self.relu(self.bn1(self.conv1(x))))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class CBAMBasicBlock(BasicBlock):
    """CBAM at the end of the branch, as in its authors' code."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.attention = create_attention("cbam", self.conv2.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.attention(self.bn2(self.conv2(out)))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class AFFBasicBlock(BasicBlock):
    """AFF in place of the addition."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.attention = create_attention("aff", self.conv2.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(self.attention(out, x if self.downsample is None else self.downsample(x)))


class HiddenInvertedResidual(InvertedResidual):
    """SE on the widest map, before the 1x1 convolution that narrows it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        *layers, narrow, norm = self.conv
        attention = create_attention("se", narrow.in_channels)
        names = [*map(str, range(len(layers))), "attention", "narrow", "norm"]
        self.conv = nn.Sequential(OrderedDict(zip(names, [*layers, attention, narrow, norm], strict=True)))


def se_densenet121() -> nn.Module:
    """Return DenseNet-121 with SE after its dense blocks and transitions."""
    net = DenseNet(growth_rate=32, block_config=(6, 12, 24, 16), num_init_features=64, num_classes=CLASSES)
    steps: OrderedDict[str, nn.Module] = OrderedDict()
    for name, child in net.features.named_children():
        steps[name] = child
        if name.startswith("transition"):
            steps[f"{name}_attention"] = create_attention("se", child.conv.out_channels)
        elif name.startswith("denseblock"):
            last = list(child.values())[-1]
            steps[f"{name}_attention"] = create_attention("se", last.norm1.num_features + last.conv2.out_channels)
    net.features = nn.Sequential(steps)
    return net


@dataclass(frozen=True)
class Pair:
    """One network written by hand, and the placement that builds the same network.

    Args:
        sites: Patterns of the sites where the attention goes.
        more_nodes: Steps of the backward pass that only ours has at each site, and that change nothing.
    """

    title: str
    by_hand: Callable[[], nn.Module]
    backbone: str
    sites: tuple[str, ...]
    attention: str = "se"
    options: dict[str, Any] = field(default_factory=dict)
    more_nodes: int = 0


def resnet50(block: type[Bottleneck]) -> Callable[[], nn.Module]:
    """Return a function that builds ResNet-50 from these blocks."""
    return lambda: ResNet(block, [3, 4, 6, 3], num_classes=CLASSES)


def resnet18(block: type[BasicBlock]) -> Callable[[], nn.Module]:
    """Return a function that builds ResNet-18 from these blocks."""
    return lambda: ResNet(block, [2, 2, 2, 2], num_classes=CLASSES)


PAIRS = (
    Pair("SE-ResNet-50, branch", resnet50(BranchBottleneck), "resnet50", ("*.branch",)),
    Pair("SE-ResNet-50, pre", resnet50(PreBottleneck), "resnet50", ("*.pre",)),
    Pair("SE-ResNet-50, shortcut", resnet50(ShortcutBottleneck), "resnet50", ("*.shortcut",)),
    Pair("SE-ResNet-50, output", resnet50(OutputBottleneck), "resnet50", ("*.output",)),
    Pair("SK-ResNet-50", resnet50(SelectiveBottleneck), "resnet50", ("*.conv",), "sk", more_nodes=1),
    Pair("CBAM-ResNet-18", resnet18(CBAMBasicBlock), "resnet18", ("*.branch",), "cbam"),
    Pair("AFF-ResNet-18", resnet18(AFFBasicBlock), "resnet18", ("*.merge",), "aff"),
    Pair(
        "SE-MobileNet-v2, hidden",
        lambda: MobileNetV2(block=HiddenInvertedResidual, num_classes=CLASSES),
        "mobilenet_v2",
        ("*.hidden",),
    ),
    Pair("SE-DenseNet-121", se_densenet121, "densenet121", ("denseblock?", "transition?")),
)


def placement_of(pair: Pair) -> Placement:
    """Return the placement that is equal to the network written by hand."""
    sites = site_table(pair.backbone, num_classes=CLASSES, in_channels=3).sites
    found = [site.name for site in sites if any(fnmatchcase(site.name, pattern) for pattern in pair.sites)]
    return Placement({name: Attention(pair.attention, pair.options) for name in found})


def build_ours(pair: Pair, placement: Placement) -> AttentionModel:
    """Return our network."""
    return build_model(pair.backbone, placement, num_classes=CLASSES, seed=0)


def build_both(pair: Pair) -> tuple[AttentionModel, nn.Module]:
    """Return our network and the one written by hand, with the same weights."""
    placement = placement_of(pair)
    ours, theirs = build_ours(pair, placement), pair.by_hand()
    order = [site.name for site in site_table(pair.backbone, num_classes=CLASSES, in_channels=3).sites]
    inserted = [ours.insert_at(name).attention for name in sorted(placement, key=order.index)]
    attentions = [module for name, module in theirs.named_modules() if name.endswith("attention")]
    for source, target in zip(inserted, attentions, strict=True):
        target.load_state_dict(source.state_dict())
    of_attention = {id(tensor) for module in attentions for tensor in module.state_dict(keep_vars=True).values()}
    rest = [tensor for tensor in theirs.state_dict(keep_vars=True).values() if id(tensor) not in of_attention]
    with torch.no_grad():
        for source, target in zip(ours.backbone.state_dict().values(), rest, strict=True):
            target.copy_(source)
    return ours, theirs


def outputs_of(nets: Iterable[nn.Module], images: Tensor) -> list[Tensor]:
    """Return the output of each network with the same dropout masks."""
    outputs = []
    for net in nets:
        torch.manual_seed(0)
        outputs.append(net(images))
    return outputs


def n_backward_steps(output: Tensor) -> int:
    """Return the number of steps of the backward pass, without those that only store a weight's gradient."""
    found, waiting = set(), [output.grad_fn]
    while waiting:
        step = waiting.pop()
        if step is not None and step not in found and type(step).__name__ != "AccumulateGrad":
            found.add(step)
            waiting += [following for following, _ in step.next_functions]
    return len(found)
