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
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from nas_attn.backbones.build import build_backbone
from nas_attn.backbones.catalog import blamed_on, plugged_entry, unusable, without_start
from nas_attn.backbones.entry import Backbone, Spec
from nas_attn.backbones.modules import built_in_se, plain_attributes, seeded
from nas_attn.backbones.opening import OPENING_KINDS, has_opening, may_open
from nas_attn.backbones.own_se import own_se
from nas_attn.backbones.passes import Passage, count_parameters, dry_pass, forward_macs
from nas_attn.backbones.readers import Readers
from nas_attn.backbones.sites import Place, measured, tap_path
from nas_attn.backbones.survey.blocks import close_harmful, open_all
from nas_attn.backbones.survey.effects import is_unchanged, keep_reached, relied_on, unlearned
from nas_attn.backbones.survey.ends import end_names
from nas_attn.backbones.survey.maps import last_map, not_maps, wide_shapes
from nas_attn.backbones.survey.names import with_names
from nas_attn.backbones.survey.swaps import Sighting, sight, swapped_places
from nas_attn.backbones.timm_names import is_timm, timm_network
from nas_attn.backbones.tracing import is_plain
from nas_attn.backbones.user_network import as_before, check_logits, copy_network, random_images, run
from nas_attn.errors import SpaceError
from nas_attn.placement import Shape, Site, SiteTable, Survey

_SURVEYS: dict[tuple[object, ...], Survey] = {}
"""Surveys of imported and plugged-in networks in this process: every trial builds the same network again. The key
covers the spec, the shape, the plug-in's record, and the classes, plain attributes and weights' shapes of all modules:
all that is known of code that is not ours."""


def survey_spec(spec: Spec, shape: Shape) -> Survey:
    """Build and survey the network of a checked spec: an imported one, a plug-in's, or timm's.

    Raises: SpaceError as `survey`, and if the network does not return `num_classes` logits in training mode too.
    """
    net = build_backbone(spec, shape, seed=0)
    found = _timm_survey(spec, net, shape) if is_timm(spec) else foreign_survey(spec, net, shape)
    if found.untrainable is not None:
        raise SpaceError(found.untrainable)
    return found


def _timm_survey(spec: Spec, net: nn.Module, shape: Shape) -> Survey:
    """Survey a network of timm's. Raises: SpaceError as `survey`, with timm's default image size as a hint."""
    try:
        return survey(net, shape, spec["name"])
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
    in the order of the data flow. The output of a `Sequential` and of its last child is one place: their sites name the
    same module. Torch's global generator is left unchanged.

    Args:
        name: The network's name in messages and in the table; None takes its class.
    Raises: SpaceError if the network cannot be copied, does not accept such images, or does not return `num_classes`
    logits per image in evaluation mode.
    """
    trial = copy_network(net).cpu()
    with seeded(0, "survey"):
        return _survey(trial, type(net).__name__ if name is None else name, shape)


def _survey(trial: nn.Module, name: str, shape: Shape) -> Survey:
    """Survey a copy of a network, which is changed."""
    images = random_images(trial, shape)
    sightings, untrainable = _sightings(trial, images, shape.num_classes, name)
    if not is_unchanged(trial, images, sightings):
        raise SpaceError(
            f"The network {name} must return the same output twice for the same images, but does not, so its sites "
            "cannot be checked: let it count no passes, and use the generators of torch, numpy or Python."
        )
    n_parameters, n_macs = count_parameters(trial), forward_macs(trial, images[:1])
    paths = [path for path, _ in trial.named_modules() if path]
    blocks = {path: block for path in paths if may_open(block := trial.get_submodule(path))}
    with as_before(trial), Readers() as readers:
        passages = dry_pass(trial, images, paths, copy_inputs_of=blocks)
    own = (*built_in_se(trial), *(one.name for one in own_se(trial, _on_pixels(passages))))
    wider = wide_shapes(trial, images, paths)
    refusals = unlearned(trial, images) if untrainable is None else {}
    refusals |= not_maps(trial, passages, wider) | _not_run_once(passages)
    opened = open_all(trial, list(blocks), passages, refusals)
    close_harmful(trial, opened, blocks, images, sightings, refusals)
    known = [path for path in paths if path not in refusals]
    end = last_map(trial, passages, wider)
    swapped, not_swapped = swapped_places(trial, known, passages, sightings, end)
    swapped, not_reached = keep_reached(trial, swapped, images, sightings)
    places = [*_places(trial, known, opened), *swapped]
    taps = {place.name: tap_path(trial, place.kind, place.module) for place in places}
    with as_before(trial):
        seen = dry_pass(trial, images, taps.values())
    written = {place.name for place in places if place.kind == "output" and passages[place.name].overwritten}
    written |= {name for name, path in taps.items() if seen[path].overwritten}
    lost = {name: "it does not run in every pass" for name, path in taps.items() if not seen[path].calls}
    lost |= relied_on(trial, {name: taps[name] for name in sorted(written)}, images, sightings)
    places = [place for place in places if place.name not in lost]
    places.sort(key=lambda place: (seen[taps[place.name]].order, -len(place.name)))
    sites = _with_stages(measured(trial, place, seen[taps[place.name]]) for place in places)
    names = {site.name for site in sites}
    reasons = not_swapped | not_reached | refusals | lost
    table = SiteTable(
        backbone=name,
        **vars(shape),
        n_parameters=n_parameters,
        n_macs=n_macs,
        sites=sites,
        built_in=own,
        refusals={name: why for name, why in reasons.items() if name not in names},
        aliases=end_names(trial, sites, passages, readers),
    )
    return Survey(table, frozenset(written & names), untrainable)


def _sightings(net: nn.Module, images: Tensor, num_classes: int, name: str) -> tuple[list[Sighting], str | None]:
    """Run the network in both modes and leave it in evaluation; return the sightings, and why it cannot be trained."""
    names = set(net.state_dict())
    with as_before(net):
        evaluated = sight(net.eval(), images)
    check_logits(name, evaluated.output, num_classes, training=False)
    late = sorted(set(net.state_dict()) - names)
    if late:
        raise SpaceError(
            f"The network {name} creates '{late[0]}' in its first pass, so a file could not fill it: register it in "
            "__init__, or run the network once before."
        )
    try:
        with as_before(net):
            trained = sight(net.train(), images)
        check_logits(name, trained.output, num_classes, training=True)
        with as_before(net):
            run(net, images, gradients=True)
    except SpaceError as error:
        return [evaluated], str(error)
    finally:
        net.eval()
    return [evaluated, trained], None


def _on_pixels(passages: Mapping[str, Passage]) -> set[str]:
    """Return the modules whose input is one pixel: the layers of squeeze-and-excitation are among them."""
    sources = {path: passage.source for path, passage in passages.items() if passage.source is not None}
    return {path for path, source in sources.items() if source.ndim in (2, 4) and max(source.shape[2:], default=1) == 1}


def _not_run_once(passages: Mapping[str, Passage]) -> dict[str, str]:
    """Return the modules that do not run exactly once, with the reason."""
    reasons = {0: "it never runs"}
    return {
        path: reasons.get(passage.calls, f"it runs {passage.calls} times, but must run once")
        for path, passage in passages.items()
        if passage.calls != 1
    }


def _places(net: nn.Module, paths: Collection[str], opened: Mapping[str, nn.Module]) -> list[Place]:
    """Return the named places; if a child of a block is named like one of its edges, the edge gets the name."""
    edges = {
        f"{path}.{kind}": Place(f"{path}.{kind}", kind, path, "")
        for path, block in opened.items()
        for kind in OPENING_KINDS
        if has_opening(block, kind)
    }
    outputs = {path: Place(path, "output", _outermost(net, path, paths), "") for path in paths}
    return list({**outputs, **edges}.values())


def _outermost(net: nn.Module, path: str, known: Collection[str]) -> str:
    """Return the path of the outermost `Sequential` whose last child this is: both have the same output."""
    parent, _, name = path.rpartition(".")
    module = net.get_submodule(parent)
    in_turn = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    return _outermost(net, parent, known) if parent in known and in_turn and name == list(module._modules)[-1] else path


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
