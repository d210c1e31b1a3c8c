"""Checks all that may be inserted at once: in most networks everything works, and few passes show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from nas_attn.backbones.opening import Opened, opening_path
from nas_attn.backbones.passes import Passage, watched
from nas_attn.backbones.sites import Place
from nas_attn.backbones.survey.effects import copying, gives, parts_of, reached, same, stood_in
from nas_attn.backbones.survey.first_passes import FirstPasses
from nas_attn.backbones.user_network import as_before, run
from nas_attn.errors import SpaceError


@dataclass(frozen=True)
class Together:
    """The outcome if everything works.

    Args:
        seen: Passages of the tapped modules, with the blocks opened.
        swapped: Those of the places in place of a module that the network reaches.
        not_reached: Reasons for the others.
    """

    seen: Mapping[str, Passage]
    swapped: list[Place]
    not_reached: dict[str, str]


def check_together(
    net: nn.Module,
    opened: Mapping[str, Opened],
    images: Tensor,
    first: FirstPasses,
    swapped: Sequence[Place],
    taps: Mapping[str, str],
) -> Together | None:
    """Replace the modules of `swapped`, and copy what is overwritten; return None if an output changes.

    All outputs must stay equal bit for bit in both modes, those of the opened blocks also in their strides.

    Args:
        net: The network, with the opened blocks in it.
        taps: Path of the tapped module of each place.
    """
    found = None
    with stood_in(net, parts_of(swapped)) as stand_ins:
        seen = _evaluated(net, opened, images, first, taps)
        if seen is not None:
            written = [path for name, path in taps.items() if is_written(name, path, seen, first)]
            with copying(net, written):
                modes = [(False, written), (True, True)]
                pairs = zip(modes, first.sightings, strict=False)
                fine = all(gives(net, images, one, training=mode) for (mode, needed), one in pairs if needed)
            if fine:
                found = Together(seen, *reached(swapped, stand_ins))
    if found is None or not found.not_reached:
        return found
    again = check_together(net, opened, images, first, found.swapped, taps)  # what did not run hid tapped modules
    return again and replace(again, not_reached={**found.not_reached, **again.not_reached})


def is_written(name: str, path: str, seen: Mapping[str, Passage], first: FirstPasses) -> bool:
    """Return whether the output of a tapped module is modified in place later, with its block opened or as it was."""
    passage = first.passages.get(name)
    return seen[path].calls > 0 and (seen[path].overwritten or (passage is not None and passage.overwritten))


def _evaluated(
    net: nn.Module, opened: Mapping[str, Opened], images: Tensor, first: FirstPasses, taps: Mapping[str, str]
) -> dict[str, Passage] | None:
    """Run the network in evaluation; return the passages, or None if an output differs or a block never runs."""
    ends = {path: opening_path(path, "output") for path in opened}
    try:
        with as_before(net), watched(net, {*taps.values(), *ends.values()}) as seen:
            output = run(net.eval(), images)
    except SpaceError:
        return None
    if not same(output, first.sightings[0].output):
        return None
    for path, end in ends.items():
        plain, again = first.passages[path].tensor, seen[end].tensor
        if plain is None or again is None or not same(plain, again) or plain.stride() != again.stride():
            return None
    return seen
