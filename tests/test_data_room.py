"""The file that images are decoded into becomes the cache; where that is impossible, they are decoded into memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_cases import noise
from PIL import Image

from nas_attn.config import DataConfig
from nas_attn.data import decode, mapped, room, row_file
from nas_attn.data.arrays import ChosenPixels
from nas_attn.data.dataset import DataFacts, describe
from nas_attn.data.decode import cache_file
from nas_attn.data.mapped import MappedPixels
from nas_attn.data.room import FileRoom, MemoryRoom, room_for
from nas_attn.data.row_file import read_facts, read_rows, write_rows
from nas_attn.errors import DataError

SHAPE = (4, 2, 2, 3)

nameless = pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="this system makes no files without a name")


pytestmark = pytest.mark.usefixtures("cache_home")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Forty coloured images of two classes."""
    generator = np.random.default_rng(0)
    for number in range(40):
        noise(tmp_path / "images" / "ab"[number % 2] / f"{number:02}.png", generator)
    return tmp_path / "images"


def facts_of(root: Path, **options) -> DataFacts:
    return describe(DataConfig(name=f"folder:{root}", image_size=8, **options))


def refused(*_: object, **__: object) -> None:
    raise AssertionError("this was not to be called")


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def images(n: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 2, 2, channels), dtype=np.uint8)


def filled(place: FileRoom | MemoryRoom) -> np.ndarray:
    pixels = images(4)
    for number in (2, 0, 3, 1):
        place.put(number, pixels[number])
    return pixels


@nameless
@pytest.mark.parametrize("damaged", [False, True])
def test_the_file_of_the_decoded_images_becomes_the_cache_without_a_copy(
    root: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    if damaged:
        (root / "a" / "00.png").write_bytes(b"no image")
    with monkeypatch.context() as patch:
        patch.setattr(decode, "write_rows", refused)
        first = facts_of(root)
    cache = cache_file(root, 8)
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]
    assert first.n_train + first.n_val + first.n_test == 40 - damaged
    monkeypatch.setattr(decode, "decode_all", refused)
    assert facts_of(root) == first


@pytest.mark.parametrize("break_it", ["fallocate", "O_TMPFILE", "link"])
def test_where_no_file_can_become_the_cache_the_images_and_the_cache_are_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch, break_it: str
) -> None:
    expected = facts_of(root)
    stored = cache_file(root, 8)
    stored.unlink()
    if break_it == "fallocate":
        monkeypatch.setattr(room.os, "posix_fallocate", full)
    elif break_it == "link":
        monkeypatch.setattr(room.os, "link", full)
    else:
        monkeypatch.delattr(room.os, "O_TMPFILE", raising=False)
    assert facts_of(root) == expected
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]
    monkeypatch.setattr(decode, "decode_all", refused)
    assert facts_of(root) == expected


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_images_are_stored_with_one_channel_and_converted_ones_with_theirs(root: Path, channels: int) -> None:
    for path in root.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    facts = facts_of(root, channels=channels)
    assert facts.in_channels == channels
    with cache_file(root, 8, channels).open("rb") as file:
        assert read_rows(file, read_facts(file)).shape == (40, 8, 8, channels)
    assert facts_of(root, channels=channels) == facts


@nameless
def test_an_error_while_decoding_leaves_no_file(root: Path, cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (0, 2, 4, 6):
        (root / "a" / f"{number:02}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="At most 1 % of the files, or 3, may be no images"):
        facts_of(root)
    assert not [path for path in cache_home.rglob("*") if path.is_file()]


@nameless
def test_a_disk_that_fails_while_it_is_written_is_refused_in_one_sentence(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.os, "pwrite", full)
    with pytest.raises(DataError, match=r"^The decoded images must fit in .*\(No space left on device\): free space"):
        facts_of(root)


def test_a_full_disk_is_refused_if_the_images_do_not_fit_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "_ALWAYS_FITS", 0)
    monkeypatch.setattr(mapped, "free_memory", lambda: 0)
    monkeypatch.setattr(room.os, "posix_fallocate", full)
    message = r"must fit in memory or in .*cache, but they need 12\.3 GB \(No space left on device\): free space there"
    with pytest.raises(DataError, match=message):
        room_for((10**6, 64, 64, 3), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("make", [lambda folder: MemoryRoom(SHAPE), lambda folder: room_for(SHAPE, folder)])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [0, 2, 3], []])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fits", [True, False])
def test_rows_and_channels_of_a_room_are_those_of_numpy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], FileRoom | MemoryRoom], rows: list[int],
    channels: int, fits: bool,
) -> None:  # fmt: skip
    place = make(tmp_path)
    pixels = filled(place)
    monkeypatch.setattr(row_file, "fits_in_memory", lambda n_bytes: fits)
    found = place.images(np.array(rows, np.int64), channels)
    assert np.array_equal(np.asarray(found), pixels[rows][..., :channels])
    if isinstance(place, FileRoom):
        assert isinstance(found, MappedPixels) == (not fits)


def test_equal_rows_have_equal_checksums_also_grey_ones(tmp_path: Path) -> None:
    for place in (MemoryRoom(SHAPE), room_for(SHAPE, tmp_path)):
        grey, other = images(2, channels=1)
        checks = [place.put(number, image) for number, image in enumerate((grey, other, grey.repeat(3, -1)))]
        assert checks[0] == checks[2] != checks[1]


@nameless
def test_only_the_images_of_the_file_make_it_the_cache(tmp_path: Path) -> None:
    place = room_for(SHAPE, tmp_path / "folder")
    filled(place)
    found = place.images(np.array([1, 3]), 3)
    assert isinstance(found, ChosenPixels)
    target = tmp_path / "folder" / "cache.rows"
    assert not place.finish(target, {}, np.asarray(found))
    assert not target.exists()
    assert place.finish(target, {"key": np.array("café")}, found)
    with target.open("rb") as file:
        facts = read_facts(file)
        assert (str(facts["key"]), facts["rows"].tolist()) == ("café", [1, 3])
        assert np.array_equal(np.asarray(read_rows(file, facts)), np.asarray(found))


@pytest.mark.parametrize("n", [0, 1, 256, 700])
def test_rows_that_are_written_are_read_again_in_memory_and_mapped(
    tmp_path: Path, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = images(n, channels=1)
    with (tmp_path / "a.rows").open("w+b") as file:
        write_rows(file, {"kept": np.arange(n)}, pixels)
        facts = read_facts(file)
        assert facts["kept"].tolist() == list(range(n))
        assert np.array_equal(read_rows(file, facts), pixels)
        monkeypatch.setattr(row_file, "fits_in_memory", lambda n_bytes: False)
        found = read_rows(file, facts)
        assert np.array_equal(np.asarray(found), pixels)
        assert isinstance(found, MappedPixels) == (n > 0)


@pytest.mark.parametrize("at", [0, 1000, 2799])
def test_an_altered_row_is_found(tmp_path: Path, at: int) -> None:
    path = tmp_path / "a.rows"
    with path.open("w+b") as file:
        write_rows(file, {}, images(700, channels=1))
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with path.open("rb") as file, pytest.raises(ValueError, match="a row differs from its checksum"):
        read_rows(file, read_facts(file))
