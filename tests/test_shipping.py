"""What reaches the workers: images without a copy, weights and modules without the driver's disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ray import cloudpickle

from nas_attn.config import DataConfig, Recipe
from nas_attn.data import dataset, mapped
from nas_attn.data.dataset import Data, describe, load_data
from nas_attn.data.memory import NAME, data_source_of
from nas_attn.data.shared import ImagesInBlocks, LargeImages, SharedImages, share
from nas_attn.errors import DataError
from nas_attn.executors import shipping
from nas_attn.executors.modules import Source, _Finder, install, own_sources
from nas_attn.executors.shipping import ship
from nas_attn.placement import Shape
from nas_attn.training.context import TrialContext, registered_here

DIGITS = DataConfig()


def context(**changes: object) -> TrialContext:
    found = TrialContext({"name": "densenet"}, Shape(10, 1, 8), Recipe(), data=DIGITS)
    return replace(found, **changes)


def equal(one: Data, other: Data) -> bool:
    parts = [(getattr(one, name), getattr(other, name)) for name in ("train", "val", "test", "train_val")]
    every = slice(None)
    return all(bool((a.take(every) == b.take(every)).all() and (a.targets == b.targets).all()) for a, b in parts)


def test_images_that_were_described_are_read_once(monkeypatch):
    facts = describe(DIGITS)
    with monkeypatch.context() as patched:
        patched.setattr(dataset, "read_source", lambda *_: pytest.fail("read twice"))
        shared = share(DIGITS, facts.fingerprint)
    assert isinstance(shared, SharedImages)
    assert equal(shared.load("cpu"), load_data(DIGITS))
    assert not dataset._described, "the driver does not keep them"


def test_shared_images_are_not_copied_not_even_for_retraining():
    pixels = share(DIGITS, describe(DIGITS).fingerprint)
    pixels.pixels.flags.writeable = False  # as in an object store
    data = pixels.load("cpu")
    base = pixels.pixels.ctypes.data
    assert data.train.pixels.data_ptr() == data.train_val.pixels.data_ptr() == base
    assert data.test.pixels.data_ptr() == base + len(data.train_val) * 64
    assert data.train_val.pixels.shape == (len(data.train) + len(data.val), 1, 8, 8)


def test_images_that_changed_since_the_check_are_refused():
    with pytest.raises(DataError, match="must stay as they are, but those of digits are not the ones"):
        share(DIGITS, "another")


@pytest.fixture
def large(monkeypatch) -> SharedImages | LargeImages:
    """The digits as if they were too large for memory: mapped from a file."""
    whole = share(DIGITS, describe(DIGITS).fingerprint)
    rows = iter(np.split(np.arange(len(whole.pixels)), np.cumsum([len(part) for part in whole.parts.values()])[:-1]))
    parts = {
        name: replace(part, pixels=mapped.MappedPixels(whole.pixels, next(rows))) for name, part in whole.parts.items()
    }
    return LargeImages(parts, whole.facts)


def test_large_images_reach_a_node_in_blocks_and_are_mapped_there(large, tmp_path, monkeypatch):
    monkeypatch.setattr(shipping.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(shipping, "share", lambda *_: large)
    monkeypatch.setattr(shipping.ray, "put", lambda block: block)
    monkeypatch.setattr(shipping.ray, "get", lambda block: block)
    shipped = cloudpickle.loads(cloudpickle.dumps(ship(context(), one_machine=False)))
    assert isinstance(shipped.images, ImagesInBlocks)
    first = shipped.unpacked().images
    monkeypatch.setattr(shipping.ray, "get", lambda block: pytest.fail("fetched twice"))
    second = shipped.unpacked().images
    for images in (first, second):
        assert isinstance(images.pixels, mapped.MappedPixels)
        assert equal(images.load("cpu"), load_data(DIGITS))
    assert ship(context(), one_machine=True).images is None, "on the driver's machine its cache is quicker"


def test_blocks_hold_all_images_in_their_order(large):
    found = list(large.blocks(n_bytes=20_000))
    assert len(found) > 3
    assert np.array_equal(np.concatenate(found), share(DIGITS, describe(DIGITS).fingerprint).pixels)


def test_nothing_is_sent_that_lies_on_the_nodes():
    shipped = ship(context(fingerprint=describe(DIGITS).fingerprint), one_machine=False, data_on_nodes=True)
    assert shipped.images is None
    assert shipped.unpacked().data == DIGITS


def test_images_in_memory_are_sent_once():
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8), np.uint8)
    with data_source_of([(image, number % 3) for number, image in enumerate(images)], None):
        config = DataConfig(name=NAME)
        fingerprint = describe(config).fingerprint
        shipped = ship(context(data=config, fingerprint=fingerprint, registered=registered_here()), one_machine=True)
    assert shipped.images.pixels.nbytes == images.nbytes
    assert NAME not in {record.name for record in shipped.unpacked().registered}
    assert len(shipped.context) < images.nbytes


def test_weights_and_the_model_file_beside_them_travel(tmp_path, monkeypatch):
    sent = tmp_path / "driver"
    sent.mkdir()
    (sent / "best.safetensors").write_bytes(b"weights")
    (sent / "best.json").write_text("{}")
    spec = {"name": "densenet", "weights": str(sent / "best.safetensors")}
    shipped = cloudpickle.loads(cloudpickle.dumps(ship(context(backbone=spec, data=None), one_machine=False)))
    for path in sent.iterdir():
        path.unlink()
    monkeypatch.setattr(shipping.tempfile, "gettempdir", lambda: str(tmp_path))
    here = Path(shipped.unpacked().backbone["weights"])
    assert here.is_relative_to(tmp_path)
    assert here.read_bytes() == b"weights"
    assert json.loads(here.with_suffix(".json").read_text()) == {}
    assert here.parent.parent.stat().st_mode & 0o077 == 0, "nobody else can put weights there"


@pytest.fixture(autouse=True)
def none_in_use(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(shipping, "_IN_USE", [])
    yield
    for file in shipping._IN_USE:
        file.close()


def test_files_of_runs_that_ended_are_removed_and_a_strangers_folder_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(shipping.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(shipping.tempfile, "tempdir", str(tmp_path))
    block = [np.zeros(3, np.uint8)]
    used = shipping._written("a" * 40, {"x": lambda: block})
    ended = shipping._written("b" * 40, {"x": lambda: block})
    shipping._IN_USE.pop().close()
    shipping._written("c" * 40, {"x": lambda: block})
    assert used.exists()
    assert not ended.exists()
    used.parent.chmod(0o777)
    assert not shipping._written("d" * 40, {"x": lambda: block}).is_relative_to(used.parent)


def test_a_module_of_the_users_is_imported_from_its_source(tmp_path, monkeypatch):
    own = tmp_path / "own_package"
    own.mkdir()
    (own / "__init__.py").write_text("")
    (own / "factor.py").write_text("FACTOR = 7\n")
    (own / "work.py").write_text("from own_package.factor import FACTOR\n\ndef twice():\n    return 2 * FACTOR\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("own_package.work")
    sources = {name: source for name, source in own_sources().items() if name.startswith("own_package")}
    assert set(sources) == {"own_package", "own_package.factor", "own_package.work"}
    assert not any(name.startswith(("nas_attn", "numpy", "json")) for name in own_sources())
    for path in own.iterdir():
        if path.suffix == ".py":
            path.unlink()
    (own / "factor.py").write_text("FACTOR = 1  # another version\n")
    for name in sources:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    install(sources)
    from own_package.work import twice  # type: ignore[import-not-found]

    assert twice() == 14
    assert twice.__code__.co_filename == str(own / "work.py")
    install(sources)
    assert sum(isinstance(finder, _Finder) for finder in sys.meta_path) == 1


def test_a_module_that_lies_there_with_the_same_content_is_left_to_python(tmp_path, monkeypatch):
    (tmp_path / "own_module.py").write_bytes(b"HERE = __file__\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    same = Source(b"HERE = __file__\n", "/elsewhere/own_module.py", False)
    assert _Finder({"own_module": same}).find_spec("own_module", None) is None
    other = replace(same, text=b"HERE = 1\n")
    assert _Finder({"own_module": other}).find_spec("own_module", None).origin == "/elsewhere/own_module.py"
    assert _Finder({"own_module": other}).find_spec("another", None) is None
