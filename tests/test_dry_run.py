"""`--dry-run`: the preview of a run is printed; nothing is started or written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import tiny_space

from nas_attn.cli.commands import main

BUDGET = ("--trials", "7", "--epochs", "3", "--seeds", "2", "--top", "1", "--workers", "2", "--device", "cpu")

OWN = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 10))
"""

OWN_SPACE = """
title = "A network of my own"

[backbone]
import = "plan_net:make"

[[sites]]
match = ["0"]
attentions = ["se"]

[attentions.se]
reduction = [2, 4]
"""


def preview(capsys: pytest.CaptureFixture[str], space: Path, *words: str) -> str:
    assert main(["search", "--dry-run", "--space", str(space), *BUDGET, *words]) == 0
    return capsys.readouterr().out


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, in which a dry run must leave nothing."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_the_preview_of_a_shipped_network_has_its_cost_time_and_memory(tmp_path, here, capsys) -> None:
    out = preview(capsys, tiny_space(tmp_path))
    cheapest, dearest = (next(line for line in out.splitlines() if line.startswith(name)).split()
                         for name in ("cheapest", "dearest"))  # fmt: skip
    assert int(cheapest[1].replace(",", "")) < int(dearest[1].replace(",", ""))
    for line in (
        "Data: digits, 179 training,",
        "Images: 0.1 MB, in memory.",
        "Search: 7 runs of 3 epochs.",
        "Workers: 2 trials at a time",
        "Estimated time of training: ",
        "MiB",
    ):
        assert line in out
    assert "Nothing was started." in out
    assert list(here.iterdir()) == []


def test_the_preview_says_that_images_are_memory_mapped(tmp_path, here, capsys, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("nas_attn.data.row_file.fits_in_memory", lambda n_bytes: False)
    generator = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    out = preview(capsys, tiny_space(tmp_path), "--data", f"folder:{tmp_path / 'images'}", "--image-size", "8")
    assert "Images: 0.0 MB, memory-mapped." in out
    assert "are memory-mapped: a copy of them for each core would take more than 25 % of the free memory." in out
    assert list(here.iterdir()) == []


def test_the_preview_names_the_function_of_the_user_that_is_called(tmp_path, here, capsys, monkeypatch) -> None:
    (tmp_path / "plan_net.py").write_text(OWN)
    (tmp_path / "own.toml").write_text(OWN_SPACE)
    monkeypatch.syspath_prepend(tmp_path)
    out = preview(capsys, tmp_path / "own.toml")
    assert "Network: built by plan_net:make, which is imported and called." in out
    assert "Search: 3 runs of 3 epochs." in out
    assert list(here.iterdir()) == []
