"""Detects places where an inserted module would never run, get no gradient, or alter other parts of the network."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves

from nas_attn.backbones.modules import plain_attributes, put_modules
from nas_attn.backbones.sites import Place
from nas_attn.backbones.survey.swaps import Sighting
from nas_attn.backbones.user_network import as_before, run
from nas_attn.errors import SpaceError

log = logging.getLogger(__name__)

OUT_OF_REACH = "the network does not call it by its name, but from a list, a function or another attribute"


class StandIn(nn.Module):
    """Run a module in its place and record that it ran; it has the attributes that an attention there would have.

    Shape: as the module.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__.update(plain_attributes(module))
        self.stood = module
        self.has_run = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the module."""
        self.has_run = True
        return self.stood(*args, **kwargs)


def is_unchanged(net: nn.Module, images: Tensor, sightings: Sequence[Sighting]) -> bool:
    """Return whether the outputs equal those of `sightings` bit for bit, in evaluation and in training mode."""
    modes = zip((False, True), sightings, strict=False)
    return all(gives(net, images, sighting, training=training) for training, sighting in modes)


def gives(net: nn.Module, images: Tensor, sighting: Sighting, *, training: bool) -> bool:
    """Return whether the output in one mode equals that of a sighting bit for bit."""
    try:
        with as_before(net):
            return same(run(net.train(training), images), sighting.output)
    except SpaceError:
        return False
    finally:
        net.eval()


def same(one: object, other: object) -> bool:
    """Return whether two outputs have the same tensors bit for bit, NaN included, in the same nesting.

    An output is a tensor, or any nesting of tuples, lists and dicts with at least one tensor.
    """
    leaves, nesting = tree_flatten(one)
    others, other_nesting = tree_flatten(other)
    are_tensors = [isinstance(leaf, Tensor) for leaf in leaves]
    if nesting != other_nesting or not any(are_tensors) or are_tensors != [isinstance(leaf, Tensor) for leaf in others]:
        return False
    return all(
        mine.shape == theirs.shape and torch.allclose(mine, theirs, rtol=0, atol=0, equal_nan=True)
        for mine, theirs, is_tensor in zip(leaves, others, are_tensors, strict=True)
        if is_tensor
    )


def unlearned(net: nn.Module, images: Tensor) -> dict[str, str] | None:
    """Return the modules whose output gets no gradient in training, with the reason; None if the pass fails.

    Their output is not read, or is computed without gradients, or is detached later.
    """
    marks: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(partial(_mark, marks.setdefault(path, torch.zeros((), requires_grad=True))))
        for path, module in net.named_modules()
        if path
    ]
    try:
        try:
            _send_back(net, images, list(marks.values()))
        except RuntimeError:  # torch.utils.checkpoint with use_reentrant=True needs the gradients of all tensors
            _send_back(net, images)
    except Exception as error:  # the network is the user's and may raise anything
        log.debug("the gradients of the network %s are not known: %s", type(net).__name__, error)
        return None
    finally:
        for handle in handles:
            handle.remove()
        net.eval().zero_grad(set_to_none=True)
    return {
        path: "its output gets no gradient, so an attention there could not be trained"
        for path, mark in marks.items()
        if mark.grad is None
    }


def _send_back(net: nn.Module, images: Tensor, wanted: Sequence[Tensor] | None = None) -> None:
    """Run forward in training and backward, for the gradients of the wanted tensors alone, or of all."""
    with as_before(net), torch.enable_grad():
        outputs = [leaf for leaf in tree_leaves(net.train()(images)) if is_learned(leaf)]
        torch.autograd.backward([output.float().sum() for output in outputs], inputs=wanted)


def is_learned(output: object) -> bool:
    """Return whether an output is a tensor through which a gradient can reach the network."""
    return isinstance(output, Tensor) and output.is_floating_point() and output.requires_grad


def _mark(mark: Tensor, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """Add a zero scalar that requires grad; it receives a gradient only if the module's output does."""
    is_real = isinstance(output, Tensor) and output.is_floating_point()
    return output + mark.to(output.dtype) if is_real else output


def keep_reached(
    net: nn.Module, places: Sequence[Place], images: Tensor, sightings: Sequence[Sighting]
) -> tuple[list[Place], dict[str, str]]:
    """Return the places whose module can be replaced, and the reasons for the others.

    Args:
        places: Sites in place of a module.
        sightings: Of the unchanged network.
    """
    with stood_in(net, parts_of(places)) as stand_ins:
        if is_unchanged(net, images, sightings):
            return reached(places, stand_ins)
    kept, refusals = [], {}
    for place in places:
        with stood_in(net, parts_of([place])) as stand_ins:
            if not is_unchanged(net, images, sightings):
                refusals[place.name] = "the network reads more of it than its output"
            elif not all(stand_in.has_run for stand_in in stand_ins.values()):
                refusals[place.name] = OUT_OF_REACH
            else:
                kept.append(place)
    return kept, refusals


def reached(places: Sequence[Place], stand_ins: Mapping[str, StandIn]) -> tuple[list[Place], dict[str, str]]:
    """Return the places whose stand-ins have run, and the reason for the others."""
    found = [place for place in places if all(stand_ins[path].has_run for path in parts_of([place]))]
    return found, {place.name: OUT_OF_REACH for place in places if place not in found}


def parts_of(places: Iterable[Place]) -> list[str]:
    """Return the paths of the modules that attentions at these places replace."""
    return [path for place in places for path in (place.module, place.norm) if path]


@contextmanager
def stood_in(net: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, StandIn]]:
    """Replace the modules at these paths by stand-ins, and restore them afterwards."""
    plain = {path: net.get_submodule(path) for path in paths}
    stand_ins = {path: StandIn(module) for path, module in plain.items()}
    put_modules(net, stand_ins)
    try:
        yield stand_ins
    finally:
        put_modules(net, plain)


def relied_on(net: nn.Module, taps: Mapping[str, str], images: Tensor, sightings: Sequence[Sighting]) -> dict[str, str]:
    """Return sites whose tensor is modified in place by one part of the network and read again by another.

    At such a site an attention works on a copy, so the network would modify the copy and read the original.

    Args:
        taps: Path of the tapped module, for each site whose tensor is modified in place.
        sightings: Of the unchanged network.
    """
    if not taps or _copying(net, taps.values(), images, sightings):
        return {}
    return {
        name: "one part of the network modifies it in place, and another part reads the result"
        for name, path in taps.items()
        if not _copying(net, [path], images, sightings)
    }


def _copying(net: nn.Module, paths: Iterable[str], images: Tensor, sightings: Sequence[Sighting]) -> bool:
    """Return whether the outputs are unchanged if these modules return copies."""
    with copying(net, paths):
        return is_unchanged(net, images, sightings)


@contextmanager
def copying(net: nn.Module, paths: Iterable[str]) -> Iterator[None]:
    """Context manager: the modules at these paths return copies of their outputs."""
    hooks = [
        net.get_submodule(path).register_forward_hook(lambda module, args, output: output.clone())
        for path in dict.fromkeys(paths)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
