"""Recognises a network's own squeeze-and-excitation by its structure, whoever wrote it.

It is a map multiplied by a factor, which is made of a map pooled to one pixel by two 1x1 convolutions or linear layers
and a function with a limited range. It may be a module of its own, a module that returns the factor alone, or a few
lines in the forward of a block.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

from nas_attn.backbones.modules import built_in_se, is_se
from nas_attn.backbones.tracing import is_size, read_forward
from nas_attn.errors import SpaceError

Step = str
"""`pool`, `limit`, `other`, or `layer:` and the path of a layer."""

_PRODUCTS = (operator.mul, torch.mul, "mul", operator.imul, "mul_")
_LIMITED = (nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.Hardtanh, nn.ReLU6, nn.Softmax)
_LIMITING = (
    *(torch.sigmoid, F.sigmoid, F.hardsigmoid, torch.tanh, F.tanh, F.hardtanh, F.relu6, torch.clamp, torch.softmax),
    *(F.softmax, "sigmoid", "sigmoid_", "tanh", "clamp", "clamp_", "softmax"),
)
_MEANS = (torch.mean, "mean")
_TO_A_PIXEL = (1, (1, 1), [1, 1])
_NEUTRAL_MODULES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
_ACTIVATIONS = ("torch.nn.modules.activation", "torch.nn.modules.dropout")
_NEUTRAL = (
    *(
        "view",
        "reshape",
        "flatten",
        "squeeze",
        "unsqueeze",
        "expand",
        "expand_as",
        "contiguous",
        "permute",
        "transpose",
    ),
    *("to", "type_as", "view_as", "add", "div", "mul", torch.flatten, torch.unsqueeze, torch.squeeze, torch.reshape),
    *(operator.getitem, operator.add, operator.mul, operator.truediv, torch.add, torch.mul, torch.div, F.dropout),
)
"""Changes of shape, and steps with a constant such as `relu6(x + 3) / 6`."""


@dataclass(frozen=True)
class OwnSE:
    """One squeeze-and-excitation.

    Args:
        block: Path of the module in whose forward it stands; of the module itself if it is one.
        layers: Paths of its two layers.
        name: For messages and lists.
        is_module: Whether `block` does nothing else.
    """

    block: str
    layers: tuple[str, str]
    name: str
    is_module: bool


@dataclass(frozen=True)
class Product:
    """A squeeze-and-excitation in a graph: the node that multiplies, the map, the factor, and the two layers."""

    node: fx.Node
    scaled: fx.Node
    factor: fx.Node
    layers: tuple[str, str]


def own_se(net: nn.Module, within: Collection[str] | None = None) -> list[OwnSE]:
    """Return the squeeze-and-excitation in a network that is not of torchvision's and timm's classes (`built_in_se`).

    Args:
        within: Paths of layers; a block without two of them is not read. None reads every block.
    """
    known = tuple(f"{path}." for path in built_in_se(net))
    found: list[OwnSE] = []
    for path, module in net.named_modules():
        if (
            not path
            or f"{path}.".startswith(known)
            or any(f"{path}.".startswith(f"{one.block}.") for one in found if one.is_module)
        ):
            continue
        layers = [f"{path}.{layer}" for layer in _pixel_layers(module)]
        if len([layer for layer in layers if within is None or layer in within]) >= 2:
            found += _in_block(module, path)
    return found


def scales_itself(module: nn.Module) -> bool:
    """Return whether a module is squeeze-and-excitation and nothing else."""
    if isinstance(module, nn.Conv2d | nn.Sequential):
        return False
    return is_se(module) or any(one.is_module for one in _in_block(module, ""))


def products(graph: fx.Graph, block: nn.Module) -> Iterator[Product]:
    """Yield the squeeze-and-excitation in the graph of a block."""
    for node in graph.nodes:
        operands = [operand for operand in node.args if isinstance(operand, fx.Node)]
        if node.target not in _PRODUCTS or len(operands) != 2:
            continue
        for scaled, factor in (operands, operands[::-1]):
            layers = _layers_of(_steps(factor, block))
            if layers is not None:
                yield Product(node, scaled, factor, layers)
                break


def _in_block(module: nn.Module, path: str) -> list[OwnSE]:
    """Return the squeeze-and-excitation in the forward of a module."""
    if len(_pixel_layers(module)) < 2 or type(module).forward is nn.Sequential.forward:
        return []
    try:
        graph = read_forward(module, path)
    except SpaceError:
        return []
    below = f"{path}." if path else ""
    found = []
    for product in products(graph, module):
        output = next(node for node in graph.nodes if node.op == "output").args[0]
        alone = output is product.node and product.scaled.op == "placeholder"
        first, second = (f"{below}{layer}" for layer in product.layers)
        found.append(OwnSE(path, (first, second), path if alone else _name(first, second, path), alone))
    return found


def _name(first: str, second: str, block: str) -> str:
    """Return the path of the child that holds both layers, or the paths of the two."""
    common = []
    for one, other in zip(first.split("."), second.split("."), strict=False):
        if one != other:
            break
        common.append(one)
    shared = ".".join(common)
    return shared if len(shared) > len(block) else f"{first} + {second.removeprefix(f'{block}.')}"


def _pixel_layers(module: nn.Module) -> list[str]:
    """Return the paths of the 1x1 convolutions and linear layers in a module, up to two levels of modules below it."""
    found = []
    for name, child in module.named_modules():
        n_above = sum(not isinstance(module.get_submodule(part), nn.Sequential) for part in _above(name))
        if n_above < 2 and _is_layer(child):
            found.append(name)
    return found


def _above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:k]) for k in range(1, len(parts))]


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))


def _layers_of(steps: list[Step]) -> tuple[str, str] | None:
    """Return the two layers of a factor, if its steps, in their order, are those of squeeze-and-excitation."""
    layers = [number for number, step in enumerate(steps) if step.startswith("layer:")]
    if len(layers) != 2 or "pool" not in steps[: layers[0]] or "limit" not in steps[layers[1] :]:
        return None
    first, second = (steps[number].partition(":")[2] for number in layers)
    return first, second


def _steps(node: fx.Node, block: nn.Module) -> list[Step]:
    """Return the steps that lead to a node, from the last one that is no step of squeeze-and-excitation."""
    steps: list[Step] = []
    current: object = node
    while isinstance(current, fx.Node):
        found = _step(current, block)
        if found is None or ("pool" in steps and any(step.startswith("layer:") for step in found)):
            break
        steps = found + steps
        current = current.args[0] if current.args else None
    return steps


def _step(node: fx.Node, block: nn.Module) -> list[Step] | None:
    """Return what a node does, or None if it is no step of squeeze-and-excitation."""
    if node.op == "call_module":
        return _module_steps(block.get_submodule(str(node.target)), str(node.target)) if node.args else None
    if node.op not in ("call_function", "call_method"):
        return None
    others = [arg for arg in node.args[1:] if isinstance(arg, fx.Node) and not is_size(arg)]
    if _pools(node):
        return ["pool"]
    if node.target in _LIMITING:
        return ["limit"]
    if node.target in _NEUTRAL:
        return ["other"] if not others or node.target in ("expand_as", "view_as", "type_as") else None
    is_activation = getattr(node.target, "__module__", "") == "torch.nn.functional" or node.target in (
        torch.relu,
        "relu",
    )
    return ["other"] if is_activation and len(node.all_input_nodes) == 1 else None


def _pools(node: fx.Node) -> bool:
    """Return whether a node pools over the pixels of a map: to one, if the result is a factor for a map of any size."""
    option = [*node.args[1:2], *node.kwargs.values()]
    if node.target in _MEANS:
        axes = option[0] if option else None
        return axes is not None and not {1, -3} & {*(axes if isinstance(axes, tuple | list) else [axes])}
    if node.target is F.adaptive_avg_pool2d:
        return bool(option) and option[0] in _TO_A_PIXEL
    return node.target is F.avg_pool2d


def _module_steps(module: nn.Module, path: str) -> list[Step] | None:
    """Return the steps of a child that takes one tensor, or None."""
    if _is_layer(module):
        return [f"layer:{path}"]
    if isinstance(module, nn.AvgPool2d) or (
        isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in _TO_A_PIXEL
    ):
        return ["pool"]
    if isinstance(module, _LIMITED):
        return ["limit"]
    if isinstance(module, _NEUTRAL_MODULES) or type(module).__module__ in _ACTIVATIONS:
        return ["other"]
    if type(module).forward is nn.Sequential.forward:
        return _joined([_module_steps(child, f"{path}.{name}") for name, child in module.named_children()])
    return _read_steps(module, path)


def _joined(parts: list[list[Step] | None]) -> list[Step] | None:
    steps: list[Step] = []
    for part in parts:
        if part is None:
            return None
        steps += part
    return steps


def _read_steps(module: nn.Module, path: str) -> list[Step] | None:
    """Return the steps of a module with a forward of its own, if it is one row of them."""
    try:
        graph = read_forward(module, path)
    except SpaceError:
        return None
    node = next(node for node in graph.nodes if node.op == "output").args[0]
    parts: list[list[Step] | None] = []
    while isinstance(node, fx.Node) and node.op != "placeholder":
        parts.insert(0, _step(node, module))
        node = node.args[0] if node.args else None
    steps = _joined(parts) if isinstance(node, fx.Node) else None
    named = [f"layer:{path}.{step.partition(':')[2]}" if step.startswith("layer:") else step for step in steps or []]
    return named or None
