"""Backbones of other people, registered in a process: built, placed and searched as ours are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from own_networks import Block
from ray import cloudpickle
from safetensors.torch import load_file
from torch import Tensor, nn

from nas_attn import Backbone, BackboneOption, Place, register_backbone
from nas_attn.backbones.catalog import BACKBONES, backbone_entry, check_backbone, image_sizes
from nas_attn.backbones.site_table import site_survey, site_table
from nas_attn.backbones.survey import survey as own_module
from nas_attn.backbones.weights_file import find_weights
from nas_attn.cli.site_tree import print_sites
from nas_attn.config import Recipe
from nas_attn.errors import FileError, SpaceError
from nas_attn.files import cache_path
from nas_attn.model.build import build_model
from nas_attn.model.file import load_model
from nas_attn.placement import Placement, Shape, Survey
from nas_attn.run.folder import load_run
from nas_attn.run.job import search
from nas_attn.space.schema import space_schema
from nas_attn.training.context import TrialContext, registered_here
from nas_attn.training.trial import prepare

SHAPE = {"num_classes": 5, "in_channels": 1, "image_size": 8}
RESIDUAL_SITES = ("pre", "branch", "shortcut", "merge")


class TwoBlocks(nn.Module):
    """Two residual blocks and a pooling, as somebody writes them."""

    def __init__(self, num_classes: int, in_channels: int, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        self.blocks = nn.Sequential(Block(width, width), Block(width, 2 * width, stride=2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.blocks(self.stem(x))).flatten(1))


def name_places(net: nn.Module) -> Iterator[Place]:
    """Name the head before what lies before it: the sites come in the order of the data flow all the same."""
    yield Place("head", "head", "pool", "stage2")
    for number in (1, 2):
        for kind in ("branch", "output"):
            yield Place(f"stage{number}.block1.{kind}", kind, f"blocks.{number - 1}", f"stage{number}")
    yield Place("stem", "shortcut", "stem")


WIDTH = BackboneOption("width", 8, "int", "channels of the first block", low=2)
MINE = Backbone("mine", TwoBlocks, "Two blocks.", 32, smallest_image=4, options=(WIDTH,))
NAMED = replace(MINE, places=name_places, lacks={"hidden": "its branches end in 3x3 convolutions"})

Register = Callable[..., Backbone]


@pytest.fixture
def register() -> Iterator[Register]:
    """Register `MINE` with other facts, under its name; it is taken out again in the end."""

    def added(entry: Backbone = MINE, **facts: Any) -> Backbone:
        entry = replace(entry, **facts)
        register_backbone(entry)
        return entry

    yield added
    for entry in BACKBONES.registered:
        BACKBONES.unregister(entry.name)


def at(*sites: str) -> Placement:
    return Placement.from_dict({site: {"name": "se", "reduction": 2} for site in sites})


# Registered in this process.


def test_a_registered_backbone_is_built_placed_and_listed(register: Register, capsys: pytest.CaptureFixture) -> None:
    entry = register()
    assert backbone_entry("mine") is entry
    assert list(BACKBONES)[-1] == "mine"
    assert check_backbone("mine") == {"name": "mine", "width": 8}
    assert image_sizes("mine") == (4, 32)

    table = site_table({"name": "mine", "width": 4}, num_classes=5, in_channels=1)
    assert (table.backbone, table.image_size) == ("mine", 32)
    assert {site.name for site in table.sites} >= {"stem", "pool.head", *(f"blocks.0.{k}" for k in RESIDUAL_SITES)}
    model = build_model("mine", at("blocks.0.branch"), **SHAPE)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 5)
    assert model.spec == {"name": "mine", "width": 8}

    print_sites("mine", ["width=4"], num_classes=None, in_channels=1, image_size=8)
    assert re.search(r"mine  1 channels, 8x8 pixels(.|\n)* blocks(.|\n)* merge ", capsys.readouterr().out)
    tables = space_schema()["properties"]["backbone"]["anyOf"]
    assert "mine" in tables[0]["enum"]
    (ours,) = [table for table in tables if table.get("properties", {}).get("name") == {"const": "mine"}]
    about = "Channels of the first block. Default: 8."
    assert ours["properties"]["width"] == {"type": "integer", "minimum": 2, "description": about}


@pytest.mark.parametrize("places", [name_places, f"{__name__}:name_places"], ids=["function", "path"])
def test_places_name_the_sites_that_a_run_finds(register: Register, places: Any) -> None:
    register(NAMED, places=places, build=f"{__name__}:TwoBlocks")
    table = site_table("mine", **SHAPE)
    assert [(site.name, site.kind, site.channels, site.height, site.stage) for site in table.sites] == [
        ("stem", "shortcut", 8, 8, "stage1"),
        ("stage1.block1.branch", "branch", 8, 8, "stage1"),
        ("stage1.block1.output", "output", 8, 8, "stage1"),
        ("stage2.block1.branch", "branch", 16, 4, "stage2"),
        ("stage2.block1.output", "output", 16, 4, "stage2"),
        ("head", "head", 16, 4, "stage2"),
    ]
    with pytest.raises(SpaceError, match=r"no.* of kind 'hidden' \(its branches end in 3x3 convolutions\)"):
        table.site("stage1.block1.hidden")
    placement = at("stage1.block1.branch", "stem", "stage2.block1.output")
    named = build_model("mine", placement, **SHAPE, seed=0).eval()
    register(MINE)
    by_path = build_model("mine", at("blocks.0.branch", "stem", "blocks.1"), **SHAPE, seed=1).eval()
    paths = {"stage1.block1.branch": "blocks.0.branch", "stage2.block1.output": "blocks.1"}
    state = named.state_dict()
    by_path.load_state_dict({re.sub("|".join(paths), lambda at: paths[at[0]], key): state[key] for key in state})
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(named(images), by_path(images))
    named.train()(images).sum().backward()


def test_one_of_ours_under_another_name_has_the_sites_that_it_has(register: Register) -> None:
    register(BACKBONES["resnet18"], name="mine")
    ours, plugged = (site_table({"name": name, "stem": "small"}, **SHAPE) for name in ("resnet18", "mine"))
    assert [replace(site, module="") for site in plugged.sites] == [replace(site, module="") for site in ours.sites]
    assert (plugged.n_parameters, plugged.n_macs, plugged.lacks) == (ours.n_parameters, ours.n_macs, ours.lacks)


def test_options_are_checked_as_ours_are(register: Register) -> None:
    flags = (BackboneOption("deep", False, "bool", "x"), BackboneOption("act", "relu", "str", "x"))
    free = (BackboneOption("rate", 0.5, "float", "x"), BackboneOption("sizes", [1], "ints", "x", longest=2, high=9))
    register(options=(WIDTH, *flags, *free))
    spec = {"name": "mine", "width": 99, "deep": True, "act": "gelu", "rate": 7.0, "sizes": [0, 9]}
    assert check_backbone(spec) == spec
    for option, value, law in (
        ("width", 1, "width: a whole number from 2"),
        ("deep", 1, "deep: true or false"),
        ("act", 1, "act: a word"),
        ("rate", float("inf"), "rate: a number"),
        ("sizes", [10], "sizes: a list of 1 to 2 whole numbers to 9"),
    ):
        with pytest.raises(SpaceError, match=f"^{law} must hold for backbone 'mine', but got "):
            check_backbone({"name": "mine", option: value})
    with pytest.raises(SpaceError, match="Unknown option of backbone 'mine' 'widht': did you mean 'width'"):
        check_backbone({"name": "mine", "widht": 3})
    with pytest.raises(SpaceError, match="Backbone 'mine' takes images of 4x4 pixels or more, but got image_size=3"):
        site_table("mine", num_classes=5, in_channels=1, image_size=3)
    with pytest.raises(SpaceError, match=r"must be none of name, import, .*, but 'mine' has 'weights'"):
        replace(MINE, options=(BackboneOption("weights", "", "str", "x"),))


@pytest.mark.parametrize("name", ["Mine", "my-net", "timm:mine", ""])
def test_a_name_that_cannot_be_a_key_is_refused(name: str) -> None:
    with pytest.raises(SpaceError, match=rf"^A backbone's name must be a lower-case identifier, but got '{name}'\.$"):
        register_backbone(replace(MINE, name=name))
    assert BACKBONES.registered == ()


def test_what_is_taken_and_what_is_no_record_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"^A backbone's name must be free, but 'lenet' is one of this package: call "):
        register_backbone(replace(MINE, name="lenet"))
    with pytest.raises(
        SpaceError, match=r"^What is registered as a backbone must be a nas_attn\.Backbone, but is type"
    ):
        register_backbone(TwoBlocks)


def no_network() -> object:
    return object()


def raising(num_classes: int) -> nn.Module:
    raise ValueError("no\nsuch thing")


def wrapped(num_classes: int, in_channels: int) -> nn.Module:
    return nn.DataParallel(TwoBlocks(num_classes, in_channels))


class FailsInTraining(TwoBlocks):
    """Runs in evaluation mode only."""

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training, "not now"
        return super().forward(x)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"build": raising}, "The build function raised ValueError: no."),
        ({"build": no_network}, "The build function must return a torch module, but returned object."),
        ({"build": nn.Identity()}, "The build function must be a function that returns a network, but is a Identity: "),
        ({"build": wrapped}, "The network is wrapped in DataParallel: pass the wrapped module"),
        ({"build": "no_such:net"}, "The build function 'no_such:net' cannot be loaded: No module named 'no_such'."),
        ({"build": f"{__name__}:raising"}, f"The build function '{__name__}:raising' raised ValueError: no."),
        (
            {"fixed": {"depth": 3}},
            "The build function has no option 'depth': it takes num_classes, in_channels, width.",
        ),
        (
            {"fixed": {"num_classes": 4}},
            "The network mine must return (2, 5) for 2 images of 5 classes, but returns (2, 4)",
        ),
        ({"fixed": {"in_channels": 3}}, "The network TwoBlocks does not accept images (2, 1, 8, 8): "),
        (
            {"build": FailsInTraining},
            "The network FailsInTraining does not accept images (2, 1, 8, 8) in training: not ",
        ),
        ({"places": raising}, "The places function raised ValueError: no."),
        ({"places": "no_such:places"}, "The places function 'no_such:places' cannot be loaded: No module named"),
        ({"places": lambda net: ["stem"]}, "The places function must return nas_attn.Place objects, but returned str."),
        (
            {"places": lambda net: [Place("a", "outpt", "stem")]},
            "Unknown kind of site 'outpt' in place 'a': did you mean 'output'?",
        ),
        (
            {"places": lambda net: [Place("a", "output", "stm")]},
            "Unknown module 'stm' in place 'a': did you mean 'stem'?",
        ),
        ({"places": lambda net: [Place("a", "output", "stem")] * 2}, "'a' is named twice."),
        (
            {"places": lambda net: [Place("a", "hidden", "blocks.0")]},
            "Place 'a' must be a site, but module 'blocks.0' has none of kind 'hidden': the branch of block",
        ),
        (
            {"places": lambda net: [Place("a", "output", "classifier")]},
            "Place 'a' must be a site, but module 'classifier' has none of kind 'output'",
        ),
    ],
    ids=lambda value: "" if isinstance(value, Mapping) else value[:60],
)
def test_what_is_wrong_with_a_backbone_is_said_in_one_sentence_that_names_it(
    register: Register, facts: dict[str, Any], sentence: str
) -> None:
    register(**{"options": (), **facts})
    with pytest.raises(SpaceError, match=rf"^Backbone 'mine' cannot be used: .*{re.escape(sentence)}"):
        site_table("mine", **SHAPE)


# What is kept.


def test_nothing_of_a_plug_in_is_kept_on_disk_or_measured_twice(
    register: Register, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # other processes of the tests write to theirs
    surveyed = []
    survey = own_module.survey

    def counted(net: nn.Module, *others: Any) -> Survey:
        surveyed.append(net)
        return survey(net, *others)

    monkeypatch.setattr(own_module, "survey", counted)
    register()
    for _ in range(2):
        site_survey(check_backbone("mine"), Shape(**SHAPE))
        build_model("mine", at("blocks.0.branch"), **SHAPE)
    assert len(surveyed) == 1
    assert list(cache_path("sites", "x").parent.glob("*")) == []


def test_another_record_under_the_same_name_has_sites_of_its_own(register: Register) -> None:
    register()
    first = site_table("mine", **SHAPE)
    build_model("mine", at("blocks.0.branch"), **SHAPE)
    register(NAMED)
    assert site_table("mine", **SHAPE) != first
    assert "stage1.block1.branch" in build_model("mine", at("stage1.block1.branch"), **SHAPE).placement
    with pytest.raises(SpaceError, match=r"Unknown site 'blocks\.0\.branch' in backbone 'mine'"):
        build_model("mine", at("blocks.0.branch"), **SHAPE)
    register(build=lambda num_classes, in_channels: TwoBlocks(num_classes, in_channels, 4), options=())
    assert site_table("mine", **SHAPE).site("blocks.0").channels == 4
    BACKBONES.unregister("mine")
    with pytest.raises(SpaceError, match="Unknown backbone 'mine'"):
        site_table("mine", **SHAPE)


def test_it_starts_from_a_file_and_from_no_name_that_is_not_its_own(register: Register, tmp_path: Path) -> None:
    register(fixed={"arch": "resnet18"})
    with pytest.raises(SpaceError, match="torchvision has no weights for backbone 'mine', but got weights = 'DEFAULT'"):
        find_weights(check_backbone({"name": "mine", "weights": "DEFAULT"}))
    register()
    net = TwoBlocks(5, 1)
    torch.save(net.state_dict(), tmp_path / "mine.pt")
    model = build_model({"name": "mine", "weights": str(tmp_path / "mine.pt")}, Placement(), **SHAPE)
    assert torch.equal(model.backbone.stem.weight, net.stem.weight)
    with pytest.raises(FileError, match=r"do not fit the network: 'stem\.weight' must be"):
        build_model({"name": "mine", "width": 4, "weights": str(tmp_path / "mine.pt")}, Placement(), **SHAPE)


def test_torchvision_s_weights_are_those_of_the_function_that_builds_it(register: Register) -> None:
    register(build="torchvision.models:resnet152", options=())
    with pytest.raises(SpaceError, match=r"Unknown weights of backbone 'mine' 'V1'.*Known: DEFAULT, IMAGENET1K_V1, "):
        find_weights({"name": "mine", "weights": "V1"})


def with_se(num_classes: int, in_channels: int) -> nn.Module:
    from torchvision.ops import SqueezeExcitation

    steps = (nn.Conv2d(in_channels, 8, 3, padding=1), SqueezeExcitation(8, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*steps, nn.Linear(8, num_classes))


def test_its_own_squeeze_and_excitation_is_taken_out(register: Register) -> None:
    register(build=with_se, options=())
    assert site_table("mine", **SHAPE).built_in == ("1",)
    replaced = {"name": "mine", "replace": "se"}
    assert site_table(replaced, **SHAPE).built_in == ()
    assert isinstance(build_model(replaced, at("0"), **SHAPE).backbone[1], nn.Identity)


# Searched.

SPACE = """
title = "SE in two blocks of mine"
[backbone]
name = "mine"
width = 4
[[sites]]
match = ["every block.branch"]
share = "all"
attentions = ["se"]
[attentions.se]
reduction = [1, 2]
"""


@pytest.mark.parametrize("entry", [MINE, NAMED], ids=["paths", "named"])
def test_a_search_on_images_enlarged_for_it_ends_in_a_model_that_its_name_rebuilds(
    register: Register, tmp_path: Path, entry: Backbone
) -> None:
    register(entry, smallest_image=9, default_image=lambda spec: 2 * spec["width"] + 4)
    (tmp_path / "mine.toml").write_text(SPACE)
    settings = {"trials": 1, "epochs": 1, "seeds": 1, "top": 1, "cpus_per_trial": 1, "executor": "local"}
    run = search(tmp_path / "mine.toml", out=tmp_path / "run", **settings)
    assert run.config["data"]["image_size"] == 12
    best = json.loads((run.folder / "best.json").read_text())
    assert best["backbone"] == {"name": "mine", "width": 4}
    model, weights = load_model(run.folder / "best.json"), load_file(run.folder / "best.safetensors")
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())
    assert model(torch.randn(2, 1, 12, 12)).shape == (2, 10)

    BACKBONES.unregister("mine")
    assert load_run(run.folder).table.backbone == "mine"
    with pytest.raises(FileError, match=r"cannot be built: Unknown backbone 'mine'"):
        load_model(run.folder / "best.json")


def test_a_worker_registers_what_the_driver_did(register: Register) -> None:
    register(NAMED, build=lambda **words: TwoBlocks(5, 1), options=())  # pickled by value, as a notebook's
    context = TrialContext({"name": "mine"}, Shape(**SHAPE), Recipe(), train="math:sqrt", registered=registered_here())
    shipped = cloudpickle.loads(cloudpickle.dumps(context))
    BACKBONES.unregister("mine")
    prepare(shipped)
    assert build_model(shipped.backbone, at("stage1.block1.branch"), **SHAPE)(torch.zeros(1, 1, 8, 8)).shape == (1, 5)
