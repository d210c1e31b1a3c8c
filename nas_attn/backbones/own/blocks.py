"""Opens the residual blocks of a user's own network, and keeps those open that compute what they did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from nas_attn.backbones.own_network import as_before, run
from nas_attn.backbones.seams import SEAM_KINDS, has_seam, open_block
from nas_attn.backbones.sites import Passage
from nas_attn.errors import SpaceError

Opened = dict[str, fx.GraphModule]


def open_all(
    net: nn.Module, blocks: Sequence[str], passages: Mapping[str, Passage], refusals: dict[str, str]
) -> Opened:
    """Open every block of `net` that can be opened, and add to `refusals` what cannot be had.

    Args:
        passages: Of the blocks, with copies of what they were given.
        refusals: Why nothing can be inserted behind a module, by its path.
    """
    opened = {}
    for path in blocks:
        block = net.get_submodule(path)
        try:
            opened[path] = _open_one(block, path, passages[path], refusals.get(path))
        except SpaceError as error:
            _refuse(refusals, path, str(error).removesuffix("."))
            continue
        if not has_seam(opened[path], "pre"):
            refusals[f"{path}.pre"] = f"the shortcut of block '{path}' begins with what its branch begins with"
        if not has_seam(opened[path], "hidden"):
            refusals[f"{path}.hidden"] = f"the branch of block '{path}' does not end in a 1x1 of its own behind another"
    for path, block in opened.items():
        net.set_submodule(path, block)
    return opened


def close_harmful(
    net: nn.Module,
    opened: Opened,
    plain: Mapping[str, nn.Module],
    images: Tensor,
    expected: object,
    refusals: dict[str, str],
) -> None:
    """Put back the plain blocks of which the network uses more than their forward, and add to `refusals` why.

    Args:
        opened: The opened blocks, which lie in the network; those that are put back are left out.
        plain: The blocks as they were.
        expected: What the network gives with none open.
    """
    if _gives(net, images, expected):
        return
    for path in opened:
        net.set_submodule(path, plain[path])
    for path, block in list(opened.items()):
        net.set_submodule(path, block)
        if not _gives(net, images, expected):
            net.set_submodule(path, plain[path])
            del opened[path]
            _refuse(refusals, path, f"Block '{path}' cannot be opened: the network uses more of it than its forward")


def _refuse(refusals: dict[str, str], path: str, reason: str) -> None:
    for kind in SEAM_KINDS:
        refusals[f"{path}.{kind}"] = reason


def _gives(net: nn.Module, images: Tensor, expected: object) -> bool:
    try:
        with as_before(net):
            output = run(net, images)
    except SpaceError:
        return False
    return isinstance(output, Tensor) and isinstance(expected, Tensor) and torch.equal(output, expected)


def _open_one(block: nn.Module, path: str, passage: Passage, refusal: str | None) -> fx.GraphModule:
    """Return the opened block. Raises: SpaceError if it cannot be opened, or computes something else then."""
    if refusal is None and passage.given is None:
        refusal = "it must take one tensor"
    if refusal is not None:
        raise SpaceError(f"Block '{path}' cannot be opened: {refusal}.")
    opened = open_block(block, path)
    assert passage.given is not None, "checked above"
    for training in (False, True):
        plain, again = (_run(module, passage.given, training) for module in (block, opened))
        if not all(torch.equal(*pair) for pair in zip(plain, again, strict=True)):
            raise SpaceError(f"Block '{path}' cannot be opened: it would compute something else then.")
    return opened


def _run(block: nn.Module, given: Tensor, training: bool) -> tuple[Tensor, Tensor]:
    """Return the block's output in this mode, and its input afterwards; random numbers and buffers are as before."""
    block.train(training)
    given = given.clone()
    with as_before(block), torch.no_grad():
        output: Tensor = block(given)
    block.eval()
    return output, given
