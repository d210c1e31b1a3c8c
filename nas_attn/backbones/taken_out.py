"""Takes a network's own squeeze-and-excitation out, also where it stands in the forward of a block."""

from __future__ import annotations

from torch import fx, nn

from nas_attn.backbones.modules import has_hooks, put_module, take_out_se
from nas_attn.backbones.opening import Mode, run_by, upstream
from nas_attn.backbones.own_se import own_se, products
from nas_attn.backbones.tracing import MODE, OPENINGS, read_forward
from nas_attn.errors import SpaceError


def take_out_own_se(net: nn.Module) -> tuple[str, ...]:
    """Take the squeeze-and-excitation out of a network of anybody's; return the paths of the parts with weights.

    A module becomes an Identity. A block that computes it among other things is run by the graph of its forward
    without these steps. All other names stay.

    Raises: SpaceError for a block with hooks, whose forward cannot be replaced.
    """
    parts = [*take_out_se(net)]
    found = own_se(net)
    for one in found:
        if one.is_module:
            put_module(net, one.block, nn.Identity())
            parts.append(one.block)
    for path in dict.fromkeys(one.block for one in found if not one.is_module):
        parts += _take_out(net, path)
    return tuple(parts)


def _take_out(net: nn.Module, path: str) -> list[str]:
    """Take out what a block computes itself; return the paths of its layers."""
    block = net.get_submodule(path)
    if has_hooks(block):
        raise SpaceError(
            f"The squeeze-and-excitation of block '{path}' cannot be taken out: the block has hooks of its own."
        )
    graph = read_forward(block, path)
    before = _children(graph)
    for product in list(products(graph, block)):
        steps = upstream(product.factor) - upstream(product.scaled)
        product.node.replace_all_uses_with(product.scaled)
        graph.erase_node(product.node)
        for step in reversed(graph.nodes):
            if step in steps and not step.users:
                graph.erase_node(step)
    graph.lint()
    opened = run_by(block, graph)
    if any(node.target == MODE for node in graph.nodes):
        opened.add_module(OPENINGS, nn.ModuleDict({"mode": Mode()}).train(block.training))
    put_module(net, path, opened)
    unused = [f"{path}.{child}" for child in before if child not in _children(graph)]
    for child in unused:
        put_module(net, child, nn.Identity())
    return unused


def _children(graph: fx.Graph) -> dict[str, None]:
    """Return the paths of the children that a graph runs."""
    return dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "call_module" and node.target != MODE)
