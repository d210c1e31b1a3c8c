"""Every code block and command of README and docs runs, and the generated pages say what the tables do."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from code_blocks import Page, blocks_of, forget
from PIL import Image

import nas_attn
from nas_attn import ATTENTIONS, BACKBONES
from nas_attn.cli.commands import main

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
GUIDES = ["README.md", *sorted(f"docs/{path.name}" for path in DOCS.glob("*.md"))]


@pytest.fixture(scope="module")
def generators():
    """The package that generates the reference pages; it needs no mkdocs."""
    sys.path.insert(0, str(DOCS))
    try:
        from generators import api, markdown, pages, settings
    finally:
        sys.path.remove(str(DOCS))
    return {"api": api, "markdown": markdown, "pages": pages, "settings": settings}


@pytest.fixture(scope="module")
def generated(generators) -> dict[str, str]:
    """Every generated page by its path."""
    return generators["pages"].pages()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted: the quickstart's run with a small budget, some images, the examples."""
    folder = tmp_path_factory.mktemp("world")
    small = ["--trials", "2", "--epochs", "1", "--seeds", "2", "--top", "1", "--executor", "local", "--quiet"]
    assert main(["search", "--space", "densenet_attn", *small, "--out", str(folder / "runs/densenet_attn")]) == 0
    generator = np.random.default_rng(0)
    for number in range(24):
        pixels = generator.integers(256, size=(16, 16, 3), dtype=np.uint8)
        for path in (f"pictures/{'cat' if number % 2 else 'dog'}", f"cats_and_dogs/{number % 2}", "scans"):
            (folder / path).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / path / f"{number:04}.png")
    rows = [f"{number:04}.png,{number % 2},{number % 3 // 2}" for number in range(24)]
    (folder / "scans/labels.csv").write_text("\n".join(["file,oedema,effusion", *rows]))
    images = generator.integers(256, size=(60, 28, 28), dtype=np.uint8)
    for name in ("my_images", "mnist_5k"):
        np.savez(folder / f"{name}.npz", train_images=images, train_labels=np.arange(60) % 10)
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


@pytest.fixture
def page(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A page's own copy of that folder."""
    folder = tmp_path / "page"
    shutil.copytree(world, folder)
    before = set(sys.modules)
    yield Page(folder, monkeypatch)
    own = [name for name in set(sys.modules) - before if not name.startswith(("nas_attn", "torch"))]
    forget([name for name in own if str(folder) in str(getattr(sys.modules[name], "__file__", ""))])
    for table in (ATTENTIONS, BACKBONES):
        for record in table.registered:
            table.unregister(record.name)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("path", GUIDES)
def test_every_code_block_of_a_page_runs(path, page):
    for block in blocks_of((ROOT / path).read_text(encoding="utf-8")):
        page.run(block)
