"""Finds the places of a network where an attention can be inserted, and checks them by running the network."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from nas_attn.backbones.modules import put_module
from nas_attn.backbones.opening import OPENING_KINDS, Opened, has_opening, may_open
from nas_attn.backbones.passes import Passage, dry_pass
from nas_attn.backbones.sites import Place, tap_path
from nas_attn.backbones.survey.blocks import close_harmful, close_unequal, open_all, refuse_calls
from nas_attn.backbones.survey.by_name import called_otherwise
from nas_attn.backbones.survey.doubles import find_doubles
from nas_attn.backbones.survey.effects import OUT_OF_REACH, is_unchanged, keep_reached, parts_of, relied_on
from nas_attn.backbones.survey.first_passes import FirstPasses
from nas_attn.backbones.survey.maps import last_map, not_maps, wide_shapes
from nas_attn.backbones.survey.swaps import swapped_places
from nas_attn.backbones.survey.together import check_together, is_written
from nas_attn.backbones.user_network import as_before
from nas_attn.errors import SpaceError

_NOT_ALWAYS = "it does not run in every pass"
_NOT_AS_MODULE = "the network does not call it, but uses its weights or its forward, which runs no hook"


@dataclass(frozen=True)
class Found:
    """The places of a network.

    Args:
        taps: Path of the tapped module of each place, in the network with opened blocks.
        seen: Passages of the tapped modules in evaluation.
        written: Names of the places whose tensor is modified in place later.
        refusals: Name of a module or of an edge -> reason why it is no site.
        doubles: Path of a module -> the module around it that returns the same tensor.
    """

    places: Sequence[Place]
    taps: Mapping[str, str]
    seen: Mapping[str, Passage]
    written: frozenset[str]
    refusals: Mapping[str, str]
    doubles: Mapping[str, str]


def find_places(net: nn.Module, images: Tensor, first: FirstPasses, name: str) -> Found:
    """Return the places of a network, and leave its residual blocks opened.

    Args:
        name: The network's name in messages.
    Raises: SpaceError if the network does not return the same output for the same images.
    """
    paths = list(first.passages)
    wider = wide_shapes(net, images, paths)
    refusals = {**first.unlearned, **not_maps(net, first.passages, wider), **_not_run_once(net, first)}
    known = [path for path in paths if path not in refusals]
    plain = {path: block for path in paths if may_open(block := net.get_submodule(path))}
    otherwise = called_otherwise(net, known, first.adding & plain.keys(), images)
    opened = open_all(net, [path for path in plain if path not in otherwise], first, refusals)
    refuse_calls(refusals, otherwise & plain.keys())
    for path, block in opened.items():  # one may lie in another
        put_module(net, path, block)
    end = last_map(net, first.passages, wider)
    swapped, not_swapped = _by_name(*swapped_places(net, known, first.passages, first.sightings, end), otherwise)
    doubles = find_doubles(net, known, images, first, opened)
    outputs = [path for path in known if path not in doubles]
    places = [*_places(outputs, opened), *swapped]
    taps = _taps(net, places)
    together = check_together(net, opened, images, first, swapped, taps)
    if together is not None:
        seen, swapped, not_reached, unreliable = together.seen, together.swapped, together.not_reached, {}
    else:
        _close_what_fails(net, opened, plain, images, first, refusals, name)
        swapped, not_reached = keep_reached(net, swapped, images, first.sightings)
        taps = _taps(net, [*_places(outputs, opened), *swapped])
        with as_before(net):
            seen = dry_pass(net, images, taps.values())
        changed = {name: path for name, path in sorted(taps.items()) if is_written(name, path, seen, first)}
        unreliable = relied_on(net, changed, images, first.sightings)
    places = [*_places(outputs, opened), *swapped]
    lost = {place.name: _NOT_ALWAYS for place in places if not seen[taps[place.name]].calls} | unreliable
    kept = [place for place in places if place.name not in lost]
    written = frozenset(place.name for place in kept if is_written(place.name, taps[place.name], seen, first))
    return Found(kept, taps, seen, written, {**not_swapped, **not_reached, **refusals, **lost}, doubles)


def _by_name(
    swapped: Iterable[Place], refusals: Mapping[str, str], otherwise: Collection[str]
) -> tuple[list[Place], dict[str, str]]:
    """Move the places of which a part is called otherwise than by its name to the refusals."""
    aside = {place.name: OUT_OF_REACH for place in swapped if any(path in otherwise for path in parts_of([place]))}
    return [place for place in swapped if place.name not in aside], {**refusals, **aside}


def _close_what_fails(
    net: nn.Module,
    opened: dict[str, Opened],
    plain: Mapping[str, nn.Module],
    images: Tensor,
    first: FirstPasses,
    refusals: dict[str, str],
    name: str,
) -> None:
    """Close the blocks that do not work opened, one by one; the reasons are added to `refusals`.

    Raises: SpaceError if the network as it was does not return the same output twice.
    """
    for path in opened:
        put_module(net, path, plain[path])
    if not is_unchanged(net, images, first.sightings):
        raise SpaceError(
            f"The network {name} must return the same output twice for the same images, but does not, so its sites "
            "cannot be checked: let it count no passes, and use the generators of torch, numpy or Python."
        )
    with as_before(net):
        alone = dry_pass(net, images, opened, copy_inputs_of=opened)
    close_unequal(opened, plain, alone, refusals)
    close_harmful(net, opened, plain, images, first.sightings, refusals)


def _taps(net: nn.Module, places: Iterable[Place]) -> dict[str, str]:
    return {place.name: tap_path(net, place.kind, place.module) for place in places}


def _not_run_once(net: nn.Module, first: FirstPasses) -> dict[str, str]:
    """Return the modules that do not run exactly once, with the reason."""
    reasons = {}
    for path, passage in first.passages.items():
        if passage.calls > 1:
            reasons[path] = f"it runs {passage.calls} times, but must run once"
        elif not passage.calls:
            is_read = any(map(first.sightings[0].readers.n_readers, net.get_submodule(path).parameters(recurse=False)))
            reasons[path] = _NOT_AS_MODULE if is_read else "it never runs"
    return reasons


def _places(paths: Iterable[str], opened: Mapping[str, nn.Module]) -> list[Place]:
    """Return the named places; if a child of a block is named like one of its edges, the edge gets the name."""
    edges = {
        f"{path}.{kind}": Place(f"{path}.{kind}", kind, path, "")
        for path, block in opened.items()
        for kind in OPENING_KINDS
        if has_opening(block, kind)
    }
    outputs = {path: Place(path, "output", path, "") for path in paths}
    return list({**outputs, **edges}.values())
