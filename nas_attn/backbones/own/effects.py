"""What the network does with what its modules give: where an attention would never be run, read, or trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nas_attn.backbones.modules import plain_attributes, put_module
from nas_attn.backbones.own.swaps import Sighting
from nas_attn.backbones.own_network import as_before, run
from nas_attn.backbones.sites import Passage, Place
from nas_attn.errors import SpaceError

OUT_OF_REACH = "the network reaches it by another way than its name"


class StandIn(nn.Module):
    """Runs a module in its place, and notes that it did; it holds what an attention there would hold.

    Shape: as the module.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__.update(plain_attributes(module))
        self._stood = (module,)
        self.has_run = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the module gives."""
        self.has_run = True
        return self._stood[0](*args, **kwargs)


def gives(net: nn.Module, images: Tensor, expected: object) -> bool:
    """Tell whether the network gives what is expected, bit for bit."""
    try:
        with as_before(net):
            output = run(net, images)
    except SpaceError:
        return False
    return isinstance(output, Tensor) and isinstance(expected, Tensor) and torch.equal(output, expected)


def unread(sightings: Sequence[Sighting]) -> dict[str, str]:
    """Return the modules whose output no operator reads, in no mode."""
    return {
        path: "nothing in the network reads what it gives"
        for path in sightings[0].passages
        if not any(_is_read(sighting, path) for sighting in sightings)
    }


def _is_read(sighting: Sighting, path: str) -> bool:
    given = sighting.passages[path].tensor
    return given is None or sighting.readers.n_readers(given) > 0


def unlearned(passages: Mapping[str, Passage]) -> dict[str, str]:
    """Return the modules that run where nothing keeps gradients, given a pass that keeps them elsewhere."""
    return {
        path: "the network runs it without gradients, so that nothing there could be trained"
        for path, passage in passages.items()
        if passage.calls and not passage.learns
    }


def keep_reached(
    net: nn.Module, places: Sequence[Place], images: Tensor, expected: object
) -> tuple[list[Place], dict[str, str]]:
    """Return the sites in place of a module whose module can be taken out, and why of the others it cannot.

    Args:
        expected: What the network gives as it is.
    """
    with _stood_in(net, places) as stand_ins:
        if gives(net, images, expected):
            reached = [place for place in places if all(stand_ins[path].has_run for path in _parts(place))]
            return reached, {place.name: OUT_OF_REACH for place in places if place not in reached}
    kept, refusals = [], {}
    for place in places:
        with _stood_in(net, [place]) as stand_ins:
            if not gives(net, images, expected):
                refusals[place.name] = "the network reads more of it than what it gives"
            elif not all(stand_in.has_run for stand_in in stand_ins.values()):
                refusals[place.name] = OUT_OF_REACH
            else:
                kept.append(place)
    return kept, refusals


def _parts(place: Place) -> list[str]:
    """Return the paths of the modules that an attention in place of a module takes out."""
    return [place.module, *([place.norm] if place.norm else [])]


@contextmanager
def _stood_in(net: nn.Module, places: Iterable[Place]) -> Iterator[dict[str, StandIn]]:
    """Let something stand in for the modules of these sites, and put them back afterwards."""
    plain = {path: net.get_submodule(path) for place in places for path in _parts(place)}
    stand_ins = {path: StandIn(module) for path, module in plain.items()}
    for path, stand_in in stand_ins.items():
        put_module(net, path, stand_in)
    try:
        yield stand_ins
    finally:
        for path, module in plain.items():
            put_module(net, path, module)


def relied_on(net: nn.Module, taps: Mapping[str, str], images: Tensor, expected: object) -> dict[str, str]:
    """Return why a tensor can have no attention that one part of the network writes over and another reads then.

    An attention works on copies of what is written over, and the network would write over those.

    Args:
        taps: Where each site whose tensor is written over is tapped.
        expected: What the network gives as it is.
    """
    if not taps or _copying(net, taps.values(), images, expected):
        return {}
    return {
        name: "it is written over, and read so elsewhere too"
        for name, path in taps.items()
        if not _copying(net, [path], images, expected)
    }


def _copying(net: nn.Module, paths: Iterable[str], images: Tensor, expected: object) -> bool:
    """Tell whether the network gives what is expected while copies pass on there."""
    hooks = [
        net.get_submodule(path).register_forward_hook(lambda module, args, output: output.clone())
        for path in dict.fromkeys(paths)
    ]
    try:
        return gives(net, images, expected)
    finally:
        for hook in hooks:
            hook.remove()
