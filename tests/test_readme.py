"""What README and guides state beside their code: options, files, counts, versions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import nas_attn
from nas_attn import ATTENTIONS
from nas_attn.cli.commands import command_line
from nas_attn.space.file import available_spaces

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OF_SCRIPTS = {
    "analysis.md": {"--csv", "--figure", "--baseline", "--seeds"},
    "kill_matrix.md": {"--markdown"},
    "pays.md": {"--repeats", "--budgets", "--samplers"},
    "table.md": {"--repeats", "--samplers"},
}
"""Options of scripts that a page names; those of analysis/ have their lines parsed by test_analysis."""
OTHERS = {"--index-url", "--strict", "--help", "--nodes", "--ntasks", "--head", "--block"}
"""Options of pip, mkdocs, srun and ray, and of every command."""


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_readme_is_short_and_names_the_main_job(readme):
    assert len(readme.splitlines()) <= 130
    assert "run_search.py --space densenet_attn" in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_a_page_names_exists(page):
    known = OTHERS | OF_SCRIPTS.get(page.name, set())
    for command in command_line().commands.values():
        known |= {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text(encoding="utf-8")))
    assert named <= known


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:examples|benchmarks|tests|docs|nas_attn)/[\w./]*\w\.(?:py|toml|md))`", text))
    named |= set(re.findall(r"\b[A-Z]{4,}\.(?:md|cff)\b", text))
    of_a_run = {"MODEL.md"}
    assert {name for name in named - of_a_run if "NAME" not in name and not (ROOT / name).exists()} == set()


def test_every_link_of_the_readme_leads_somewhere(readme):
    links = {link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", readme) if "://" not in link}
    assert {link for link in links if not (ROOT / link).exists()} == set()
    assert "docs/report.png" in links
    assert (ROOT / "docs/report.png").stat().st_size < 300_000


def test_the_guide_to_spaces_lists_attentions_that_there_are_and_every_space_once():
    text = (ROOT / "docs/spaces.md").read_text(encoding="utf-8")
    table = text[text.index("| where it looks |") : text.index("Each has a [page]")]
    cells = [row.split(" | ")[1] for row in table.strip().splitlines()[2:]]
    named = re.findall(r"`(\w+)`", " ".join(cells))
    assert len(named) == len(set(named)) >= 38
    assert set(named) <= set(ATTENTIONS.own)
    questions = text[text.index("| question |") : text.index("`catalogue_digits` wants")]
    assert sorted(re.findall(r"\| `(\w+)` \|", questions)) == sorted(available_spaces())


def test_the_pages_state_the_versions_that_pyproject_states(project):
    text = (ROOT / "docs/machines.md").read_text(encoding="utf-8")
    oldest = dict(re.split(r"(?:\[\w+\])?>=", line) for line in project["project"]["dependencies"])
    (stated,) = re.findall(
        r"Python (3\.\d+) or newer.*?\(torch ([\d.]+),\s+torchvision ([\d.]+), Optuna ([\d.]+), Ray ([\d.]+)\)",
        text,
        re.DOTALL,
    )
    assert stated == (
        project["project"]["requires-python"].removeprefix(">="),
        *(oldest[name] for name in ("torch", "torchvision", "optuna", "ray")),
    )
    assert f"Python {stated[0]} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_floors_are_those_of_the_contract(project):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text[text.index("[start:floors]") : text.index("[end:floors]")]
    rows = re.findall(r"^\| (\d) \| (.*?) \|", table, re.MULTILINE)
    (contract,) = (row for row in project["tool"]["importlinter"]["contracts"] if row["type"] == "layers")
    *folders, _ground = contract["layers"]
    for floor, layer in enumerate(reversed(folders), 2):
        required = {name.strip(" ()") for name in re.split(r"[|:]", layer)}
        named = {name for number, cell in rows if int(number) == floor for name in re.findall(r"`(\w+)/`", cell)}
        assert named == {name for name in required if (ROOT / "nas_attn" / name).is_dir()}, f"floor {floor}"


def test_the_citation_names_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == nas_attn.__version__
    assert citation["authors"] == [{"name": "nas_attn authors"}]
