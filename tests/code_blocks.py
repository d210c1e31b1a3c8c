"""Runs the code blocks of a page as a reader would: top to bottom, in one folder, with a small budget."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import linecache
import os
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import nas_attn
from nas_attn import SearchSpace
from nas_attn.cli.commands import command_line, main
from nas_attn.run import dry_run, job

SMALL = {"trials": 2, "epochs": 1, "seeds": 1, "top": 1, "controls": 0, "executor": "local"}
"""The budget of a search that a page starts in Python."""

REASONS = (
    "installs packages",
    "downloads",
    "needs a GPU",
    "needs a cluster",
    "needs a server",
    "needs a finished search over this network",
    "needs the benchmarks of a checkout",
    "serves until it is stopped",
)
"""Why a block may stand unrun; the reason is the comment before it."""

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^>]+?) -->\n+)?^ *(?P<fence>```+)(?P<info>[^\n`]*)\n(?P<text>.*?)^ *(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)
_TITLE = re.compile(r'title="([^"]+)"')
_FRAGMENT = {
    "title": "a fragment",
    "backbone": "densenet",
    "sites": [{"match": ["denseblock*"], "attentions": ["se"]}],
}
"""What stands for the rest of a space file where a page shows a part of one."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, where it stands, and why it is not run."""

    language: str
    text: str
    line: int
    title: str | None = None
    reason: str | None = None

    def __str__(self) -> str:
        return f"line {self.line} ({self.language})"


def blocks_of(text: str) -> Iterator[Block]:
    """Yield every fenced block of a page, in order."""
    for match in _BLOCK.finditer(text):
        info = match["info"].strip()
        title = _TITLE.search(info)
        line = text.count("\n", 0, match.start("fence")) + 1
        indent = len(match[0].rsplit("\n", 1)[-1]) - len(match[0].rsplit("\n", 1)[-1].lstrip())
        body = "\n".join(row[indent:] for row in match["text"].splitlines())
        yield Block(info.partition(" ")[0], body, line, title and title[1], match["reason"])


@dataclass
class Page:
    """The state that the blocks of one page share: a folder, Python's names, and the folder that `cd` went to.

    Args:
        world: Folder of what a page takes for granted; what a block names is copied from there.
    """

    folder: Path
    world: Path
    monkeypatch: pytest.MonkeyPatch
    names: dict[str, object] = field(default_factory=lambda: {"__name__": "page"})

    def __post_init__(self) -> None:
        self.monkeypatch.setenv("HOME", str(self.folder))
        self.monkeypatch.chdir(self.folder)
        self.monkeypatch.syspath_prepend(str(self.folder))
        self.monkeypatch.setitem(vars(nas_attn), "search", functools.partial(_small_search, job.search))
        self.monkeypatch.setattr(dry_run, "train", lambda *words, **named: {"seconds_per_epoch": 1.0})  # it times steps

    def run(self, block: Block) -> None:
        """Run a block, or check as much of it as can be checked where it has a reason not to run."""
        if block.reason is not None:
            assert block.reason in REASONS, f"{block}: '{block.reason}' is no reason; known: {', '.join(REASONS)}"
            return _check_only(block)
        runner = getattr(self, f"_run_{block.language}", None)
        assert runner is not None, f"{block}: nothing runs this language; plain text is ```text"
        for known in self.world.iterdir():
            if known.name in block.text and not (self.folder / known.name).exists():
                (shutil.copytree if known.is_dir() else shutil.copy)(known, self.folder / known.name)
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        runner(block)
        return None

    def _run_text(self, block: Block) -> None:
        """Leave output and folder trees as they are."""

    def _run_json(self, block: Block) -> None:
        json.loads(block.text)

    def _run_python(self, block: Block) -> None:
        where = f"<{self.folder.name}, {block}>"
        linecache.cache[where] = (len(block.text), None, block.text.splitlines(keepends=True), where)  # for inspect
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block.text, where, "exec"), self.names)

    def _run_toml(self, block: Block) -> None:
        record = tomllib.loads(block.text)
        if "project" in record:
            assert set(record["project"]) == {"entry-points"}
            assert set(record["project"]["entry-points"]) <= {
                f"nas_attn.{table}" for table in ("attentions", "backbones", "data")
            }
            return
        space = SearchSpace.from_dict(_FRAGMENT | record, str(block))
        if "title" in record and "import" not in space.backbone:  # at which size of images, the command says
            assert space.bound.n_placements > 1

    def _run_sh(self, block: Block) -> None:
        for words in _commands(block.text):
            if words[0] == "cd":
                self.monkeypatch.chdir(Path(words[1]).expanduser())
                continue
            arguments = _arguments(words)
            assert arguments is not None, f"{block}: nothing runs the command {words[0]}"
            if arguments[0] in ("search", "retrain") and "--help" not in arguments:
                arguments = [*arguments, "--dry-run"]
            captured = io.StringIO()
            with contextlib.redirect_stdout(captured), contextlib.redirect_stderr(captured):
                code = main(arguments)
            assert code == 0, f"{block}: {shlex.join(words)} returned {code}: {captured.getvalue()[-500:]}"


def _small_search(search, *words, **settings):
    """Search as a page does, with a small budget."""
    return search(*words, **settings | SMALL)


def _commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command."""
    for line in text.replace("\\\n", " ").splitlines():
        for command in line.split("&&"):
            words = [os.path.expanduser(word) for word in shlex.split(command, comments=True)]
            if words:
                yield words


def _arguments(words: list[str]) -> list[str] | None:
    """Return what `nas-attn` gets, or None for another program."""
    for start, first in (
        (["nas-attn"], []),
        (["python", "-m", "nas_attn"], []),
        (["python", "run_search.py"], ["search"]),
    ):
        if words[: len(start)] == start:
            return [*first, *words[len(start) :]]
    return None


def _check_only(block: Block) -> None:
    """Check that a block which is not run is Python, or names options that exist."""
    if block.language == "python":
        compile(block.text, str(block), "exec")
    for words in _commands(block.text) if block.language == "sh" else ():
        arguments = _arguments(words)
        if arguments:
            command = command_line().commands[arguments[0]]
            known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
            named = {word for word in arguments if word.startswith("--")}
            assert named <= known, f"{block}: {', '.join(sorted(named - known))}"


def forget(names: list[str]) -> None:
    """Drop modules that a page wrote, so that the next page's of the same name is read."""
    for name in names:
        sys.modules.pop(name, None)
