"""Opens a residual block at its edges: before and after its branch, on its shortcut, and after the addition."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from nas_attn.errors import SpaceError, first_line

SEAMS = "attention_seams"
SEAM_KINDS = ("pre", "hidden", "branch", "shortcut", "merge")

_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_DROPPED_BRANCHES = ("StochasticDepth", "DropPath")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Join(nn.Module):
    """Adds a residual block's branch to its shortcut, out of place."""

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """Return the sum. Shape: two of (N, C, H, W) -> the same."""
        return branch + shortcut


class _Leaves(fx.Tracer):
    """Reads a block's own forward only: each of its children is one step."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def open_block(block: nn.Module, name: str) -> fx.GraphModule:
    """Return the block with parameter-free seams on its edges; it computes what it did, under the same names.

    The seams lie under the child `attention_seams`: `pre` (where the branch alone can be reached), `hidden` (where the
    branch's last convolution is a 1x1 of the block's own), `branch`, `shortcut` and `output`, each an Identity, and
    `merge`, a Join. The children are shared with `block`, which must not be used beside the opened one in training.

    Raises: SpaceError that says why the block cannot be opened; nothing is guessed.
    """
    if has_hooks(block):
        raise _refusal(name, "it has hooks of its own")
    graph = _traced(block, name)
    add = _only_addition(graph, name)
    shortcut, branch = _by_depth(add, block, name)
    _refuse_overwriting(add, name)
    pre_users = _pre_users(graph, branch, shortcut)
    seams: dict[str, nn.Module] = {"pre": nn.Identity()} if pre_users else {}
    if _insert_hidden(graph, branch, block):
        seams["hidden"] = nn.Identity()
    seams |= {"branch": nn.Identity(), "shortcut": nn.Identity(), "merge": Join(), "output": nn.Identity()}
    _insert_seams(graph, add, shortcut, _without_drop(add, branch, block), pre_users)
    return _graph_module(block, graph, nn.ModuleDict(seams))


def seam_path(module: str, kind: str) -> str:
    """Return the path of a seam in the opened block at `module`."""
    return f"{module}.{SEAMS}.{kind}"


def has_seam(block: nn.Module, kind: str) -> bool:
    """Tell whether this is an opened block with a seam of this kind."""
    seams = getattr(block, SEAMS, None)
    return isinstance(seams, nn.ModuleDict) and kind in seams


def has_hooks(module: nn.Module) -> bool:
    """Tell whether a module has hooks of its own, which would see other tensors, or none, once it is changed."""
    return any(getattr(module, hooks) for hooks in _HOOKS)


def may_open(module: nn.Module) -> bool:
    """Tell whether this may be a residual block: it has children, and more to say than to run them in turn."""
    in_turn = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    has_forward = type(module).forward is not nn.Module.forward
    return has_forward and not in_turn and any(True for _ in module.children())


def _refusal(name: str, reason: str) -> SpaceError:
    return SpaceError(f"Block '{name}' cannot be opened: {reason}.")


def _traced(block: nn.Module, name: str) -> fx.Graph:
    """Read the block's forward in both modes. The block's own flag is set only: its children are leaves."""
    mode = block.training
    graphs = []
    try:
        for training in (True, False):
            block.training = training
            graphs.append(_Leaves().trace(block))
    except Exception as error:  # the forward is the user's: run on symbols, it may raise anything
        raise _refusal(name, f"its forward depends on the values that pass it ({first_line(error)})") from error
    finally:
        block.training = mode
    if any("_tensor_constant" in str(node.target) for graph in graphs for node in graph.nodes):
        raise _refusal(name, "its forward makes a tensor of its own")
    if str(graphs[0]) != str(graphs[1]):
        raise _refusal(name, "its forward reads self.training")
    return graphs[0]


def _only_addition(graph: fx.Graph, name: str) -> fx.Node:
    """Return the one addition whose two operands both come from the block's only input."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    output = next(node for node in graph.nodes if node.op == "output")
    if len(inputs) != 1 or not isinstance(output.args[0], fx.Node):
        raise _refusal(name, "it must take one tensor and return one tensor")
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
        raise _refusal(name, f"its forward has {count} of a branch and a shortcut, and one is needed")
    return additions[0]


def _by_depth(add: fx.Node, block: nn.Module, name: str) -> tuple[fx.Node, fx.Node]:
    """Return the addition's operands, the one behind fewer convolutions (the shortcut) first."""
    first, second = (operand for operand in add.args if isinstance(operand, fx.Node))
    n_first, n_second = (_n_convolutions(operand, block) for operand in (first, second))
    if n_first == n_second:
        reason = f"both sides of its addition lie behind {n_first} convolutions, so neither is the shortcut"
        raise _refusal(name, reason)
    return (first, second) if n_first < n_second else (second, first)


def _refuse_overwriting(add: fx.Node, name: str) -> None:
    """Refuse an in-place addition whose target is read again: the seam adds out of place.

    A trace shows `add_`; it takes `+=` for an ordinary addition, so that the survey of a network compares values too.
    """
    target = add.args[0]
    assert isinstance(target, fx.Node), "an addition has two nodes"
    if add.target not in (operator.iadd, "add_"):
        return
    users = list(target.users)
    if target.op == "placeholder" or any(user > add for user in users):
        raise _refusal(name, "its addition writes over a tensor that is read again")


def _pre_users(graph: fx.Graph, branch: fx.Node, shortcut: fx.Node) -> list[fx.Node]:
    """Return the readers of the block's input that lead to the branch alone; none if the shortcut shares one."""
    block_input = next(node for node in graph.nodes if node.op == "placeholder")
    to_branch, to_shortcut = _upstream(branch), _upstream(shortcut)
    users = [user for user in block_input.users if user in to_branch]
    return [] if any(user in to_shortcut for user in users) else users


def _without_drop(add: fx.Node, branch: fx.Node, block: nn.Module) -> tuple[fx.Node, fx.Node]:
    """Return the branch's end and what reads it, before a module that drops whole branches at random."""
    if branch.op != "call_module" or len(branch.all_input_nodes) != 1:
        return branch, add
    if type(block.get_submodule(str(branch.target))).__name__ not in _DROPPED_BRANCHES:
        return branch, add
    return branch.all_input_nodes[0], branch


def _insert_seams(
    graph: fx.Graph,
    add: fx.Node,
    shortcut: fx.Node,
    branch: tuple[fx.Node, fx.Node],
    pre_users: list[fx.Node],
) -> None:
    """Put a step on each edge: `branch` is the branch's end and its reader."""
    end, reader = branch
    with graph.inserting_before(reader):
        at_branch = graph.call_module(f"{SEAMS}.branch", (end,))
    reader.replace_input_with(end, at_branch)
    with graph.inserting_before(add):
        at_shortcut = graph.call_module(f"{SEAMS}.shortcut", (shortcut,))
        merged_branch = next(node for node in add.all_input_nodes if node is not shortcut)
        merged = graph.call_module(f"{SEAMS}.merge", (merged_branch, at_shortcut))
    add.replace_all_uses_with(merged)
    graph.erase_node(add)
    output = next(node for node in graph.nodes if node.op == "output")
    for result in output.all_input_nodes:
        with graph.inserting_before(output):
            at_output = graph.call_module(f"{SEAMS}.output", (result,))
        output.replace_input_with(result, at_output)
    if pre_users:
        block_input = next(node for node in graph.nodes if node.op == "placeholder")
        with graph.inserting_after(block_input):
            at_pre = graph.call_module(f"{SEAMS}.pre", (block_input,))
        for user in pre_users:
            user.replace_input_with(block_input, at_pre)
    graph.lint()


def _insert_hidden(graph: fx.Graph, branch: fx.Node, block: nn.Module) -> bool:
    """Put a step before the branch's last convolution if that is a 1x1 behind another one; tell whether it was."""
    last = next((node for node in reversed(graph.nodes) if node in _upstream(branch) and _is_conv(node, block)), None)
    if last is None or len(last.all_input_nodes) != 1:
        return False
    entered = last.all_input_nodes[0]
    conv = block.get_submodule(str(last.target))
    if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (1, 1) or not _n_convolutions(entered, block):
        return False
    with graph.inserting_before(last):
        at_hidden = graph.call_module(f"{SEAMS}.hidden", (entered,))
    last.replace_input_with(entered, at_hidden)
    return True


def _is_conv(node: fx.Node, block: nn.Module) -> bool:
    return node.op == "call_module" and _n_convolutions_in(block.get_submodule(str(node.target))) > 0


def _graph_module(block: nn.Module, graph: fx.Graph, seams: nn.ModuleDict) -> fx.GraphModule:
    """Return a module that runs `graph` and holds everything that the block holds, in the block's order."""
    opened = fx.GraphModule(nn.Module(), fx.Graph(), type(block).__name__)
    for key, value in block.__dict__.items():
        if not key.startswith("_"):
            opened.__dict__[key] = value
    for key in ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"):
        opened.__dict__[key] = block.__dict__[key].copy()
    opened.add_module(SEAMS, seams.train(block.training))
    opened.graph = graph
    return opened


def _downstream(node: fx.Node) -> set[fx.Node]:
    """Return the node and all that is computed from it."""
    return _closure(node, lambda found: list(found.users))


def _upstream(node: fx.Node) -> set[fx.Node]:
    """Return the node and all that it is computed from."""
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
