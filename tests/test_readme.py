"""What the README says exists: its options, its files, its space, its Python."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import torchvision
import typer

import nas_attn
from nas_attn import Placement, SearchSpace, build_model
from nas_attn.backbones.site_table import own_table
from nas_attn.cli import commands as cli


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text()


def blocks(readme: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", readme, re.DOTALL)


def test_every_option_that_it_names_exists(readme):
    known = {"--index-url", "--help"}  # pip's, and every command's
    for command in typer.main.get_command(cli.app).commands.values():
        known |= {option for parameter in command.params for option in getattr(parameter, "opts", [])}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", readme))
    assert "--space" in named
    assert named <= known


def test_every_file_that_it_names_exists(readme, root):
    named = set(re.findall(r"(?:examples/|benchmarks/)\w+\.py|\b[A-Z]+\.md\b|\brun_search\.py\b", readme))
    assert {name for name in named if not (root / name).exists()} == set()


def test_its_space_is_valid_and_its_limit_means_something(readme):
    (text,) = [block for block in blocks(readme, "toml") if "[[sites]]" in block]
    space = SearchSpace.from_dict(tomllib.loads(text), "the README")
    assert space.bound.n_placements == 5**4
    assert space.check(space.bound.cheapest()) is None
    assert "max_params is 26,000,000" in (space.check(space.bound.dearest()) or "")


def test_its_python_compiles_and_imports_public_names_only(readme):
    for block in blocks(readme, "python"):
        compile(block, "README.md", "exec")
        for names in re.findall(r"^from nas_attn import (.+)$", block, re.MULTILINE):
            assert set(names.split(", ")) <= set(nas_attn.__all__)


def test_a_network_of_ones_own_has_the_sites_that_it_names(readme):
    (name,) = re.findall(r'\{"(layer[\w.]+)": \{"name": "cbam", "reduction": 8\}\}', readme)
    net = torchvision.models.resnet18(num_classes=7)
    names = {site.name for site in own_table(net, num_classes=7, in_channels=3, image_size=64).sites}
    assert {name, "layer3.1", "layer3.1.pre", "layer3.1.shortcut"} <= names
    placement = Placement.from_dict({name: {"name": "cbam", "reduction": 8}})
    model = build_model(net, placement, num_classes=7, in_channels=3, image_size=64)
    assert any(key.startswith(f"attention.{name}.") for key in model.state_dict())
