"""Opens the residual blocks of a user's own network, and keeps those open that compute what they did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nas_attn.backbones.modules import put_module
from nas_attn.backbones.opening import OPENING_KINDS, Opened, has_opening, open_block, opening_path
from nas_attn.backbones.passes import Passage, watched
from nas_attn.backbones.survey.effects import gives, same
from nas_attn.backbones.survey.swaps import Sighting
from nas_attn.backbones.tracing import refusal
from nas_attn.backbones.user_network import as_before
from nas_attn.errors import SpaceError, first_line

_NOT_ALONE = "the network uses more of it than its forward, or reaches it by another way than its name"


def open_all(
    net: nn.Module, blocks: Sequence[str], passages: Mapping[str, Passage], refusals: dict[str, str]
) -> dict[str, Opened]:
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
            _refuse(refusals, path, error)
            continue
        if not has_opening(opened[path], "pre"):
            refusals[f"{path}.pre"] = f"the shortcut of block '{path}' begins with what its branch begins with"
        if not has_opening(opened[path], "hidden"):
            refusals[f"{path}.hidden"] = f"the branch of block '{path}' does not end in a 1x1 of its own behind another"
    for path, block in opened.items():
        put_module(net, path, block)
    return opened


def close_harmful(
    net: nn.Module,
    opened: dict[str, Opened],
    plain: Mapping[str, nn.Module],
    images: Tensor,
    sightings: Sequence[Sighting],
    refusals: dict[str, str],
) -> None:
    """Put back the plain blocks of which the network uses more, or less, than their forward; add to `refusals` why.

    A block that it keeps in a list of its own is run as it was, for instance.

    Args:
        opened: The opened blocks, which lie in the network; those that are put back are left out.
        plain: The blocks as they were.
        sightings: Of the network with none open.
    """
    if _works(net, list(opened), images, sightings):
        return
    for path in opened:
        put_module(net, path, plain[path])
    for path, block in list(opened.items()):
        put_module(net, path, block)
        if not _works(net, [path], images, sightings):
            put_module(net, path, plain[path])
            del opened[path]
            _refuse(refusals, path, refusal(path, _NOT_ALONE))


def _refuse(refusals: dict[str, str], path: str, error: SpaceError) -> None:
    for kind in OPENING_KINDS:
        refusals[f"{path}.{kind}"] = str(error).removesuffix(".")


def _works(net: nn.Module, paths: Sequence[str], images: Tensor, sightings: Sequence[Sighting]) -> bool:
    """Tell whether the network gives what it did, and runs the opened blocks that lie at these paths."""
    with watched(net, [opening_path(path, "output") for path in paths]) as passages:
        return gives(net, images, sightings) and all(passage.calls for passage in passages.values())


def _open_one(block: nn.Module, path: str, passage: Passage, reason: str | None) -> Opened:
    """Return the opened block. Raises: SpaceError if it cannot be opened, or computes something else then."""
    if reason is None and passage.given is None:
        reason = "it must take one tensor"
    if reason is not None:
        raise refusal(path, reason)
    opened = open_block(block, path)
    assert passage.given is not None, "checked above"
    for training in (False, True):
        try:
            plain, again = (_run(module, passage.given, training) for module in (block, opened))
        except Exception as error:  # alone, the user's block may raise anything
            raise refusal(path, f"it does not run on its own ({first_line(error)})") from error
        if not all(map(same, plain, again)):
            raise refusal(path, "it would compute something else then")
    return opened


def _run(block: nn.Module, given: Tensor, training: bool) -> tuple[Tensor, Tensor]:
    """Return the block's output in this mode, and its input afterwards; random numbers and buffers are as before."""
    given = given.clone()
    block.train(training)
    try:
        with as_before(block), torch.no_grad():
            output: Tensor = block(given)
    finally:
        block.eval()
    return output, given
