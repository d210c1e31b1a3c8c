"""The table itself: look-ups, ranges, what fits where, and one key for equal models."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_cases import base_options, other_values
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_attn.attention.catalog import ATTENTIONS, attention_entry
from nas_attn.attention.departures import departures
from nas_attn.attention.entry import Context, Entry, load_class
from nas_attn.attention.options import check_options, context_at, resolve_options, why_not
from nas_attn.errors import SpaceError
from nas_attn.placement import KINDS, Site
from nas_attn.testing.cases import Case, plain_convolution, randomised
from nas_attn.testing.demands import seeded_pass
from nas_attn.training.auxiliary import auxiliary_loss

entries = st.sampled_from([ATTENTIONS[name] for name in ATTENTIONS.own])


def site(channels: int = 32, kind: str = "output", height: int = 8, width: int = 8) -> Site:
    return Site("denseblock1", kind, "features.denseblock1", channels, height, width, "stage1")


@st.composite
def cases(draw: st.DrawFn, entry: Entry, channels: int, most: int) -> Case:
    """Options that are valid, and fit mostly: other values of some, and any number up to `most` for dividers."""
    values = other_values(entry)
    options = base_options(entry) | dict(draw(st.lists(st.sampled_from(values), max_size=4)) if values else [])
    for name in options.keys() & {"reduction", "min_hidden", "groups", "factor", "heads"}:
        if options[name] is not None:
            options[name] = draw(st.integers(1, min(most, 4096)))
    return Case(entry, channels, options, replaced=plain_convolution(channels) if "conv" in entry.kinds else None)


def test_the_catalogue_is_complete_and_read_only() -> None:
    for name in ATTENTIONS.own:
        entry = ATTENTIONS[name]
        assert entry.name == name
        assert set(entry.kinds) <= set(KINDS)
        assert len({option.name for option in entry.options}) == len(entry.options)
        assert re.search("arXiv:|doi:|proceedings", entry.source)
        check_options(entry, {option.name: option.default for option in entry.options}, "")
        docstring = load_class(entry.cls).__doc__
        assert "Source:" in docstring
        assert "Departs:" in docstring
        assert all(f"{option.name}: " in docstring for option in entry.options)
    with pytest.raises(TypeError, match="does not support item assignment"):
        ATTENTIONS["eca"] = ATTENTIONS["se"]


def test_the_catalogue_needs_no_torch(root: Path) -> None:
    code = "import sys, nas_attn.attention.catalog; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_an_unknown_attention_names_the_nearest_and_the_site() -> None:
    with pytest.raises(SpaceError, match=r"Unknown attention 'cbma' at site 'denseblock2': did you mean 'cbam'\?"):
        attention_entry("cbma", "site 'denseblock2'")
    with pytest.raises(SpaceError, match=r"Unknown attention 'none'\. Known: aff, .*, triplet\."):
        attention_entry("none")


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("se", "reduction", 0, r"'reduction' of 'se' at site 'x' must be a whole number from 1, but got 0\."),
        ("se", "reduction", True, r"must be a whole number from 1, but got True\."),
        ("se", "reduction", 4.0, r"must be a whole number from 1, but got 4\.0\."),
        ("se", "reduction", "auto", r"must be a whole number from 1, but got 'auto'\."),
        ("se", "bias", 1, r"must be true or false, but got 1\."),
        ("cbam", "kernel_size", 65, r"must be an odd number from 1 to 63, but got 65\."),
        (
            "cbam",
            "gate",
            "sigmoyd",
            r"hard_sigmoid_keras2 \(did you mean 'sigmoid'\?\), but got 'sigmoyd'\.",
        ),
        ("gam", "groups", -1, r"must be a whole number from 1, but got -1\."),
        (
            "triple",
            "parts",
            "element+channel",
            r"one of .* \(did you mean '.*'\?\), but got 'element\+channel'",
        ),
        ("triple", "hidden", 0, r"must be a whole number from 1 to 4096 or auto, but got 0\."),
        ("triple", "aux_weight", float("nan"), r"must be a number from 0 to 100, but got nan\."),
        ("triple", "aux_weight", -0.1, r"must be a number from 0 to 100, but got -0\.1\."),
    ],
)
def test_a_value_outside_its_range_is_refused(name: str, option: str, value: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        check_options(ATTENTIONS[name], {option: value}, "site 'x'")


def test_a_message_names_the_file_when_there_is_no_site() -> None:
    with pytest.raises(SpaceError, match=r"'reduction' of 'se' in x\.toml must be"):
        check_options(ATTENTIONS["se"], {"reduction": 0}, "x.toml")
    with pytest.raises(SpaceError, match=r"Unknown option of 'se' 'reducton' in x\.toml: did you mean 'reduction'\?"):
        check_options(ATTENTIONS["se"], {"reducton": 4}, "x.toml")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("se", {}, {"reduction": 16, "bias": True}),
        ("se", {"reduction": 13}, {"reduction": 16, "bias": True}),
        ("se", {"reduction": 60}, {"reduction": 64, "bias": True}),
        ("se", {"reduction": 64, "min_hidden": 4}, {"reduction": 16, "bias": True}),
        ("se", {"reduction": 16, "min_hidden": 24}, {"reduction": 3, "bias": True, "min_hidden": 24}),
        (
            "cbam",
            {"branches": "channel", "kernel_size": 3},
            {"reduction": 16, "branches": "channel", "gate": "sigmoid"},
        ),
        (
            "cbam",
            {"branches": "spatial", "reduction": 500, "order": "parallel"},
            {"kernel_size": 7, "branches": "spatial", "gate": "sigmoid", "spatial_norm": True},
        ),
        ("gam", {"branches": "channel", "groups": 3}, {"reduction": 16, "branches": "channel", "channel_gate": False}),
        (
            "gam",
            {"branches": "spatial", "kernel_size": 1, "padding_mode": "replicate"},
            {"reduction": 16, "kernel_size": 1, "groups": 1, "branches": "spatial"},
        ),
        ("triple", {"parts": "scale", "aux_weight": 1}, {"parts": "scale"}),
        ("triple", {"parts": "channel+scale", "hidden": 8}, {"parts": "channel+scale", "reduction": 16}),
        (
            "triple",
            {"parts": "element", "hidden": "auto", "aux_weight": 1},
            {"parts": "element", "hidden": 64, "softmax": "spatial", "aux_weight": 1.0},
        ),
    ],
)
def test_resolved_options_at_64_channels(name: str, options: dict[str, Any], expected: dict[str, Any]) -> None:
    assert resolve_options(ATTENTIONS[name], 64, options) == expected


def test_a_resolved_float_is_a_float_without_a_sign_on_zero() -> None:
    resolved = [resolve_options(ATTENTIONS["triple"], 64, {"aux_weight": zero})["aux_weight"] for zero in (0, -0.0)]
    assert [repr(value) for value in resolved] == ["0.0", "0.0"]


@settings(max_examples=300, deadline=None)
@given(st.data(), entries, st.integers(1, 3000))
def test_resolving_twice_changes_nothing_and_stays_valid(data: st.DataObject, entry: Entry, channels: int) -> None:
    case = data.draw(cases(entry, channels, most=2 * channels))
    context, resolved = case.context(), case.resolved

    assert resolve_options(entry, channels, resolved, context) == resolved
    if case.fits():
        check_options(entry, resolved, "")
        assert why_not(entry, case.site(), resolved) is None


@settings(max_examples=300, deadline=None, derandomize=True)  # random weights may hide a difference
@given(st.data(), entries, st.integers(2, 24))
def test_equal_models_and_equal_options_are_the_same_thing(data: st.DataObject, entry: Entry, channels: int) -> None:
    one, changed = (data.draw(cases(entry, channels, most=channels)) for _ in range(2))
    names = data.draw(st.sets(st.sampled_from(list(one.options)), max_size=2)) if one.options else []
    other = replace(one, options={**one.options, **{name: changed.options[name] for name in names}})
    if one.fits() and other.fits():
        assert (one.resolved == other.resolved) == models_are_equal(one, other)


def models_are_equal(one: Case, other: Case) -> bool:
    """Whether the same weights fit both, in the same order, and the output and the loss are the same.

    Different models may be equal on some weights, where a narrow layer is dead; equal models are equal on any.
    """
    n_weights = 1 if one.resolved == other.resolved else 8
    return all(seeded_models_are_equal(one, other, salt) for salt in range(n_weights))


def seeded_models_are_equal(one: Case, other: Case, salt: int) -> bool:
    """Compare both, built as written, with one set of weights."""
    models = [randomised(case.construct(case.options), salt) for case in (one, other)]
    shapes = [[(name, tensor.shape) for name, tensor in model.state_dict().items()] for model in models]
    if shapes[0] != shapes[1]:
        return False
    outputs = [seeded_pass(model, one.inputs(3)) for model in models]
    losses = [auxiliary_loss(model, torch.tensor([0, 1, 2])) for model in models]
    return torch.equal(outputs[0], outputs[1]) and torch.equal(losses[0], losses[1])


@pytest.mark.parametrize(
    ("name", "at", "options", "message"),
    [
        (
            "cbam",
            site(kind="merge"),
            {},
            "Attention 'cbam' does not fit site 'denseblock1': a site of kind 'merge' is not among its kinds "
            "(output, pre, branch, shortcut, hidden).",
        ),
        (
            "triple",
            site(height=1, width=4),
            {},
            "Attention 'triple' does not fit site 'denseblock1': the map must be at least 2x2, but is 1x4.",
        ),
        (
            "se",
            site(channels=8),
            {},
            "Attention 'se' does not fit site 'denseblock1': reduction <= channels must hold, but got reduction=16, "
            "channels=8; the nearest that works: reduction=8.",
        ),
        (
            "gam",
            site(channels=24),
            {"reduction": 4, "groups": 4},
            "Attention 'gam' does not fit site 'denseblock1': groups must divide the channels and the hidden width, "
            "but got groups=4, channels=24, hidden width 6; the nearest that work: groups=3 or 6.",
        ),
        (
            "gam",
            site(channels=24),
            {"reduction": 32, "groups": 4},
            "Attention 'gam' does not fit site 'denseblock1': reduction <= channels must hold, but got reduction=32, "
            "channels=24; the nearest that works: reduction=6.",
        ),
    ],
)
def test_what_does_not_fit_says_why(name: str, at: Site, options: dict[str, Any], message: str) -> None:
    assert why_not(ATTENTIONS[name], at, options) == message


def test_the_context_at_a_site_has_its_map_and_its_replaced_convolution() -> None:
    at = replace(site(height=5, width=7), replaced=plain_convolution(32))
    assert context_at(at, num_classes=3) == Context(num_classes=3, height=5, width=7, replaced=plain_convolution(32))


def test_an_option_without_effect_cannot_misfit() -> None:
    assert why_not(ATTENTIONS["cbam"], site(channels=4), {"branches": "spatial"}) is None
    assert why_not(ATTENTIONS["triple"], site(channels=4), {"parts": "element+scale"}) is None
    assert why_not(ATTENTIONS["gam"], site(channels=16), {"branches": "channel", "groups": 3}) is None


@settings(max_examples=300, deadline=None)
@given(st.data(), entries, st.integers(1, 60))
def test_the_nearest_values_of_a_refusal_work(data: st.DataObject, entry: Entry, channels: int) -> None:
    case = data.draw(cases(entry, channels, most=80))
    message = why_not(entry, case.site(), case.options)
    if message is None:
        case.construct(case.options)
        return
    if "2 " in message and channels % 2:  # no number of groups works
        assert re.search(r"which 2 does not divide\.$|2 must divide the channels", message)
        return
    if "4 must divide the channels" in message:
        assert channels % 4
        return

    works = message.split("that work")[1]
    option = re.findall(r"(\w+)=", works)[0]
    for suggestion in works.split(" or "):
        pairs = re.findall(r"(\w+)=(\w+)", suggestion)
        named = [(name, int(value) if value.isdigit() else value) for name, value in pairs]
        numbers = named or [(option, int(re.findall(r"\d+", suggestion)[0]))]
        assert why_not(entry, case.site(), {**case.options, **dict(numbers)}) is None


@pytest.mark.parametrize("name", ATTENTIONS.own)
def test_every_attention_says_how_it_departs_from_its_source(name: str) -> None:
    text = departures(ATTENTIONS[name])
    assert text is not None
    assert text == " ".join(text.split())
    assert re.search(r"\.\)?$", text)


def test_departures_are_read_without_torch_and_of_classes_too() -> None:
    code = (
        "import sys; from nas_attn.attention.catalog import ATTENTIONS; from nas_attn.attention.departures import "
        "departures; print(departures(ATTENTIONS['triple'])); assert 'torch' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "an attention sees the map of its own site alone" in found.stdout

    class Gate:
        """Gate.

        Departs: in one way
            and another.
        """

    assert departures(replace(ATTENTIONS["se"], cls=Gate)) == "in one way and another."
    assert departures(replace(ATTENTIONS["se"], cls="no_such_package:Gate")) is None
