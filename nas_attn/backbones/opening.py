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

from nas_attn.backbones.modules import plain_attributes
from nas_attn.backbones.tracing import Tracer, read_forward, refusal

OPENINGS = "attention_openings"
OPENING_KINDS = ("pre", "hidden", "branch", "shortcut", "merge")
EDGES = (*OPENING_KINDS, "output")
"""All openings: `output` is one too, since the hooks of a block are not copied to the opened block."""

_WRITING = (operator.iadd, "add_")
_ADDITIONS = (operator.add, torch.add, "add", *_WRITING)
_DROPPED_BRANCHES = ("StochasticDepth", "DropPath")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)


class Join(nn.Module):
    """Add a residual block's branch to its shortcut, out of place.

    Shape: two of (N, C, H, W) -> the same.
    """

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """Return the sum."""
        return branch + shortcut


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
    return _opened(block, block.graph)


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
    add = _only_addition(graph, name)
    shortcut, branch = _by_depth(add, block, name)
    _refuse_overwriting(add, name)
    n_shortcut = add.args.index(shortcut)
    edges = _edges(graph, add, shortcut, branch, block)
    openings: dict[str, nn.Module] = {kind: nn.Identity() for kind in edges if kind in kinds}
    for kind in openings:
        _put_opening(graph, kind, edges[kind])
    if "merge" in kinds:
        openings["merge"] = Join()
        _put_join(graph, add, n_shortcut)
    elif add.target in _WRITING and ("branch" if n_shortcut else "shortcut") in openings:
        _add_out_of_place(graph, add)
    graph.lint()
    opened = _opened(block, graph)
    opened.add_module(OPENINGS, nn.ModuleDict(openings).train(block.training))
    return opened


def opening_path(module: str, kind: str) -> str:
    """Return the path of an opening in the opened block at path `module`."""
    return f"{module}.{OPENINGS}.{kind}"


def has_opening(block: nn.Module, kind: str) -> bool:
    """Return whether `block` is opened and has an opening of this kind."""
    openings = getattr(block, OPENINGS, None)
    return isinstance(openings, nn.ModuleDict) and kind in openings


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module has hooks of its own: in a changed module they would see other tensors, or none."""
    return any(getattr(module, hooks) for hooks in _HOOKS)


def may_open(module: nn.Module) -> bool:
    """Return whether this may be a residual block: it has children and a forward of its own, not a Sequential's."""
    in_turn = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    has_forward = type(module).forward is not nn.Module.forward
    return has_forward and not in_turn and any(True for _ in module.children())


def _only_addition(graph: fx.Graph, name: str) -> fx.Node:
    """Return the one addition whose two operands both depend on the block's only input."""
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
        and not node.kwargs
        and all(isinstance(operand, fx.Node) and operand in from_input for operand in node.args)
    ]
    if len(additions) != 1:
        count = "no addition" if not additions else f"{len(additions)} additions"
        raise refusal(name, f"its forward has {count} of a branch and a shortcut, and one is needed")
    return additions[0]


def _by_depth(add: fx.Node, block: nn.Module, name: str) -> tuple[fx.Node, fx.Node]:
    """Return the operands of the addition: first the shortcut, which has fewer convolutions before it."""
    first, second = (operand for operand in add.args if isinstance(operand, fx.Node))
    n_first, n_second = (_n_convolutions(operand, block) for operand in (first, second))
    if n_first == n_second:
        reason = f"both sides of its addition lie behind {n_first} convolutions, so neither is the shortcut"
        raise refusal(name, reason)
    return (first, second) if n_first < n_second else (second, first)


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
    to_branch, to_shortcut = _upstream(branch), _upstream(shortcut)
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
    """Return the branch's last convolution if it is 1x1 and another convolution precedes it."""
    steps = _upstream(branch)
    last = next((node for node in reversed(graph.nodes) if node in steps and _is_conv(node, block)), None)
    if last is None or len(last.all_input_nodes) != 1:
        return None
    conv = block.get_submodule(str(last.target))
    is_1x1 = isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1)
    return last if is_1x1 and _n_convolutions(last.all_input_nodes[0], block) else None


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
    if type(block.get_submodule(str(branch.target))).__name__ not in _DROPPED_BRANCHES:
        return branch, add
    return branch.all_input_nodes[0], branch


def _is_conv(node: fx.Node, block: nn.Module) -> bool:
    return node.op == "call_module" and _n_convolutions_in(block.get_submodule(str(node.target))) > 0


def _opened(block: nn.Module, graph: fx.Graph) -> Opened:
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


def _upstream(node: fx.Node) -> set[fx.Node]:
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


def _n_convolutions(node: fx.Node, block: nn.Module) -> int:
    """Count the convolutions between the block's input and `node`."""
    count = 0
    for found in _upstream(node):
        if found.op == "call_module":
            count += _n_convolutions_in(block.get_submodule(str(found.target)))
        elif found.target in (F.conv2d, torch.conv2d):
            count += 1
    return count


def _n_convolutions_in(module: nn.Module) -> int:
    return sum(isinstance(child, _CONVOLUTIONS) for child in module.modules())
