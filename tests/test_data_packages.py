"""Data sources of installed packages: found by their entry points, loaded on use; a broken one breaks no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from plugin_packages import lay_package

from nas_attn import DATA, DataSource, register_data
from nas_attn.config import DataConfig
from nas_attn.data.dataset import DataFacts, describe
from nas_attn.errors import DataError
from nas_attn.registry import Catalogue

CODE = """
import numpy as np
from nas_attn import DataSource, ImageDataset, LabelledImages

def read(request):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    return ImageDataset(("a", "b"), {"train": LabelledImages(pixels, np.arange(40) % 2)})

SET = DataSource("{point}", "{package}_attn:read", "Forty images of noise.")
"""

Install = Callable[..., Catalogue]


def facts_of(name: str) -> DataFacts:
    return describe(DataConfig(name=name))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package with one data source; the table is one of 'digits' and what is installed."""

    def lay(package: str, point: str, value: str = "SET", code: str = CODE) -> Catalogue:
        code = code.replace("{point}", point).replace("{package}", package)
        lay_package(tmp_path, monkeypatch, package, group="nas_attn.data", point=point, value=value, code=code)
        facts = {"group": "nas_attn.data", "noun": "data source", "record": DataSource, "error": DataError}
        fresh = Catalogue(DATA["digits"], **facts)
        for user in ("data.catalog", "data.dataset", "data.sources", "training.context"):
            monkeypatch.setattr(f"nas_attn.{user}.DATA", fresh)
        return fresh

    return lay


def test_an_installed_source_is_found_and_its_package_named(install: Install) -> None:
    install("goodsets", "good_set")
    facts = facts_of("good_set")
    assert facts.class_counts == (20, 20)
    assert facts.notes == ("Data source 'good_set' belongs to the installed package 'goodsets'.",)
    with pytest.raises(DataError, match="'good_set' is one of the installed package 'goodsets': call it 'my_good_set'"):
        register_data(DataSource("good_set", "mine:read", "Mine."))
    with pytest.raises(DataError, match=r"did you mean 'good_set'\? Known: digits, good_set\.$"):
        facts_of("god_set")


def test_a_broken_package_makes_its_own_source_unusable_and_no_other(install: Install) -> None:
    table = install("badsets", "bad_set", code="1 / 0")
    with pytest.raises(
        DataError,
        match=r"^Data source 'bad_set' of the installed package 'badsets' \(badsets_attn:SET\) cannot be loaded: "
        r"ZeroDivisionError: division by zero\.$",
    ):
        facts_of("bad_set")
    assert [record.name for record in table.loadable()] == ["digits"]
    assert facts_of("digits").n_train == 179
    with pytest.raises(DataError, match=r"Unknown data source 'x'\. Known: digits\.$"):
        facts_of("x")


def test_an_installed_record_of_another_kind_is_refused(install: Install) -> None:
    install("oddsets", "odd_set", "read")
    with pytest.raises(DataError, match=r"\(oddsets_attn:read\) must be a nas_attn\.DataSource, but is function\.$"):
        facts_of("odd_set")


def test_our_own_sources_import_no_installed_package(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    table = install("goodsets", "good_set")
    monkeypatch.setattr("importlib.metadata.entry_points", None)
    assert facts_of("digits").n_train == 179
    with pytest.raises(TypeError, match="not callable"):
        _ = table["good_set"]
