"""Opens a residual block, so that a module can be inserted between the steps of its forward.

A hook on a block sees its input and its output only. An opened block is run by the graph of its own forward, and this
graph has *openings*: modules without parameters before and after the residual branch, on the shortcut, in place of the
addition, and before the branch's last 1x1 convolution.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from nas_attn.backbones.modules import has_hooks, plain_attributes
from nas_attn.backbones.own_se import products, scales_itself
from nas_attn.backbones.tracing import MODE, OPENINGS, Tracer, read_forward, refusal

OPENING_KINDS = ("pre", "hidden", "branch", "shortcut", "merge")
EDGES = (*OPENING_KINDS, "output")
"""All openings: `output` is one too, since the hooks of a block are not copied to the opened block."""

_WRITING = (operator.iadd, "add_")
_ADDITIONS = (operator.add, torch.add, "add", *_WRITING)
_PRODUCTS = (operator.mul, torch.mul, "mul", operator.imul, "mul_")
_DROPPED_BRANCHES = ("StochasticDepth", "DropPath")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Join(nn.Module):
    """Add a residual block's branch to its shortcut, out of place.

    Args:
        first: `branch` or `shortcut`: the operand that the block's author wrote first. The sum has the strides of the
            first operand where the two differ.

    Shape: two of (N, C, H, W) -> the same.
    """

    def __init__(self, first: str = "branch") -> None:
        super().__init__()
        self.first = first

    def extra_repr(self) -> str:
        """Return the order of the operands."""
        return f"first={self.first!r}"

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """Return the sum."""
        return branch + shortcut if self.first == "branch" else shortcut + branch


class Mode(nn.Module):
    """Tell the steps of an opened block whether it is trained."""

    def forward(self) -> bool:
        """Return whether this module, and so its block, is in training mode."""
        return self.training


class Opened(fx.GraphModule):
    """A block that is run by its graph.

    Departs: a copy or pickle of torch's `GraphModule` keeps tensors and children only; here it keeps all attributes.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Opened:
        copied = super().__deepcopy__(memo)
        assert isinstance(copied, Opened), f"a copy must be opened too, but is {type(copied).__name__}"
        vars(copied).update(copy.deepcopy(plain_attributes(self), memo))
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        restore, arguments = super().__reduce__()
        return _restored, (restore, arguments)


def _restored(restore: Callable[..., fx.GraphModule], arguments: tuple[Any, ...]) -> Opened:
    """Return an opened block from its pickle: torch stores the code of its graph and traces that again."""
    block = restore(*arguments)
    return run_by(block, block.graph)


class _Edge(NamedTuple):
    """An edge of a block's graph where an opening can be inserted.

    Args:
        source: Node whose result is the input of the opening.
        readers: Nodes that read the output of the opening.
        before: Node before which the opening is inserted.
    """

    source: fx.Node
    readers: list[fx.Node]
    before: fx.Node


def open_block(block: nn.Module, name: str, kinds: Collection[str] = EDGES) -> Opened:
    """Return the block with openings; its outputs and the names of its weights stay the same.

    The openings are children of `attention_openings`: `pre` (if the branch starts apart from the shortcut), `hidden`
    (if the branch ends in a 1x1 convolution that is a child of the block), `branch`, `shortcut` and `output`, each an
    Identity, and `merge`, a Join. An addition in place stays in place, unless a module may be inserted at the tensor
    that it overwrites. The children are shared with `block`: do not train both.

    The forward is traced once. Other methods of the block are lost, and a plain number that the forward reads becomes
    a constant.

    Args:
        name: Path of the block, for messages.
        kinds: Requested openings; those that the block cannot have are left out.
    Raises: SpaceError with the reason if the block cannot be opened.
    """
    if has_hooks(block):
        raise refusal(name, "it has hooks of its own")
    if type(block).get_extra_state is not nn.Module.get_extra_state:
        raise refusal(name, "its state is more than tensors")
    graph = read_forward(block, name)
    add = _only_addition(graph, block, name)
    shortcut, branch = _by_depth(add, block, name)
    _refuse_overwriting(add, name)
    n_shortcut = add.args.index(shortcut)
    edges = _edges(graph, add, shortcut, branch, block)
    openings: dict[str, nn.Module] = {kind: nn.Identity() for kind in edges if kind in kinds}
    for kind in openings:
        _put_opening(graph, kind, edges[kind])
    if any(node.target == MODE for node in graph.nodes):
        openings["mode"] = Mode()
    if "merge" in kinds:
        openings["merge"] = Join("branch" if n_shortcut else "shortcut")
        _put_join(graph, add, n_shortcut)
    elif add.target in _WRITING and ("branch" if n_shortcut else "shortcut") in openings:
        _add_out_of_place(graph, add)
    graph.lint()
    opened = run_by(block, graph)
    opened.add_module(OPENINGS, nn.ModuleDict(openings).train(block.training))
    return opened


def opening_path(module: str, kind: str) -> str:
    """Return the path of an opening in the opened block at path `module`."""
    return f"{module}.{OPENINGS}.{kind}"


def has_opening(block: nn.Module, kind: str) -> bool:
    """Return whether `block` is opened and has an opening of this kind."""
    openings = getattr(block, OPENINGS, None)
    return isinstance(openings, nn.ModuleDict) and kind in openings


def may_open(module: nn.Module) -> bool:
    """Return whether this may be a residual block: it has children and a forward of its own, not a Sequential's."""
    in_turn = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    has_forward = type(module).forward is not nn.Module.forward
    return has_forward and not in_turn and any(True for _ in module.children())


def _only_addition(graph: fx.Graph, block: nn.Module, name: str) -> fx.Node:
    """Return the addition whose operands both depend on the block's only input; of several, that of the whole branch.

    For instance, the branch of a Res2Net block adds the parts of its map.
    """
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    output = next(node for node in graph.nodes if node.op == "output")
    if len(inputs) != 1 or not isinstance(output.args[0], fx.Node):
        raise refusal(name, "it must take one tensor and return one tensor")
    from_input = _downstream(inputs[0])
    additions: list[fx.Node] = [
        node
        for node in graph.nodes
        if node.target in _ADDITIONS
        and len(node.args) == 2
        and node.kwargs in ({}, {"alpha": 1})
        and all(isinstance(operand, fx.Node) and operand in from_input for operand in node.args)
    ]
    outer = [node for node in additions if _holds_all(node, additions, block)]
    if len(outer) != 1:
        count = "no addition" if not additions else f"{len(additions)} additions"
        raise refusal(name, f"its forward has {count} of a branch and a shortcut, and one is needed")
    return outer[0]


def _holds_all(add: fx.Node, additions: list[fx.Node], block: nn.Module) -> bool:
    """Return whether all other additions lie in the branch of this one."""
    others = {node for node in additions if node is not add}
    if not others:
        return True
    first, second = sorted(add.all_input_nodes, key=lambda operand: _n_layers(operand, block))[:2]
    return others <= upstream(second) and not others & upstream(first)


def _by_depth(add: fx.Node, block: nn.Module, name: str) -> tuple[fx.Node, fx.Node]:
    """Return the operands of the addition: first the shortcut, which has fewer convolutions before it.

    Without a convolution on either side, it is the operand without any layer.
    """
    first, second = (operand for operand in add.args if isinstance(operand, fx.Node))
    one, other = (_n_layers(operand, block) for operand in (first, second))
    if one[0] == other[0] and (one[1] == other[1] or min(one[1], other[1])):
        reason = f"both sides of its addition lie behind {one[0]} convolutions, so neither is the shortcut"
        raise refusal(name, reason)
    return (first, second) if one < other else (second, first)


def _refuse_overwriting(add: fx.Node, name: str) -> None:
    """Refuse an addition in place whose target is read again: with an opening there, it would be out of place."""
    target = add.args[0]
    assert isinstance(target, fx.Node), "an addition has two nodes"
    if add.target not in _WRITING:
        return
    users = list(target.users)
    if target.op == "placeholder" or any(user > add for user in users):
        raise refusal(name, "its addition overwrites a tensor that is read again")


def _pre_users(block_input: fx.Node, branch: fx.Node, shortcut: fx.Node) -> list[fx.Node]:
    """Return the readers of the block's input that belong to the branch alone; none if the shortcut shares one."""
    to_branch, to_shortcut = upstream(branch), upstream(shortcut)
    users = [user for user in block_input.users if user in to_branch]
    return [] if any(user in to_shortcut for user in users) else users


def _edges(graph: fx.Graph, add: fx.Node, shortcut: fx.Node, branch: fx.Node, block: nn.Module) -> dict[str, _Edge]:
    """Return the edges of the block by kind, in the order of the data flow, without the addition."""
    block_input = next(node for node in graph.nodes if node.op == "placeholder")
    output = next(node for node in graph.nodes if node.op == "output")
    edges = {}
    starts = _pre_users(block_input, branch, shortcut)
    if starts:
        edges["pre"] = _Edge(block_input, starts, block_input.next)
    last = _last_1x1(graph, branch, block)
    if last is not None:
        edges["hidden"] = _Edge(last.all_input_nodes[0], [last], last)
    end, reader = _without_drop(add, branch, block)
    edges["branch"] = _Edge(end, [reader], reader)
    edges["shortcut"] = _Edge(shortcut, [add], add)
    edges["output"] = _Edge(output.all_input_nodes[0], [output], output)
    return edges


def _last_1x1(graph: fx.Graph, branch: fx.Node, block: nn.Module) -> fx.Node | None:
    """Return the branch's last convolution if it is 1x1, another one precedes it, and the whole branch passes it.

    The convolutions of a gate, such as those of the block's own squeeze-and-excitation, are none of the branch.
    """
    steps = upstream(branch) - _gates(branch, block)
    convolutions = [node for node in graph.nodes if node in steps and _is_conv(node, block)]
    if not convolutions or len(convolutions[-1].all_input_nodes) != 1 or not _passes(branch, convolutions[-1], block):
        return None
    last = convolutions[-1]
    conv = _child(block, last)
    is_1x1 = isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1)
    return last if is_1x1 and _n_layers(last.all_input_nodes[0], block)[0] else None


def _gates(end: fx.Node, block: nn.Module) -> set[fx.Node]:
    """Return the nodes before `end` that only compute a factor by which the map that it is made of is multiplied."""
    steps, found = upstream(end), set()
    for own in products(end.graph, block):
        found |= upstream(own.factor) - upstream(own.scaled)
    maps: dict[fx.Node, list[fx.Node]] = {}  # product -> the map before each of the factors so far
    for product in (node for node in end.graph.nodes if node in steps and node.target in _PRODUCTS):
        operands = [operand for operand in product.args if isinstance(operand, fx.Node)]
        for scaled, factor in (operands, operands[::-1]) if len(operands) == 2 else ():
            base = next((node for node in (scaled, *maps.get(scaled, ())) if node in upstream(factor)), None)
            if base is not None and scaled is not factor:
                found |= upstream(factor) - upstream(base)
                maps[product] = [scaled, *maps.get(scaled, ())]
                break
    return found


def _passes(end: fx.Node, node: fx.Node, block: nn.Module) -> bool:
    """Return whether every way from the input to `end`, but for those through gates, leads through `node`."""
    closed = {node, *_gates(end, block)}
    ways = _closure(end, lambda found: [] if found in closed else found.all_input_nodes)
    return not any(found.op == "placeholder" for found in ways)


def _put_opening(graph: fx.Graph, kind: str, edge: _Edge) -> None:
    """Insert the call of an opening on an edge."""
    with graph.inserting_before(edge.before):
        opening = graph.call_module(f"{OPENINGS}.{kind}", (edge.source,))
    for reader in edge.readers:
        reader.replace_input_with(edge.source, opening)


def _put_join(graph: fx.Graph, add: fx.Node, n_shortcut: int) -> None:
    """Replace the addition by the call of a Join; `n_shortcut` is the index of its operand that is the shortcut."""
    with graph.inserting_before(add):
        merged = graph.call_module(f"{OPENINGS}.merge", (add.args[1 - n_shortcut], add.args[n_shortcut]))
    add.replace_all_uses_with(merged)
    graph.erase_node(add)


def _add_out_of_place(graph: fx.Graph, add: fx.Node) -> None:
    """Replace an addition in place by one out of place."""
    with graph.inserting_before(add):
        added = graph.call_function(operator.add, add.args)
    add.replace_all_uses_with(added)
    graph.erase_node(add)


def _without_drop(add: fx.Node, branch: fx.Node, block: nn.Module) -> tuple[fx.Node, fx.Node]:
    """Return the end of the branch and its reader; a module for stochastic depth at the end does not count."""
    if branch.op != "call_module" or len(branch.all_input_nodes) != 1:
        return branch, add
    if type(_child(block, branch)).__name__ not in _DROPPED_BRANCHES:
        return branch, add
    return branch.all_input_nodes[0], branch


def _child(block: nn.Module, node: fx.Node) -> nn.Module | None:
    """Return the child of the block that a node runs, if it runs one."""
    if node.op != "call_module" or node.target == MODE:
        return None
    return block.get_submodule(str(node.target))


def _is_conv(node: fx.Node, block: nn.Module) -> bool:
    """Return whether a node is a convolution of the block or holds one; squeeze-and-excitation of its own is none."""
    child = _child(block, node)
    return child is not None and _n_convolutions_in(child) > 0 and not scales_itself(child)


def run_by(block: nn.Module, graph: fx.Graph) -> Opened:
    """Return a module that runs `graph` and has the attributes, parameters, buffers and children of the block."""
    opened = Opened(nn.Module(), fx.Graph(tracer_cls=Tracer), type(block).__name__)
    vars(opened).update(plain_attributes(block))
    for key in ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"):
        vars(opened)[key] = vars(block)[key].copy()
    opened.graph = graph
    return opened


def _downstream(node: fx.Node) -> set[fx.Node]:
    """Return the node and all nodes that depend on it."""
    return _closure(node, lambda found: list(found.users))


def upstream(node: fx.Node) -> set[fx.Node]:
    """Return the node and all nodes that it depends on."""
    return _closure(node, lambda found: found.all_input_nodes)


def _closure(node: fx.Node, step: Callable[[fx.Node], list[fx.Node]]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += step(current)
    return found


def _n_layers(node: fx.Node, block: nn.Module) -> tuple[int, int]:
    """Count the convolutions between the block's input and `node`, and the children with weights."""
    n_convolutions = n_children = 0
    for found in upstream(node):
        child = _child(block, found)
        if child is not None:
            n_convolutions += _n_convolutions_in(child)
            n_children += any(True for _ in child.parameters())
        elif found.target in (F.conv2d, torch.conv2d):
            n_convolutions += 1
    return n_convolutions, n_children


def _n_convolutions_in(module: nn.Module) -> int:
    return sum(isinstance(child, _CONVOLUTIONS) for child in module.modules())
