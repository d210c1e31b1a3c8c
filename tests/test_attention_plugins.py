"""Attention modules of other people: the contract finds what is wrong with theirs, and the catalogue takes them in."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_cases import failure, run_all
from broken_attentions import (
    BROKEN,
    FROZEN,
    POWER,
    REDUCTION,
    SQUEEZED,
    WITH_FORMS,
    NeedsImages,
    Squeezed,
    WidensHalves,
    entry_of,
)
from conftest import RunCommand
from plugin_packages import lay_package

from nas_attn.attention.catalog import ATTENTIONS, attention_entry, register_attention
from nas_attn.attention.create import create_attention
from nas_attn.attention.entry import Entry, load_class
from nas_attn.backbones.site_table import site_table
from nas_attn.cost import count_macs, count_parameters
from nas_attn.errors import SpaceError
from nas_attn.model.build import build_model
from nas_attn.placement import Placement
from nas_attn.registry import Catalogue
from nas_attn.space.fit import placement_cost
from nas_attn.testing import suite as testing
from nas_attn.testing.suite import CHECKS, attention_checks


def failing(entry: Entry, among: Container[str] = CHECKS) -> set[str]:
    """Names of the checks that fail."""
    return {check.name for check in attention_checks(entry) if check.name in among and failure(check)}


@pytest.mark.parametrize("entry", [SQUEEZED, FROZEN], ids=["squeezed", "frozen"])
def test_a_good_entry_passes_every_check(entry: Entry) -> None:
    run_all(attention_checks(entry))


def test_good_closed_forms_pass() -> None:
    run_all(check for check in attention_checks(WITH_FORMS) if check.name == "cost")


def test_every_failure_of_several_checks_is_reported() -> None:
    with pytest.raises(AssertionError, match=r"^my_gate-dtype: my_gate: torch\.bfloat16 .*\.\nmy_gate-record: "):
        run_all(
            [
                *[c for c in attention_checks(entry_of(WidensHalves)) if c.name == "dtype"],
                *[c for c in attention_checks(BROKEN["a default that is not the record's"][0]) if c.name == "record"],
            ]
        )


@pytest.mark.parametrize("what", BROKEN)
def test_the_right_check_fails_on(what: str) -> None:
    entry, expected = BROKEN[what]
    assert failing(entry, expected) == expected


@pytest.mark.nightly
@pytest.mark.parametrize("what", BROKEN)
def test_no_other_check_fails_on(what: str) -> None:
    entry, expected = BROKEN[what]
    assert failing(entry, set(CHECKS) - expected) == set()


def test_every_check_is_seen_to_fail() -> None:
    assert set.union(*(expected for _, expected in BROKEN.values())) == set(CHECKS)


def test_a_check_says_what_must_hold_and_what_was_found() -> None:
    check = next(c for c in attention_checks(entry_of(WidensHalves)) if c.name == "dtype")
    with pytest.raises(AssertionError, match=r"^my_gate: torch\.bfloat16 must be kept, but became torch\.float32\.$"):
        check.run()


def test_what_a_module_raises_itself_is_reported_with_the_variant() -> None:
    check = next(c for c in attention_checks(entry_of(NeedsImages)) if c.name == "one_image")
    with pytest.raises(AssertionError, match=r"^my_gate: ValueError: Expected more than 1 value per channel"):
        check.run()


def test_an_excepted_check_must_fail() -> None:
    excused = replace(BROKEN["a bias that a softmax hides"][0], exceptions={"bias_gradient": "the softmax hides it"})
    assert failing(excused) == set()

    check = next(c for c in attention_checks(replace(SQUEEZED, exceptions={"pickle": "?"})) if c.name == "pickle")
    with pytest.raises(AssertionError, match=r"'pickle' is among .* but it passes: remove the exception\."):
        check.run()


def test_an_exception_names_a_check_that_there_is() -> None:
    with pytest.raises(SpaceError, match=r"Unknown check 'pickles' in the exceptions of 'my_gate': .* 'pickle'\?"):
        attention_checks(replace(SQUEEZED, exceptions={"pickles": "?"}))


def test_checks_have_readable_and_unique_names() -> None:
    names = [str(check) for check in attention_checks("cbam")]
    assert "cbam-shape" in names
    assert "cbam-order=parallel-channels_last" in names
    assert len(set(names)) == len(names)


def test_options_are_brought_to_the_channels_or_refused() -> None:
    wide = entry_of(Squeezed, replace(REDUCTION, default=64), POWER, fits=lambda c, o, x: "no" if c < 48 else None)
    assert {check.variant for check in attention_checks(wide)} >= {"my_gate", "my_gate-power=0.5"}
    with pytest.raises(SpaceError, match=r"No options of 'my_gate' fit 32 channels"):
        attention_checks(wide, channels=32)


def test_an_author_of_a_plug_in_runs_the_contract_as_the_docstring_says(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(root / "examples"))
    _, _, snippet = (testing.__doc__ or "").partition("test file of a plug-in:")
    test_file: dict[str, Any] = {"pytest": pytest, "MY_ENTRY": import_module("own_attention").CONTRAST}
    exec(textwrap.dedent(snippet), test_file)
    (mark,) = test_file["test_my_gate"].pytestmark
    argument, checks = mark.args

    assert argument == "check"
    assert {check.name for check in checks} == set(CHECKS)
    assert len({mark.kwargs["ids"](check) for check in checks}) == len(checks)
    for check in checks:
        test_file["test_my_gate"](check)


def test_the_contract_needs_no_pytest(run_python: RunCommand) -> None:
    code = "import sys, nas_attn.testing; assert 'pytest' not in sys.modules"
    assert run_python("-c", code).returncode == 0


# In the catalogue of this process.


@pytest.fixture
def registered(request: pytest.FixtureRequest) -> Iterator[Entry]:
    register_attention(request.param)
    yield request.param
    ATTENTIONS.unregister("my_gate")


each_good_entry = pytest.mark.parametrize("registered", [SQUEEZED, WITH_FORMS], indirect=True, ids=["counted", "forms"])


@each_good_entry
def test_a_registered_entry_is_one_of_the_catalogue(registered: Entry) -> None:
    module = create_attention("my_gate", 16, reduction=2)
    assert isinstance(module, Squeezed)
    assert module.reduce.out_features == 8
    assert "my_gate" in ATTENTIONS
    assert list(ATTENTIONS)[-1] == "my_gate"
    assert attention_entry("my_gate") is registered
    with pytest.raises(SpaceError, match=r"Unknown option of 'my_gate' 'reducton': did you mean 'reduction'\?"):
        create_attention("my_gate", 16, reducton=2)


@each_good_entry
def test_a_registered_entry_costs_in_a_network_what_the_network_costs(registered: Entry) -> None:
    backbone, shape = {"name": "resnet18", "stem": "small"}, {"num_classes": 10, "in_channels": 3, "image_size": 32}
    placement = Placement.from_dict(
        {
            "stage1.block1.output": {"name": "my_gate", "reduction": 16},
            "stage2.block2.branch": {"name": "my_gate", "wiring": "concat"},
            "stage4.block1.shortcut": {"name": "my_gate", "power": 2.0, "wiring": "residual"},
        }
    )
    model = build_model(backbone, placement, **shape)
    cost = placement_cost(site_table(backbone, **shape), placement)

    assert (cost.n_parameters, cost.n_macs) == (count_parameters(model), count_macs(model, (3, 32, 32)))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_an_entry_can_be_replaced_and_taken_out() -> None:
    register_attention(SQUEEZED)
    register_attention(WITH_FORMS)
    assert ATTENTIONS.registered == (WITH_FORMS,)
    ATTENTIONS.unregister("my_gate")
    ATTENTIONS.unregister("my_gate")

    assert "my_gate" not in ATTENTIONS
    with pytest.raises(SpaceError, match=r"Unknown attention 'my_gate'"):
        attention_entry("my_gate")


@pytest.mark.parametrize("name", ["My_gate", "my-gate", "", "2gates", "none", "name", "wiring", "start"])
def test_a_name_that_cannot_be_a_key_is_refused(name: str) -> None:
    with pytest.raises(SpaceError, match=rf"name must be a lower-case identifier and none of none, .* got '{name}'\."):
        register_attention(replace(SQUEEZED, name=name))
    assert ATTENTIONS.registered == ()


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"must be free, but 'se' is one of this package: call it 'my_se'\."):
        register_attention(replace(SQUEEZED, name="se"))


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        ("no_such_module:Gate", r"The class no_such_module:Gate .* cannot be loaded: ModuleNotFoundError: .*'\.$"),
        ("torch.nn:Gate", r"cannot be loaded: AttributeError: module 'torch\.nn' has no attribute 'Gate'\.$"),
        ("torch:manual_seed", r"The class torch:manual_seed of an attention must be a class, but is <function"),
    ],
)
def test_a_class_that_is_not_to_be_had_is_named(cls: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        load_class(cls)


# Installed packages.

GOOD_MODULE = """
from torch import nn
from nas_attn import Entry

class Gate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x * self.conv(x)

GATE = Entry("{name}", "{module}:Gate", "Gates.", "y = x * conv(x)", "Me, 2026")
NO_ENTRY = Gate
"""

GROUP, RESERVED = "nas_attn.attentions", ("none", "name", "wiring", "start")

Install = Callable[..., Catalogue]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Lay a package with one module and one entry point on the path; return a fresh catalogue of 'se' alone."""

    def lay(package: str, point: str, value: str = "GATE", *, code: str = GOOD_MODULE, name: str = "") -> Catalogue:
        code = code.replace("{name}", name or point).replace("{module}", f"{package}_attn")
        lay_package(tmp_path, monkeypatch, package, group=GROUP, point=point, value=value, code=code)
        return Catalogue(ATTENTIONS["se"], group=GROUP, noun="attention", record=Entry, reserved=RESERVED)

    return lay


def test_an_installed_attention_is_found_loaded_on_use_and_good(install: Install) -> None:
    catalogue = install("goodpack", "good_gate")

    assert list(catalogue) == ["se", "good_gate"]
    assert "good_gate" in catalogue
    assert catalogue.own == ("se",)
    assert catalogue.problems() == {}
    assert [entry.name for entry in catalogue.loadable()] == ["se", "good_gate"]
    assert failing(catalogue["good_gate"]) == set()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"code": "raise RuntimeError('no GPU,\\n no gate.')"},
            r"^Attention 'bad_gate' of the installed package 'badpack' \(badpack_attn:GATE\) cannot be loaded: "
            r"RuntimeError: no GPU, no gate\.$",
        ),
        (
            {"code": "import no_such_module"},
            r"cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'\.$",
        ),
        ({"value": "GATES"}, r"cannot be loaded: AttributeError: .* has no attribute 'GATES'\.$"),
        ({"value": "NO_ENTRY"}, r"\(badpack_attn:NO_ENTRY\) must be a nas_attn\.Entry, but is type\.$"),
        ({"name": "other_gate"}, r"must have the name of its entry point, but the record's name is 'other_gate'\.$"),
        ({"point": "Bad-Gate"}, r"name must be a lower-case identifier and none of none, .*, but got 'Bad-Gate'\.$"),
    ],
)
def test_a_broken_package_takes_its_own_attention_away_and_nothing_else(
    install: Install, given: dict[str, str], message: str
) -> None:
    point = given.get("point", "bad_gate")
    catalogue = install("badpack", **({"point": "bad_gate"} | given))

    with pytest.raises(SpaceError, match=message):
        catalogue[point]
    assert list(catalogue.problems()) == [point]
    assert [entry.name for entry in catalogue.loadable()] == ["se"]
    assert catalogue["se"] is ATTENTIONS["se"]


def test_a_package_cannot_take_a_name_of_ours(install: Install) -> None:
    catalogue = install("badpack", "se")

    assert catalogue["se"] is ATTENTIONS["se"]
    assert catalogue.problems() == {
        "se (the installed package 'badpack')": "Attention 'se' of the installed package 'badpack' (badpack_attn:GATE) "
        "must have a free name, but this package has it: call it 'my_se'."
    }
    assert [entry.name for entry in catalogue.loadable()] == ["se"]


def test_the_first_package_of_a_name_has_it(install: Install) -> None:
    install("apack", "gate")
    catalogue = install("bpack", "gate")

    assert catalogue["gate"].cls == "apack_attn:Gate"
    assert list(catalogue.problems().values()) == [
        "Attention 'gate' of the installed package 'bpack' (bpack_attn:GATE) must have a free name, but the "
        "installed package 'apack' has it: call it 'my_gate'."
    ]


def test_nobody_registers_over_an_installed_attention(install: Install) -> None:
    catalogue = install("goodpack", "my_gate")
    with pytest.raises(SpaceError, match=r"'my_gate' is one of the installed package 'goodpack': call it 'my_my_gate'"):
        catalogue.register(SQUEEZED)


def test_the_catalogue_names_what_keeps_an_installed_attention_away(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = install("badpack", "bad_gate", code="1 / 0")
    monkeypatch.setattr("nas_attn.attention.catalog.ATTENTIONS", catalogue)
    with pytest.raises(
        SpaceError, match=r"^Attention 'bad_gate' at site 'x' cannot be used: .*'badpack'.* ZeroDivisionError: .*\.$"
    ):
        attention_entry("bad_gate", "site 'x'")
    with pytest.raises(
        SpaceError, match=r"Unknown attention 'bad_gat': did you mean 'bad_gate'\? Known: bad_gate, se\."
    ):
        attention_entry("bad_gat")
