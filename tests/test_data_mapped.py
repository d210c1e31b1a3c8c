"""Images that are larger than memory: written in blocks, mapped from their file, copied to the device in batches."""

from __future__ import annotations

import dataclasses
import mmap
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from image_cases import noise
from PIL import Image
from torch import nn

from nas_attn.config import DataConfig, Recipe
from nas_attn.data import mapped, placing, row_file
from nas_attn.data.arrays import rows_per_block
from nas_attn.data.dataset import Data, Images, load_data
from nas_attn.data.decode import cache_file
from nas_attn.data.mapped import Announcing, MappedPixels, blocks, free_memory, map_file
from nas_attn.training.batches import epoch_batches
from nas_attn.training.loop import predict, train

pytestmark = pytest.mark.usefixtures("cache_home")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Sixty coloured images of two classes, in parts, and one file that is damaged."""
    generator = np.random.default_rng(0)
    for number in range(60):
        part = "train" if number < 40 else "test"
        noise(tmp_path / "images" / part / "ab"[number % 2] / f"{number:02}.png", generator)
    return tmp_path / "images"


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine in whose memory no image fits."""
    monkeypatch.setattr(mapped, "_ALWAYS_FITS", 0)
    monkeypatch.setattr(mapped, "free_memory", lambda: 0)


def load(root: Path, **options) -> Data:
    return load_data(DataConfig(name=f"folder:{root}", image_size=8, **options))


def network(channels: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


def trained(data: Data, augment: str) -> tuple[torch.Tensor, ...]:
    """Train on train and val together, as a retraining does; return the weights and the test logits."""
    model = network(data.facts.in_channels)
    recipe = Recipe(batch_size=7, augment=augment)
    train(
        model, data.train_val, data.val, recipe, seed=3, epochs=2, device="cpu", report=lambda *_: None, num_classes=2
    )
    return (*model.state_dict().values(), predict(model, data.test, batch_size=9))


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
@pytest.mark.parametrize("channels", [None, 1])
def test_a_mapped_set_trains_to_the_same_numbers_bit_for_bit(
    root: Path, monkeypatch: pytest.MonkeyPatch, augment: str, channels: int | None
) -> None:
    whole = load(root, channels=channels)
    assert (whole.train.rows, whole.train.in_words) == (None, "in memory")
    monkeypatch.setattr(row_file, "fits_in_memory", lambda n_bytes: False)
    from_file = load(root, channels=channels)
    assert from_file.train.in_words == "memory-mapped"
    assert from_file.train.pixels is from_file.test.pixels
    assert from_file.train.pixels.shape == (60, channels or 3, 8, 8)
    assert dataclasses.replace(from_file.facts, notes=()) == dataclasses.replace(whole.facts, notes=())
    for ours, theirs in zip(trained(from_file, augment), trained(whole, augment), strict=True):
        assert torch.equal(ours, theirs)


def test_without_memory_the_images_are_decoded_into_a_file_and_never_held(
    root: Path, no_memory: None, cache_home: Path
) -> None:
    (root / "train" / "a" / "00.png").write_bytes(b"damaged")
    data = load(root)
    assert data.facts.n_train + data.facts.n_val + data.facts.n_test == 59
    assert [path.name for path in cache_home.rglob("*") if path.is_file()] == [cache_file(root, 8).name]
    again = load(root)
    assert again.facts == data.facts
    path = root / "test" / "b" / "41.png"
    assert np.array_equal(data.test.take(slice(10, 11))[0].permute(1, 2, 0), np.asarray(Image.open(path)))


def test_what_is_written_to_the_images_never_reaches_the_file(root: Path, no_memory: None) -> None:
    first = load(root)
    before = first.train.take(slice(0, 3)).clone()
    first.train.pixels.zero_()
    assert torch.equal(load(root).train.take(slice(0, 3)), before)


def test_a_file_that_is_larger_than_memory_can_be_mapped(tmp_path: Path) -> None:
    n_bytes = 4 * psutil.virtual_memory().total
    with (tmp_path / "sparse").open("w+b") as file:
        file.truncate(n_bytes)
        mapping = map_file(file)
    mapping[-1:] = b"x"
    assert (len(mapping), mapping[-2:]) == (n_bytes, b"\0x")
    with (tmp_path / "sparse").open("rb") as file:
        file.seek(-1, 2)
        assert file.read() == b"\0"


def test_rows_are_announced_before_they_are_read_those_that_follow_each_other_in_one_piece() -> None:
    pieces: list[tuple[int, int, int]] = []

    class Mapping:
        def madvise(self, *piece: int) -> None:
            pieces.append(piece)

    page, row_bytes = mmap.PAGESIZE, 10 * mmap.PAGESIZE
    Announcing(Mapping(), offset=page + 100, row_bytes=row_bytes)(np.array([7, 3, 4, 7, 9, 5]))
    starts = [page + first * row_bytes for first in (3, 7, 9)]
    lengths = [100 + n * row_bytes for n in (3, 1, 1)]
    assert pieces == [(mmap.MADV_WILLNEED, start, length) for start, length in zip(starts, lengths, strict=True)]


def test_a_batch_of_a_mapped_set_is_announced(root: Path, no_memory: None) -> None:
    train_part = load(root).train
    announced: list[list[int]] = []
    assert isinstance(train_part.announce, Announcing)
    watched = dataclasses.replace(train_part, announce=lambda rows: announced.append(rows.tolist()))
    watched.take(torch.tensor([2, 0]))
    assert announced == [train_part.rows[[2, 0]].tolist()]


def test_blocks_of_large_images_are_small() -> None:
    assert [rows_per_block((10**6, size, size, 3)) for size in (8, 64, 512, 2048, 10**4)] == [256, 256, 5, 1, 1]


def test_a_damaged_file_is_decoded_again(root: Path, no_memory: None) -> None:
    facts = load(root).facts
    cache = cache_file(root, 8)
    assert cache is not None
    whole = bytearray(cache.read_bytes())
    whole[len(whole) // 2] ^= 1
    cache.write_bytes(whole)
    assert load(root).facts == facts
    assert cache.read_bytes() != whole


def test_the_limit_is_a_quarter_of_the_free_memory_for_one_copy_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "free_memory", lambda: 64 * 10**9)
    monkeypatch.setattr(mapped, "n_cores", lambda: 8)
    assert mapped.fits_in_memory(2 * 10**9)
    assert not mapped.fits_in_memory(2 * 10**9 + 1)
    monkeypatch.setattr(mapped, "free_memory", lambda: 0)
    assert mapped.fits_in_memory(2**26)


def test_a_container_s_limit_bounds_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "max").write_text("12345\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(mapped, "_LIMITS", (tmp_path / "none", tmp_path / "nowhere"))
    assert free_memory() > 10**6
    monkeypatch.setattr(mapped, "_LIMITS", (tmp_path / "none", tmp_path / "max"))
    assert free_memory() == 12345


def test_rows_of_a_mapped_array_are_those_of_numpy() -> None:
    base = np.random.default_rng(1).integers(0, 256, (600, 2, 2, 1), dtype=np.uint8)
    rows = np.random.default_rng(2).permutation(600)[:500]
    pixels = MappedPixels(base, rows).take(np.arange(0, 500, 3))
    expected = base[rows[::3]]
    assert (pixels.shape, len(pixels), pixels.nbytes) == (expected.shape, 167, expected.nbytes)
    assert np.array_equal(np.asarray(pixels), expected)
    assert np.array_equal(np.concatenate(list(blocks(pixels))), expected)
    assert np.array_equal(pixels[3:7], expected[3:7])


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_images_that_do_not_fit_on_the_device_stay_beside_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, augment: str
) -> None:
    monkeypatch.setattr(placing, "fits_in_memory", lambda n_bytes: False)
    part = load_data(DataConfig(name=f"folder:{root}", image_size=8), device="meta").train
    assert (part.pixels.device.type, part.device.type, part.in_words) == ("cpu", "meta", "each batch is copied to meta")
    batches = epoch_batches(part, batch_size=7, augment=augment, generator=torch.Generator())
    for inputs, targets in batches:
        assert (inputs.device.type, targets.device.type) == ("meta", "meta")
        assert inputs.shape[1:] == (3, 8, 8)
    monkeypatch.setattr(placing, "fits_in_memory", lambda n_bytes: True)
    whole = load_data(DataConfig(name=f"folder:{root}", image_size=8), device="meta").train
    assert (whole.pixels.device.type, whole.in_words) == ("meta", "on the device (meta)")


def test_a_quarter_of_a_gpu_s_free_memory_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 10**9, 80 * 10**9))
    assert placing.fits_on_device(2 * 10**9, torch.device("cuda"))
    assert not placing.fits_on_device(2 * 10**9 + 1, torch.device("cuda"))
    assert placing.fits_on_device(10**15, torch.device("cpu"))


def test_images_beside_the_device_are_copied_in_batches_and_joined_for_retraining() -> None:
    pixels = torch.arange(48, dtype=torch.uint8).view(12, 1, 2, 2).contiguous(memory_format=torch.channels_last)
    train_part = Images(pixels[:8], torch.arange(8), rows=torch.arange(8))
    val = Images(pixels[8:], torch.arange(4), rows=torch.arange(4))
    both = Data(train_part, val, val, facts=None).train_val
    assert both.rows.tolist() == list(range(12))
    assert torch.equal(both.take(slice(0, 12)), pixels)
    assert torch.equal(both.first(9).take(torch.tensor([8, 0])), pixels[[8, 0]])
    assert both.to("cpu").pixels is both.pixels
