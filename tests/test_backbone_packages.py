"""Backbones of installed packages: found by their entry points, loaded on use, and harmless where they are broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from plugin_packages import lay_package

from nas_attn import Backbone, register_backbone
from nas_attn.backbones.catalog import BACKBONES, backbone_entry, check_backbone
from nas_attn.backbones.site_table import site_table
from nas_attn.cli.commands import main
from nas_attn.errors import SpaceError
from nas_attn.model.build import build_model
from nas_attn.placement import Placement
from nas_attn.registry import Catalogue
from nas_attn.space.schema import space_schema

SHAPE = {"num_classes": 5, "in_channels": 1, "image_size": 8}
SE = Placement.from_dict({"0": {"name": "se", "reduction": 2}})

SPACE = """
title = "SE behind a convolution"
backbone = "mine"
[[sites]]
match = ["0"]
attentions = ["se"]
[attentions.se]
reduction = [1, 2]
"""

CODE = """
from torch import nn
from nas_attn import Backbone

def net(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))

NET = Backbone("{point}", "{package}_attn:net", "A convolution.", 8)
"""

Install = Callable[..., Catalogue]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Lay a package with one backbone on the path; the catalogue is one of 'lenet' and what is installed."""

    def lay(package: str, point: str, value: str = "NET", code: str = CODE) -> Catalogue:
        code = code.replace("{point}", point).replace("{package}", package)
        lay_package(tmp_path, monkeypatch, package, group="nas_attn.backbones", point=point, value=value, code=code)
        fresh = Catalogue(BACKBONES["lenet"], group="nas_attn.backbones", noun="backbone", record=Backbone)
        for user in ("backbones.catalog", "space.schema", "run.dry_run", "training.context"):
            monkeypatch.setattr(f"nas_attn.{user}.BACKBONES", fresh)
        return fresh

    return lay


def test_an_installed_backbone_is_found_and_loaded_on_use(install: Install) -> None:
    catalogue = install("goodnets", "good_net")
    assert list(catalogue) == ["lenet", "good_net"]
    assert catalogue.origin("good_net") == "the installed package 'goodnets'"
    assert build_model("good_net", SE, **SHAPE)(torch.zeros(1, 1, 8, 8)).shape == (1, 5)
    assert "good_net" in space_schema()["properties"]["backbone"]["anyOf"][0]["enum"]
    with pytest.raises(
        SpaceError, match="'good_net' is one of the installed package 'goodnets': call it 'my_good_net'"
    ):
        register_backbone(Backbone("good_net", "mine:net", "A net.", 8))


def test_the_plan_says_who_gave_an_installed_backbone(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    install("goodnets", "mine")
    (tmp_path / "mine.toml").write_text(SPACE)
    assert main(["search", "--dry-run", "--space", str(tmp_path / "mine.toml"), "--device", "cpu"]) == 0
    assert "\nNetwork: mine of the installed package 'goodnets'.\n" in capsys.readouterr().out


def test_a_broken_package_takes_its_own_backbone_away_and_nothing_else(install: Install) -> None:
    catalogue = install("badnets", "bad_net", code="1 / 0")
    sentence = (
        r"^Backbone 'bad_net' in x\.toml cannot be used: Backbone 'bad_net' of the installed package 'badnets' "
        r"\(badnets_attn:NET\) cannot be loaded: ZeroDivisionError: division by zero\.$"
    )
    with pytest.raises(SpaceError, match=sentence):
        check_backbone("bad_net", "x.toml")
    assert [entry.name for entry in catalogue.loadable()] == ["lenet"]
    assert space_schema()["properties"]["backbone"]["anyOf"][0]["enum"] == ["lenet"]
    assert check_backbone("lenet") == {"name": "lenet"}


def test_an_installed_record_of_another_kind_is_none(install: Install) -> None:
    install("oddnets", "odd_net", "net")
    with pytest.raises(SpaceError, match=r"\(oddnets_attn:net\) must be a nas_attn\.Backbone, but is function\.$"):
        backbone_entry("odd_net")


def test_our_own_backbones_ask_no_installed_package(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = install("goodnets", "good_net")
    monkeypatch.setattr("importlib.metadata.entry_points", None)
    assert site_table("lenet", num_classes=5, in_channels=1).backbone == "lenet"
    with pytest.raises(TypeError, match="not callable"):
        _ = catalogue["good_net"]
