"""The contract of `nas_attn.testing` over the whole catalogue; published counts; what cannot be built says why."""

from __future__ import annotations

from typing import Any

import pytest
from attention_cases import CHANNELS, CONTEXT, base_options, other_values, run_all
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.create import create_attention
from nas_attn.attention.entry import Context
from nas_attn.attention.options import resolve_options
from nas_attn.errors import SpaceError
from nas_attn.testing.cases import Case, plain_convolution
from nas_attn.testing.checks import cost
from nas_attn.testing.suite import Check, attention_checks

each_entry = pytest.mark.parametrize("name", ATTENTIONS.own)


def is_short(check: Check) -> bool:
    """Whether a check is of the entry's own options, or that an option matters; compilation takes seconds."""
    return (check.variant == check.entry or check.name == "option") and check.name not in ("compile", "export")


@each_entry
def test_an_entry_passes_every_check_and_each_option_matters(name: str) -> None:
    run_all(check for check in attention_checks(name) if is_short(check))


@pytest.mark.nightly
@each_entry
def test_an_entry_passes_every_check_with_each_other_value_of_each_option_and_compiled(name: str) -> None:
    run_all(check for check in attention_checks(name) if not is_short(check))


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(ATTENTIONS.own), channels=st.integers(1, 40), draw=st.data())
def test_closed_forms_equal_any_module(name: str, channels: int, draw: st.DataObject) -> None:
    entry = ATTENTIONS[name]
    values = other_values(entry)
    changes = draw.draw(st.lists(st.sampled_from(values), max_size=4)) if values else []
    options = base_options(entry) | dict(changes)
    if "reduction" in options:
        options["reduction"] = draw.draw(st.integers(1, channels))
    case = Case(entry, channels, options, replaced=plain_convolution(channels) if "conv" in entry.kinds else None)
    if case.fits():
        cost(case)


@pytest.mark.parametrize(
    ("name", "channels", "options", "n_parameters"),
    [
        ("se", 64, {"reduction": 16}, 580),
        ("se", 64, {"reduction": 16, "bias": False}, 512),
        ("cbam", 64, {"reduction": 16}, 680),
        ("cbam", 64, {"reduction": 8, "spatial_norm": False, "gate": "hard_sigmoid"}, 1194),
        ("gam", 64, {"reduction": 4}, 102_720),
    ],
)
def test_published_parameter_counts(name: str, channels: int, options: dict[str, Any], n_parameters: int) -> None:
    module = create_attention(name, channels, **options)
    assert sum(parameter.numel() for parameter in module.parameters()) == n_parameters


RESNET50 = {256: 3, 512: 4, 1024: 6, 2048: 3}  # the blocks' widths, and how many there are
RESNET101 = RESNET50 | {1024: 23}
RESNET152 = RESNET50 | {512: 8, 1024: 36}
RESNET18 = {64: 2, 128: 2, 256: 2, 512: 2}
RESNET34 = {64: 3, 128: 4, 256: 6, 512: 3}


@pytest.mark.parametrize(
    ("plain", "widths", "name", "options", "published"),
    [
        (25_557_032, RESNET50, "se", {}, 28_088_024),
        (25_557_032, RESNET50, "se", {"bias": False}, 28_071_976),
        (44_549_160, RESNET101, "se", {}, 49_326_872),
        (60_192_808, RESNET152, "se", {}, 66_821_848),
        (11_689_512, RESNET18, "cbam", {}, 11_779_392),
        (21_797_672, RESNET34, "cbam", {}, 21_960_468),
        (25_557_032, RESNET50, "cbam", {}, 28_089_624),
        (44_549_160, RESNET101, "cbam", {}, 49_330_172),
        (25_557_032, RESNET50, "eca", {}, 25_557_118),
        (23_705_252, RESNET50, "cbam", {}, 26_237_844),  # from here on for small images and 100 classes
        (23_705_252, {256: 1, 512: 1, 1024: 1}, "bam", {}, 24_063_319),
    ],
)
def test_published_totals_of_networks(
    plain: int, widths: dict[int, int], name: str, options: dict[str, Any], published: int
) -> None:
    assert plain + added(widths, name, options) == published


def test_gam_behind_every_block_of_resnet50_costs_what_its_paper_says() -> None:
    assert round((23_705_252 + added(RESNET50, "gam", {})) / 1e6, 1) == 149.5
    assert 57.0 < (23_705_252 + added(RESNET50, "gam", {"groups": 4})) / 1e6 < 57.1


def added(widths: dict[int, int], name: str, options: dict[str, Any]) -> int:
    """Parameters of one attention a block."""
    entry = ATTENTIONS[name]
    return sum(n * entry.n_parameters(c, resolve_options(entry, c, options), Context()) for c, n in widths.items())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cbma", {}, r"Unknown attention 'cbma': did you mean 'cbam'\? Known: aff, .*, triplet\."),
        ("cbam", {"kernal_size": 3}, r"Unknown option of 'cbam' 'kernal_size': did you mean 'kernel_size'\?"),
        ("cbam", {"kernel_size": 4}, r"'kernel_size' of 'cbam' must be an odd number from 1 to 63, but got 4\."),
        (
            "cbam",
            {"order": "channel"},
            r"one of channel_first, .* \(did you mean '.*'\?\), but got 'channel'\.",
        ),
        ("se", {"reduction": 17}, r"reduction <= channels must hold, but got reduction=17, channels=16; the nearest"),
        ("gam", {"reduction": 4, "groups": 3}, r"groups must divide .* groups=3, .* hidden width 4; .*groups=2 or 4\."),
        ("self_attention", {"heads": 3}, r"heads must divide the channels, .* channels=16; .* work: heads=2 or 4\."),
        ("shuffle", {"groups": 3}, r"2 \* groups must divide the channels, .* groups=3, .* work: groups=2 or 4\."),
        ("sk", {}, r"groups must divide .* groups=32, channels=16 in and 16 out; the nearest that works: groups=16\."),
        ("deform", {"groups": 3}, r"groups must divide the input channels, .* work: groups=2 or 4\."),
        ("lska", {"kernel_size": 9}, r"'kernel_size' of 'lska' must be one of 7, 11, 23, 35, 41, 53, but got 9\."),
        ("gct", {"mode": "l3"}, r"one of l2, l1 \(did you mean 'l2'\?\), but got 'l3'\."),
        ("daf", {"reduction": 4}, r"Unknown option of 'daf' 'reduction'\. Known: none\."),
        ("triple", {"context": None}, r"needs the number of classes: pass context=Context\(num_classes=...\)\."),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        create_attention(name, CHANNELS, **options)


def test_no_channels_are_refused() -> None:
    for name in ATTENTIONS.own:
        with pytest.raises(SpaceError, match=rf"channels >= 1 must hold for attention '{name}', but got channels=0\."):
            create_attention(name, 0, context=CONTEXT)
