"""What a user's function is by content: every part that changes it is named, and nothing else changes it."""

from __future__ import annotations

import functools
import linecache
import subprocess
import sys
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch

from nas_attn.user_code.content import Content, content_of

LR = 0.1


def helper(x: float) -> float:
    return 2 * x


def fit(model: object, run: object, lr: float = 0.1, *, steps: int = 3) -> float:
    """Train."""
    return helper(lr) * LR


class Trainer:
    def __init__(self, value: object) -> None:
        self.value = value
        self.itself = self

    def fit(self, model: object, run: object) -> object:
        return self.value

    def __call__(self, model: object, run: object) -> object:
        return self.value


def closed(value: object) -> Callable[..., object]:
    def fit(model: object, run: object) -> object:
        return value

    return fit


def made(source: str, **names: Any) -> FunctionType:
    """Return the function `fit` of a source, whose lines Python can find."""
    file = f"<made {hash(source)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    space = {"__name__": "__main__", **names}
    exec(compile(source, file, "exec"), space)
    return space["fit"]


def changed(before: object, after: object) -> list[str]:
    return content_of(before).changes(content_of(after))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (lambda m, r: 0.1, lambda m, r: 0.9, ["the body of <lambda> was changed"]),
        (functools.partial(fit, p=0.1), functools.partial(fit, p=0.2), ["argument 'p' was 0.1, now 0.2"]),
        (functools.partial(fit, 1), functools.partial(fit, 2), ["argument 1 was 1, now 2"]),
        (functools.partial(fit, lr=1), fit, ["argument 'lr' is no longer there"]),
        (closed(1), closed(2), ["closure 'value' was 1, now 2"]),
        (closed({"a": 1, "b": 2}), closed({"b": 3, "a": 1}), ["closure 'value'['b'] was 2, now 3"]),
        (closed(torch.zeros(3)), closed(torch.ones(3)), ["closure 'value' has another content"]),
        (closed(np.zeros(3)), closed(np.zeros(4)), ["closure 'value' has another content"]),
        (closed(Trainer(1)), closed(Trainer(2)), ["closure 'value' has another content"]),
        (Trainer(0.1).fit, Trainer(0.9).fit, ["attribute 'value' was 0.1, now 0.9"]),
        (Trainer(0.1), Trainer(0.9), ["attribute 'value' was 0.1, now 0.9"]),
        (Trainer(torch.nn.Linear(2, 2)), Trainer(torch.nn.Linear(2, 3)), ["attribute 'value' has another content"]),
    ],
)  # fmt: skip
def test_each_change_is_named(before: object, after: object, words: list[str]) -> None:
    assert changed(before, after) == words


SOURCE = """
def part(x):
    return x + STEP

def fit(model, run, lr=0.1):
    '''Text.'''
    def inner(y):
        return y * 2
    return inner(part(lr))
"""


@pytest.mark.parametrize(
    ("old", "new", "names", "words"),
    [
        ("y * 2", "y * 3", {"STEP": 1}, ["the body of fit was changed"]),
        ("x + STEP", "x - STEP", {"STEP": 1}, ["the body of part was changed"]),
        ("lr=0.1", "lr=0.2", {"STEP": 1}, ["default 'lr' was 0.1, now 0.2"]),
        ("", "", {"STEP": 2}, ["global 'STEP' of part was 1, now 2"]),
        ("'''Text.'''", "'''Another text.'''\n    # a remark", {"STEP": 1}, []),
        ("\ndef part", "\n\n\n\ndef part", {"STEP": 1}, []),
        ("return y * 2", "return (\n            y * 2)", {"STEP": 1}, []),
    ],
)
def test_an_edit_of_what_is_computed_is_one_and_an_edit_of_layout_is_none(
    old: str, new: str, names: dict[str, int], words: list[str]
) -> None:
    edited = SOURCE.replace(old, new, 1) if old else SOURCE
    assert changed(made(SOURCE, STEP=1), made(edited, **names)) == words


def test_the_source_is_compared_across_versions_of_python_and_without_it_nothing_is_claimed() -> None:
    found = content_of(fit).to_dict()
    assert found["code"]["fit"].keys() == {"tree", "bytecode"}
    for code in found["code"].values():
        code["bytecode"] = "3.99 0123"
    other = Content.from_dict(found)
    assert (other.changes(content_of(fit)), other.unknown(content_of(fit))) == ([], [])
    for code in found["code"].values():
        code.pop("tree", None)
    other = Content.from_dict(found)
    assert (other.changes(content_of(fit)), other.unknown(content_of(fit))) == (
        [],
        ["the body of fit", "the body of helper"],
    )


def test_what_has_no_content_is_named_and_a_secret_is_not_shown() -> None:
    found = content_of(closed(threading.Lock()))
    assert found.unread == ("closure 'value' (a lock)",)
    assert found.changes(content_of(closed(threading.Lock()))) == []
    words = changed(functools.partial(fit, api_key="abc"), functools.partial(fit, api_key="xyz"))
    assert words == ["argument 'api_key' has another content"]
    assert "abc" not in str(content_of(functools.partial(fit, api_key="abc")))


def test_another_process_finds_the_same_content() -> None:
    code = """
import functools, torch
from nas_attn.user_code.content import content_of
class Trainer:
    def __init__(self):
        self.names, self.net = {"a", "b", "c"}, torch.nn.Linear(1, 1, bias=False)
        self.net.weight.data.fill_(1)
    def fit(self, model, run, at=object): return sorted(self.names)
print(content_of(functools.partial(Trainer().fit, x={"k": {1, 2, 3}, "t": torch.arange(3)})).to_dict())
"""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1
    assert "0x" not in outputs.pop()


def test_what_changes_while_it_is_used_is_state() -> None:
    seen: list[int] = []
    before = content_of(closed(seen))
    seen.append(1)
    after = content_of(closed(seen))
    assert before.changes(after) == ["closure 'value' was [], now [1]"]
    assert before.used(after).changes(after) == []
