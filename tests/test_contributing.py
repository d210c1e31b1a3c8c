"""CONTRIBUTING's steps for an attention, followed to the letter in a copy of the tree; then every check runs there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SECTION = "Add an attention in three steps"
NAME = "srm"
STEP = re.compile(
    r"(?:New file `(?P<new>[^`]+)`|In `(?P<file>[^`]+)`, (?P<side>above|below) `(?P<line>[^\n]+)`|(?P<run>Run))"
    r":\n\n```\w+\n(?P<block>.*?)```",
    re.DOTALL,
)


@dataclass(frozen=True)
class Tree:
    """A copy of the tracked files, whose package is the one that commands import."""

    folder: Path

    def run(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy to its end."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
        env["PYTHONPATH"] = str(self.folder)
        return subprocess.run(
            words, cwd=self.folder, env=env, capture_output=True, text=True, timeout=timeout, check=False
        )

    def check(self, *words: str, timeout: float = 120) -> str:
        """Run a command that must succeed; return what it printed."""
        done = self.run(*words, timeout=timeout)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-8000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    def insert(self, file: str, side: str, anchor: str, block: str) -> None:
        """Insert lines above the first line that reads as the anchor, or below it and the blank lines behind it."""
        path = self.folder / file
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        place = [line.strip() for line in lines].index(anchor)
        if side == "below":
            place += 1
            while not lines[place].strip():
                place += 1
        path.write_text("".join([*lines[:place], block, *lines[place:]]), encoding="utf-8")


def steps_of(text: str) -> list[dict[str, str | None]]:
    """The steps of the section, each with its block of code."""
    section = text.split(f"## {SECTION}\n")[1].split("\n## ")[0]
    steps = [found.groupdict() for found in STEP.finditer(section)]
    assert len(steps) == section.count("\n```") / 2, "every block of the section must be a step"
    return steps


@pytest.fixture(scope="module")
def tree(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The tree after the steps."""
    copy = Tree(tmp_path_factory.mktemp("tree"))
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).exists():
            (copy.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, copy.folder / name)
    imported = copy.check(sys.executable, "-c", "import nas_attn; print(nas_attn.__file__)")
    assert Path(imported.strip()).is_relative_to(copy.folder)

    for step in steps_of((root / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        block = step["block"] or ""
        if step["run"]:
            copy.check("bash", "-e", "-c", block)
        elif step["new"]:
            assert not (copy.folder / step["new"]).exists(), step["new"]
            (copy.folder / step["new"]).write_text(block, encoding="utf-8")
        else:
            copy.insert(step["file"] or "", step["side"] or "", step["line"] or "", block)
    return copy


def test_the_steps_of_the_section_are_found(root: Path) -> None:
    steps = steps_of((root / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    touched = [step["new"] or step["file"] or "a command" for step in steps]
    assert touched == [
        "nas_attn/attention/srm.py",
        "nas_attn/attention/vocabulary.py",
        "nas_attn/attention/entries/channel.py",
        "CHANGELOG.md",
        "a command",
        "a command",
        "tests/test_attention_goldens.py",
        "tests/goldens/README.md",
    ]


@pytest.mark.nightly
def test_without_its_golden_the_new_entry_is_refused(tree: Tree) -> None:
    table = tree.folder / "tests/test_attention_goldens.py"
    complete = table.read_text()
    table.write_text(complete.replace(f'    "{NAME}_plain": Golden("{NAME}"),\n', ""))
    try:
        done = tree.run(sys.executable, "-m", "pytest", "-q", "-n", "0", "tests/test_attention_goldens.py")
    finally:
        table.write_text(complete)
    assert done.returncode == 1, done.stdout
    assert "FAILED tests/test_attention_goldens.py::test_every_entry_has_a_golden" in done.stdout


@pytest.mark.whole_tree
@pytest.mark.parametrize(
    "command", ["ruff format --check .", "ruff check .", "mypy --strict nas_attn", "lint-imports"], ids=str
)
def test_the_tree_passes_the_static_checks(tree: Tree, command: str) -> None:
    tree.check(*command.split(), timeout=280)


@pytest.mark.whole_tree
@pytest.mark.timeout(3600)
def test_the_tree_passes_every_row_of_the_day(tree: Tree) -> None:
    """This file is left out: it would copy the copy."""
    pytest_words = (sys.executable, "-m", "pytest", "-v", "-n", "2", "--ignore=tests/test_contributing.py")
    printed = tree.check(*pytest_words, timeout=3500)
    for row in (
        f"test_attention_contract.py::test_an_entry_passes_every_check_and_each_option_matters[{NAME}]",
        f"test_attention_goldens.py::test_output_equals_the_published_code[{NAME}_plain]",
    ):
        assert f"PASSED tests/{row}" in printed, row
