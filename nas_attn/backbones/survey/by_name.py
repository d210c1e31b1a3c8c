"""Finds parts of a user's blocks that run otherwise than by their name, such as from a list or a function.

The graph of an opened block calls every part by its name, but the forward of a closed block does as it likes: what is
put in place of such a part would run in placements that open the block, and in no others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack

from torch import Tensor, nn

from nas_attn.backbones.survey.effects import stood_in
from nas_attn.backbones.tracing import is_of_library
from nas_attn.backbones.user_network import as_before, run
from nas_attn.errors import SpaceError


def called_otherwise(net: nn.Module, known: Sequence[str], blocks: Collection[str], images: Tensor) -> set[str]:
    """Return the convolutions, norms and blocks inside blocks that do not run when called by their names.

    Those of torchvision's and timm's blocks are not looked at: they are called by their names.

    Args:
        known: Paths of the modules that run once, each after those around it.
        blocks: Paths of the blocks that may be opened.
    """
    own = tuple(f"{path}." for path in blocks if not is_of_library(net.get_submodule(path)))
    leaves = (nn.Conv2d, nn.BatchNorm2d)
    inside = [path for path in known if path.startswith(own)]
    parts = [path for path in inside if path in blocks or isinstance(net.get_submodule(path), leaves)]
    return set(_not_run(net, parts, blocks, images)) if parts else set()


def _not_run(net: nn.Module, parts: Sequence[str], blocks: Collection[str], images: Tensor) -> Iterator[str]:
    """Yield those of the parts whose stand-in does not run; where it alone makes the pass fail, that is not known."""
    with ExitStack() as stack:
        stand_ins = stack.enter_context(stood_in(net, [path for path in parts if path not in blocks]))
        for path in (path for path in reversed(parts) if path in blocks):  # the innermost first, while its path holds
            stand_ins |= stack.enter_context(stood_in(net, [path]))
        try:
            with as_before(net):
                run(net.eval(), images)
            yield from (path for path, stand_in in stand_ins.items() if not stand_in.has_run)
            return
        except SpaceError:
            pass
    middle = len(parts) // 2
    for half in (parts[:middle], parts[middle:]) if middle else ():
        yield from _not_run(net, half, blocks, images)
