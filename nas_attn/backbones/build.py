"""Builds torchvision's networks, with another first convolution where the images or the stem ask for one."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from nas_attn.backbones.catalog import backbone_entry, check_backbone
from nas_attn.backbones.entry import Spec
from nas_attn.errors import SpaceError


@contextmanager
def seeded(seed: int, part: str) -> Iterator[None]:
    """Seed the CPU's random numbers by `seed` and the name of a part, and put the global generator back afterwards.

    Each part of a model is made inside one of these, so that its initial weights depend on nothing else in the model.
    """
    state = torch.get_rng_state()
    digest = hashlib.sha256(f"{seed}/{part}".encode()).digest()
    torch.default_generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def build_backbone(spec: str | Spec, *, num_classes: int, in_channels: int, image_size: int, seed: int) -> nn.Module:
    """Return the plain network on the CPU, its initial weights drawn from `seed` alone.

    Raises: SpaceError if the spec is not valid, or if an imported function does not give a network.
    """
    checked = check_backbone(spec)
    shape = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    with seeded(seed, "backbone"):
        if "import" in checked:
            return _imported(checked, shape)
        options = {key: value for key, value in checked.items() if key != "name"}
        make: Callable[..., nn.Module] = load_object(backbone_entry(checked["name"]).build)
        return make(num_classes=num_classes, in_channels=in_channels, **options)


def load_object(path: str) -> Any:
    """Return what "module:name" names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def densenet(
    *,
    num_classes: int,
    in_channels: int,
    growth_rate: int,
    block_config: list[int],
    num_init_features: int,
    bn_size: int,
    drop_rate: float,
    stem: str,
) -> nn.Module:
    """Return torchvision's DenseNet."""
    from torchvision.models import DenseNet

    net: nn.Module = DenseNet(
        growth_rate=growth_rate,
        block_config=tuple(block_config),
        num_init_features=num_init_features,
        bn_size=bn_size,
        drop_rate=drop_rate,
        num_classes=num_classes,
    )
    _set_stem(net, "features.conv0", "features.pool0", in_channels, stem, {})
    return net


def densenet121(*, num_classes: int, in_channels: int, drop_rate: float, stem: str) -> nn.Module:
    """Return torchvision's DenseNet-121."""
    from torchvision.models import densenet121

    net: nn.Module = densenet121(num_classes=num_classes, drop_rate=drop_rate)
    _set_stem(net, "features.conv0", "features.pool0", in_channels, stem, {})
    return net


def resnet18(*, num_classes: int, in_channels: int, stem: str) -> nn.Module:
    """Return torchvision's ResNet-18."""
    from torchvision.models import resnet18

    net: nn.Module = resnet18(num_classes=num_classes)
    _set_stem(net, "conv1", "maxpool", in_channels, stem, {"mode": "fan_out", "nonlinearity": "relu"})
    return net


def resnet50(*, num_classes: int, in_channels: int, stem: str) -> nn.Module:
    """Return torchvision's ResNet-50."""
    from torchvision.models import resnet50

    net: nn.Module = resnet50(num_classes=num_classes)
    _set_stem(net, "conv1", "maxpool", in_channels, stem, {"mode": "fan_out", "nonlinearity": "relu"})
    return net


def _set_stem(net: nn.Module, conv: str, pool: str, in_channels: int, stem: str, init: dict[str, str]) -> None:
    """Replace the first convolution where it must differ, drawn as the network draws its convolutions (`init`).

    A small stem keeps the pooling's place with an Identity, so that all names stay.
    """
    old = net.get_submodule(conv)
    assert isinstance(old, nn.Conv2d), f"{conv} is no convolution"
    small = stem == "small"
    if small or in_channels != old.in_channels:
        kernel, stride, padding = (3, 1, 1) if small else (7, 2, 3)
        new = nn.Conv2d(in_channels, old.out_channels, kernel, stride, padding, bias=False)
        nn.init.kaiming_normal_(new.weight, **init)  # type: ignore[arg-type]  # its words are literals in torch's stubs
        net.set_submodule(conv, new)
    if small:
        net.set_submodule(pool, nn.Identity())


def _imported(spec: Spec, shape: dict[str, int]) -> nn.Module:
    """Call the user's function with the spec's options, and with those of the shape's words that it takes."""
    path = spec["import"]
    try:
        make = load_object(path)
    except (ImportError, AttributeError) as error:
        raise SpaceError(f"The backbone's import '{path}' cannot be loaded: {error}.") from error
    options = {key: value for key, value in spec.items() if key != "import"}
    known = inspect.signature(make).parameters
    unknown_options = [key for key in options if key not in known and not _takes_any(known.values())]
    if unknown_options:
        raise SpaceError(f"'{path}' has no option '{unknown_options[0]}': it takes {', '.join(known) or 'none'}.")
    net = make(**{key: value for key, value in shape.items() if key in known}, **options)
    if not isinstance(net, nn.Module):
        raise SpaceError(f"The backbone's import '{path}' must give a torch module, but gave {type(net).__name__}.")
    return net


def _takes_any(parameters: Any) -> bool:
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
