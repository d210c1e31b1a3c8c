"""Equal images across parts and under two labels: found by content, counted, named, and removed on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_cases import fill, shape
from PIL import Image

from nas_attn.config import DataConfig
from nas_attn.data.arrays import ImageDataset, LabelledImages
from nas_attn.data.dataset import DataFacts, describe, load_data
from nas_attn.data.duplicates import handled_duplicates, with_origins
from nas_attn.errors import DataError

pytestmark = pytest.mark.usefixtures("cache_home")


def facts_of(root: Path, **options: Any) -> DataFacts:
    return describe(DataConfig(name=f"folder:{root}", image_size=16, **options))


def draw(path: Path, left: bool, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((shape(left, seed) * 250).astype(np.uint8)).save(path)


@pytest.fixture
def in_two_parts(tmp_path: Path) -> Path:
    """Twelve training and eight test images, of which four are training images in another format."""
    root = tmp_path / "x"
    for left, name in ((True, "left"), (False, "top")):
        for seed in range(6):
            draw(root / "train" / name / f"{seed}.png", left, seed)
        for seed in range(4):
            draw(root / "test" / name / f"again{seed}.bmp", left, seed if seed < 2 else 50 + seed)
    return root


def test_images_of_an_earlier_part_are_counted_and_named(in_two_parts: Path) -> None:
    (note,) = facts_of(in_two_parts).notes
    assert note == (
        "Images that an earlier part has too: 4 of test, such as test/left/again0.bmp = train/left/0.png, "
        "test/left/again1.bmp = train/left/1.png; they are kept: --drop-duplicates removes them."
    )
    assert facts_of(in_two_parts).notes == (note,), "also from the cache"


def test_they_are_removed_from_the_later_part(in_two_parts: Path) -> None:
    facts = facts_of(in_two_parts, drop_duplicates=True)
    plain = facts_of(in_two_parts)
    assert (facts.n_train, facts.n_val, facts.n_test) == (plain.n_train, plain.n_val, 4)
    assert facts.class_counts == (8, 8)
    assert facts.fingerprint != plain.fingerprint
    assert facts.notes[0].endswith("they are removed (--drop-duplicates).")


def test_copies_that_the_split_separates_are_found(tmp_path: Path) -> None:
    root = tmp_path / "x"
    for left, name in ((True, "left"), (False, "top")):
        for number in range(24):
            draw(root / name / f"{number:02}.png", left, min(number, 18))  # the last six are one picture
    facts = facts_of(root)
    assert facts.notes[0].startswith("Images that an earlier part has too: ")
    data = load_data(DataConfig(name=f"folder:{root}", image_size=16, drop_duplicates=True))
    train = {row.numpy().tobytes() for row in data.train.pixels}
    assert not any(row.numpy().tobytes() in train for part in (data.val, data.test) for row in part.pixels)
    assert len(data.train) == facts.n_train


def test_an_image_under_two_labels_is_named_and_all_its_copies_are_removed(tmp_path: Path) -> None:
    root = fill(
        tmp_path / "x", lambda path, values, _: Image.fromarray((values * 250).astype(np.uint8)).save(f"{path}.png")
    )
    (root / "top" / "stray.png").write_bytes((root / "left" / "0.png").read_bytes())
    assert facts_of(root).notes[-1] == (
        "Equal images with different labels: 2 (1 without copies), such as left/0.png (left) = top/stray.png (top); "
        "they are kept: --drop-duplicates removes all copies."
    )
    facts = facts_of(root, drop_duplicates=True)
    assert facts.class_counts == (5, 6)
    assert facts.notes[-1].endswith("they are removed with all copies (--drop-duplicates).")


def test_images_that_differ_in_one_pixel_of_a_large_file_are_not_equal(tmp_path: Path) -> None:
    def write(path: Path, values: np.ndarray, number: int) -> None:
        large = np.kron(shape("left" in str(path)), np.ones((20, 20))) * 250
        large[5, 5] += number
        Image.fromarray(large.astype(np.uint8)).save(f"{path}.png")

    assert not any("earlier part" in note for note in facts_of(fill(tmp_path / "x", write)).notes)


def test_images_of_an_npz_file_are_named_by_part_and_number(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    labels = np.arange(40) % 2
    np.savez(
        tmp_path / "x.npz",
        train_images=images, train_labels=labels, test_images=images[[3, 8]], test_labels=labels[[3, 8]],
    )  # fmt: skip
    (note,) = describe(DataConfig(name=f"npz:{tmp_path / 'x.npz'}")).notes
    assert "2 of test, such as test 0 = train 3, test 1 = train 8" in note
    with pytest.raises(DataError, match="Every part must keep an image, but all 2 of test are duplicates"):
        describe(DataConfig(name=f"npz:{tmp_path / 'x.npz'}", drop_duplicates=True))


def test_labels_of_several_columns_are_compared_as_a_whole() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 1), np.uint8)
    train = LabelledImages(pixels[:6], np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0], [0, 1]]))
    test = LabelledImages(pixels[[0, 1, 6]], np.array([[1, 0], [0, 0], [0, 1]]))
    empty = train.take(np.array([], int))
    dataset = with_origins(ImageDataset(("a", "b"), {"train": train, "val": empty, "test": test}))
    kept, notes = handled_duplicates(dataset.parts, ("a", "b"), drop=True)
    assert "train 1 (b) = test 1 (no label)" in notes[1]
    assert [len(part) for part in kept.values()] == [5, 0, 1]


def test_a_class_that_loses_all_training_images_is_refused() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 1), np.uint8)
    train = LabelledImages(pixels[[0, 1, 2, 0]], np.array([0, 0, 0, 1]))
    rest = {part: LabelledImages(pixels[[3]], np.array([0])) for part in ("val",)}
    dataset = with_origins(
        ImageDataset(("a", "b"), {"train": train, **rest, "test": LabelledImages(pixels[[2]] + 1, np.array([0]))})
    )
    with pytest.raises(DataError, match="must keep a training image, but all of 'b' are duplicates"):
        handled_duplicates(dataset.parts, ("a", "b"), drop=True)


def test_images_in_memory_are_compared_too() -> None:
    from nas_attn.data.memory import data_source_of

    images = torch.rand(30, 1, 8, 8)
    pairs = [(image, number % 2) for number, image in enumerate(images)]
    with data_source_of((pairs[:20], pairs[20:], pairs[:4]), None) as name:
        notes = describe(DataConfig(name=name)).notes
    assert "4 of test, such as test 0 = train 0" in notes[1]
