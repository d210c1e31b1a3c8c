"""What the network does with its modules: where an attention would never be run or trained, or would change more."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nas_attn.backbones.modules import plain_attributes, put_module
from nas_attn.backbones.sites import Place
from nas_attn.backbones.survey.swaps import Sighting
from nas_attn.backbones.user_network import as_before, run
from nas_attn.errors import SpaceError

log = logging.getLogger(__name__)

_OUT_OF_REACH = "the network reaches it by another way than its name"


class StandIn(nn.Module):
    """Runs a module in its place, and notes that it did; it holds what an attention there would hold.

    Shape: as the module.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__.update(plain_attributes(module))
        self.stood = module
        self.has_run = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the module gives."""
        self.has_run = True
        return self.stood(*args, **kwargs)


def gives(net: nn.Module, images: Tensor, sightings: Sequence[Sighting]) -> bool:
    """Tell whether the network gives, bit for bit, what it was seen to give, in evaluation and then in training."""
    try:
        for training, sighting in zip((False, True), sightings, strict=False):
            with as_before(net):
                if not same(run(net.train(training), images), sighting.output):
                    return False
    except SpaceError:
        return False
    finally:
        net.eval()
    return True


def same(one: object, other: object) -> bool:
    """Tell whether two tensors are equal bit for bit, what is no number included."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape:
        return False
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def unlearned(net: nn.Module, images: Tensor) -> dict[str, str]:
    """Return the modules whose output decides nothing that can be learned: no gradient comes back to it in training.

    Nothing reads what they give, or they run without gradients, or their result is detached later on.
    """
    marks: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(partial(_mark, marks.setdefault(path, torch.zeros((), requires_grad=True))))
        for path, module in net.named_modules()
        if path
    ]
    try:
        with as_before(net), torch.enable_grad():
            logits = net.train()(images)
            logits.float().sum().backward()
    except Exception as error:  # the network is the user's; nothing was found out then
        log.debug("where the network %s learns is not known: %s", type(net).__name__, error)
        return {}
    finally:
        for handle in handles:
            handle.remove()
        net.eval().zero_grad(set_to_none=True)
    return {
        path: "no gradient comes back from what it gives, so that nothing there could be trained"
        for path, mark in marks.items()
        if mark.grad is None
    }


def _mark(mark: Tensor, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """Add a nought to what a module gives, which gets a gradient if that does."""
    is_real = isinstance(output, Tensor) and output.is_floating_point()
    return output + mark.to(output.dtype) if is_real else output


def keep_reached(
    net: nn.Module, places: Sequence[Place], images: Tensor, sightings: Sequence[Sighting]
) -> tuple[list[Place], dict[str, str]]:
    """Return the sites in place of a module whose module can be taken out, and why of the others it cannot.

    Args:
        sightings: Of the network as it is.
    """
    with _stood_in(net, places) as stand_ins:
        if gives(net, images, sightings):
            reached = [place for place in places if all(stand_ins[path].has_run for path in _parts(place))]
            return reached, {place.name: _OUT_OF_REACH for place in places if place not in reached}
    kept, refusals = [], {}
    for place in places:
        with _stood_in(net, [place]) as stand_ins:
            if not gives(net, images, sightings):
                refusals[place.name] = "the network reads more of it than what it gives"
            elif not all(stand_in.has_run for stand_in in stand_ins.values()):
                refusals[place.name] = _OUT_OF_REACH
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


def relied_on(net: nn.Module, taps: Mapping[str, str], images: Tensor, sightings: Sequence[Sighting]) -> dict[str, str]:
    """Return the sites where an attention would come between a part that writes over a tensor and one that reads that.

    An attention works on copies of what is written over, and the network would write over those.

    Args:
        taps: Where each site whose tensor is written over is tapped.
        sightings: Of the network as it is.
    """
    if not taps or _copying(net, taps.values(), images, sightings):
        return {}
    return {
        name: "one part of the network writes over it in place, and another part reads the result"
        for name, path in taps.items()
        if not _copying(net, [path], images, sightings)
    }


def _copying(net: nn.Module, paths: Iterable[str], images: Tensor, sightings: Sequence[Sighting]) -> bool:
    """Tell whether the network gives what it did while copies pass on there."""
    hooks = [
        net.get_submodule(path).register_forward_hook(lambda module, args, output: output.clone())
        for path in dict.fromkeys(paths)
    ]
    try:
        return gives(net, images, sightings)
    finally:
        for hook in hooks:
            hook.remove()
