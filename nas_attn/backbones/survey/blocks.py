"""Opens the residual blocks of a network and closes those whose opening changes its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from nas_attn.backbones.modules import put_module
from nas_attn.backbones.opening import OPENING_KINDS, Opened, has_opening, open_block, opening_path
from nas_attn.backbones.passes import Passage, watched
from nas_attn.backbones.survey.effects import is_unchanged, same
from nas_attn.backbones.survey.first_passes import FirstPasses
from nas_attn.backbones.survey.swaps import Sighting
from nas_attn.backbones.tracing import refusal
from nas_attn.backbones.user_network import as_before
from nas_attn.errors import SpaceError, first_line

_NOT_ALONE = "the network uses more of it than its forward, or does not call it by its name"


_NO_ADDITION = "it adds no branch to a shortcut when it runs"


def open_all(net: nn.Module, blocks: Sequence[str], first: FirstPasses, refusals: dict[str, str]) -> dict[str, Opened]:
    """Return every block that can be opened, opened, and add the sites that do not exist to `refusals`.

    Args:
        refusals: Reasons why a module's output is no site, by its path.
    """
    opened = {}
    for path in blocks:
        reason = refusals.get(path) or (None if first.passages[path].is_alone else "it must take one tensor")
        try:
            if reason is not None or path not in first.adding:
                raise refusal(path, reason or _NO_ADDITION)
            opened[path] = open_block(net.get_submodule(path), path)
        except SpaceError as error:
            _refuse(refusals, path, error)
            continue
        if not has_opening(opened[path], "pre"):
            refusals[f"{path}.pre"] = f"the shortcut of block '{path}' begins with what its branch begins with"
        if not has_opening(opened[path], "hidden"):
            refusals[f"{path}.hidden"] = f"the branch of block '{path}' does not end in a 1x1 of its own behind another"
    return opened


def close_unequal(
    opened: dict[str, Opened], plain: Mapping[str, nn.Module], passages: Mapping[str, Passage], refusals: dict[str, str]
) -> None:
    """Remove the opened blocks whose outputs differ from those of the original blocks, when each runs alone.

    Args:
        passages: Of the original blocks, with copies of their inputs.
    """
    for path in list(opened):
        try:
            _check_alone(plain[path], opened[path], path, passages[path])
        except SpaceError as error:
            del opened[path]
            _refuse(refusals, path, error)


def close_harmful(
    net: nn.Module,
    opened: dict[str, Opened],
    plain: Mapping[str, nn.Module],
    images: Tensor,
    sightings: Sequence[Sighting],
    refusals: dict[str, str],
) -> None:
    """Open the blocks in the network, but for those whose opening changes its outputs or is never run.

    For instance, a block in a plain Python list is run as it was: replacing it under its name has no effect.

    Args:
        opened: The opened blocks, which are put in the network; restored blocks are removed from it.
        plain: The original blocks.
        sightings: Of the original network.
    """
    for path, block in opened.items():
        put_module(net, path, block)
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


def refuse_calls(refusals: dict[str, str], paths: Iterable[str]) -> None:
    """Refuse the openings of blocks that the network does not call by their names."""
    for path in paths:
        _refuse(refusals, path, refusal(path, _NOT_ALONE))


def _refuse(refusals: dict[str, str], path: str, error: SpaceError) -> None:
    for kind in OPENING_KINDS:
        refusals[f"{path}.{kind}"] = str(error).removesuffix(".")


def _works(net: nn.Module, paths: Sequence[str], images: Tensor, sightings: Sequence[Sighting]) -> bool:
    """Return whether the outputs of the network are unchanged and the opened blocks at these paths are run."""
    with watched(net, [opening_path(path, "output") for path in paths]) as passages:
        return is_unchanged(net, images, sightings) and all(passage.calls for passage in passages.values())


def _check_alone(block: nn.Module, opened: Opened, path: str, passage: Passage) -> None:
    """Run a block as it was and opened. Raises: SpaceError if it does not run, or its outputs would change."""
    assert passage.input_copy is not None, "an opened block takes one tensor"
    for training in (False, True):
        try:
            plain, again = (_run(module, passage.input_copy, training) for module in (block, opened))
        except Exception as error:  # the user's block may raise anything when it runs alone
            raise refusal(path, f"it does not run on its own ({first_line(error)})") from error
        if not all(map(same, plain, again)) or plain[0].stride() != again[0].stride():
            raise refusal(path, "its outputs would change")


def _run(block: nn.Module, maps: Tensor, training: bool) -> tuple[Tensor, Tensor]:
    """Return the block's output in this mode, and its input afterwards; generators and buffers are restored."""
    maps = maps.clone()
    block.train(training)
    try:
        with as_before(block), torch.no_grad():
            output: Tensor = block(maps)
    finally:
        block.eval()
    return output, maps
