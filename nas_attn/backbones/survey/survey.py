"""Finds the sites of a network by running a copy of it, with a reason for every module that is no site.

The catalogue's networks need none of this: their `places` name the sites. Any other network (a user's own, timm's, a
plug-in's) is run on random images, and every claim about a site is checked on that copy: the module runs exactly once,
its output is a map, an inserted module gets a gradient, and opening, replacing or copying leaves all outputs equal bit
for bit in both modes. Tracing the whole network instead (torch.fx, torch.export) would refuse the networks with
control flow that this accepts, and would not show whether a module's attributes are read from outside; torch.fx is used
inside one block at a time, in `backbones/opening.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from torch import Tensor, nn

from nas_attn.backbones.build import build_backbone
from nas_attn.backbones.catalog import blamed_on, plugged_entry, unusable, without_start
from nas_attn.backbones.entry import Backbone, Spec
from nas_attn.backbones.modules import built_in_se, plain_attributes, seeded
from nas_attn.backbones.own_se import own_se
from nas_attn.backbones.passes import Passage, count_parameters, forward_macs, watched
from nas_attn.backbones.sites import measured
from nas_attn.backbones.survey.ends import end_names
from nas_attn.backbones.survey.first_passes import FirstPasses, first_passes
from nas_attn.backbones.survey.found_places import Found, find_places
from nas_attn.backbones.survey.names import with_names
from nas_attn.backbones.timm_names import is_timm, timm_network
from nas_attn.backbones.tracing import is_plain
from nas_attn.backbones.user_network import as_before, copy_network, random_images, run
from nas_attn.errors import SpaceError
from nas_attn.placement import Shape, Site, SiteTable, Survey

_SMALLER = (64, 96, 128)
"""Sizes of images with which a network is checked, if it takes them and its images are at least twice as large."""

_SURVEYS: dict[tuple[object, ...], Survey] = {}
"""Surveys of imported and plugged-in networks in this process: every trial builds the same network again. The key
covers the spec, the shape, the plug-in's record, and the classes, plain attributes and weights' shapes of all modules:
all that is known of code that is not ours."""


def survey_spec(spec: Spec, shape: Shape) -> Survey:
    """Build and survey the network of a checked spec: an imported one, a plug-in's, or timm's.

    Raises: SpaceError as `survey`, and if the network does not return `num_classes` logits in training mode too. A
    network without logits may need more than images in training.
    """
    if is_timm(spec):
        found = _timm_survey(spec, shape)
    else:
        found = foreign_survey(spec, build_backbone(spec, shape, seed=0), shape)
    if found.untrainable is not None and shape.num_classes:
        raise SpaceError(found.untrainable)
    return found


def _timm_survey(spec: Spec, shape: Shape) -> Survey:
    """Survey a network of timm's. Raises: SpaceError as `survey`, with timm's default image size as a hint."""
    try:
        return surveyed(lambda: build_backbone(spec, shape, seed=0), shape, spec["name"])
    except SpaceError as error:
        default = timm_network(spec["name"]).image_size
        hint = f"; timm's own images for it are {default}x{default}" if shape.image_size != default else ""
        raise SpaceError(f"{str(error).removesuffix('.')}{hint}.") from error


def foreign_survey(spec: Spec, net: nn.Module, shape: Shape) -> Survey:
    """Return the survey of an imported or plugged-in network, cached in this process.

    Raises: SpaceError as `survey`; for a plug-in, the message names it.
    """
    entry, words = plugged_entry(spec), json.dumps(without_start(spec), sort_keys=True, default=str)
    key = (words, shape, entry, anatomy(net))
    if key not in _SURVEYS:
        _SURVEYS[key] = survey(net, shape) if entry is None else _plugged_survey(entry, net, shape)
    return _SURVEYS[key]


def _plugged_survey(entry: Backbone, net: nn.Module, shape: Shape) -> Survey:
    with blamed_on(entry.name):
        found = with_names(survey(net, shape, entry.name), net, entry)
    why = found.untrainable
    return found if why is None else replace(found, untrainable=unusable(entry.name, why))


def anatomy(net: nn.Module) -> tuple[object, ...]:
    """Return class and plain attributes of all modules; shape, type and `requires_grad` of all parameters."""
    modules = ((path, type(module), *_plain(module)) for path, module in net.named_modules())
    weights = ((path, weight.shape, weight.dtype, weight.requires_grad) for path, weight in net.named_parameters())
    return (*modules, *weights)


def _plain(module: nn.Module) -> list[tuple[str, object]]:
    """Return the attributes of a module that are numbers, words or tuples of them, such as a stride."""
    return [(name, value) for name, value in plain_attributes(module).items() if name != "training" and is_plain(value)]


def survey(net: nn.Module, shape: Shape, name: str | None = None) -> Survey:
    """Return the sites of a network, found by running a copy of it on random images.

    Residual blocks are opened where the outputs stay equal bit for bit in both modes. Stages are numbered by map size,
    in the order of the data flow. Each tensor is one site: the output of a `Sequential` is not listed again as that of
    its last child. What can be inserted is checked on smaller images, if the network takes them, and the shapes are
    those of `shape`. Torch's global generator is left unchanged.

    Args:
        name: The network's name in messages and in the table; None takes its class.
    Raises: SpaceError if the network cannot be copied, does not accept such images, or does not return `num_classes`
    logits per image in evaluation mode.
    """
    return surveyed(lambda: copy_network(net).cpu(), shape, type(net).__name__ if name is None else name)


def surveyed(make: Callable[[], nn.Module], shape: Shape, name: str) -> Survey:
    """As `survey`, with a function that returns a network on the CPU, which may be changed."""
    trial = make()
    paths = [path for path, _ in trial.named_modules() if path]
    with seeded(0, "survey"):
        for size in (size for size in _SMALLER if 2 * size <= shape.image_size):
            with suppress(SpaceError):  # it is tried again on larger images
                images = random_images(trial, replace(shape, image_size=size))
                first = first_passes(trial, images, paths, shape.num_classes, name)
                if first.untrainable is not None:
                    continue
                try:
                    return _survey(trial, name, shape, images, first)
                except _Unlike:
                    trial = make()
                    break
        images = random_images(trial, shape)
        first = first_passes(trial, images, paths, shape.num_classes, name)
        return _survey(trial, name, shape, images, first)


class _Unlike(Exception):
    """The network runs in another way on images of the real size than on smaller ones."""


def _survey(trial: nn.Module, name: str, shape: Shape, images: Tensor, first: FirstPasses) -> Survey:
    """Survey a copy of a network, which is changed.

    Args:
        images: With which it is checked.
        first: Its first passes on these images.
    Raises: SpaceError as `survey`; _Unlike.
    """
    n_parameters = count_parameters(trial)
    own = (*built_in_se(trial), *(one.name for one in own_se(trial, _on_pixels(first.passages))))
    found = find_places(trial, images, first, name)
    with as_before(trial):
        n_macs = forward_macs(
            trial.eval(), random_images(trial, shape)[:1]
        )  # alone: hooks make torch run other kernels
    seen = found.seen if images.shape[-1] == shape.image_size else _at_real_size(trial, shape, first, found)
    places = sorted(found.places, key=lambda place: (seen[found.taps[place.name]].order, -len(place.name)))
    sites = _with_stages(measured(trial, place, seen[found.taps[place.name]]) for place in places)
    names = {site.name for site in sites}
    doubles = {double: site for double, site in found.doubles.items() if site in names and double not in names}
    copied = (found.written & names) | {double for double, site in doubles.items() if site in found.written}
    table = SiteTable(
        backbone=name,
        **vars(shape),
        n_parameters=n_parameters,
        n_macs=n_macs,
        sites=sites,
        built_in=own,
        refusals={name: why for name, why in found.refusals.items() if name not in names},
        aliases=end_names(trial, sites, first.passages, first.sightings[0].readers),
        doubles=doubles,
        squashed=first.squashed,
    )
    return Survey(table, frozenset(copied), first.untrainable)


def _at_real_size(trial: nn.Module, shape: Shape, first: FirstPasses, found: Found) -> Mapping[str, Passage]:
    """Return the passages of one image of the real size. Raises: _Unlike if another number of modules runs."""
    with as_before(trial), watched(trial, {*first.passages, *found.taps.values()}) as seen:
        run(trial.eval(), random_images(trial, shape)[:1])
    if any(seen[path].calls != passage.calls for path, passage in first.passages.items()):
        raise _Unlike
    return seen


def _on_pixels(passages: Mapping[str, Passage]) -> set[str]:
    """Return the modules whose input is one pixel: the layers of squeeze-and-excitation are among them."""
    sources = {path: passage.source for path, passage in passages.items() if passage.source is not None}
    return {path for path, source in sources.items() if source.ndim in (2, 4) and max(source.shape[2:], default=1) == 1}


def _with_stages(sites: Iterable[Site]) -> tuple[Site, ...]:
    """Number the stages by map size, in order of appearance.

    A map of one pixel before a larger map belongs to the stage of the latter: squeeze-and-excitation inside a block.
    """
    sizes: dict[tuple[int, int], int] = {}
    staged: list[Site] = []
    pixels: list[Site] = []
    for site in sites:
        size = (site.height, site.width)
        if size == (1, 1):
            pixels.append(site)
            continue
        stage = f"stage{sizes.setdefault(size, len(sizes) + 1)}"
        staged += [replace(found, stage=stage) for found in (*pixels, site)]
        pixels = []
    return (*staged, *(replace(pixel, stage=f"stage{len(sizes) + 1}") for pixel in pixels))
