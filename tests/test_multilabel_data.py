"""Several labels per image, read from an .npz file or from a folder with a table, and split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from multilabel_cases import LABELS, column, facts_of, planted, write_npz
from PIL import Image

from nas_attn.config import DataConfig
from nas_attn.data.arrays import ImageDataset, LabelledImages
from nas_attn.data.dataset import load_data
from nas_attn.data.splits import constant_label_notes, multilabel_split
from nas_attn.errors import DataError

pytestmark = pytest.mark.usefixtures("cache_home")


# --- .npz files


def test_an_npz_with_a_column_per_label_is_multi_label(tmp_path: Path) -> None:
    train_part, val_part, test_part = planted(60), planted(20, 1), planted(30, 2)
    data = load_data(DataConfig(name=write_npz(tmp_path / "a.npz", train=train_part, val=val_part, test=test_part)))
    assert (data.facts.task, data.facts.num_classes, data.facts.class_names) == ("multi-label", 3, ("0", "1", "2"))
    assert data.facts.class_counts == tuple(np.concatenate([train_part[1], val_part[1], test_part[1]]).sum(0))
    assert data.test.targets.dtype == torch.float32
    assert np.array_equal(data.test.targets.numpy(), test_part[1])
    assert data.train_val.targets.shape == (80, 3)
    assert "each with any of 3 labels, scored by their mean ROC AUC." in data.facts.in_words


def test_one_column_is_class_numbers_and_true_and_false_are_labels(tmp_path: Path) -> None:
    images, labels = planted(60)
    assert facts_of(write_npz(tmp_path / "a.npz", train=(images, labels[:, :1]))).task == "single-label"
    plain = facts_of(write_npz(tmp_path / "b.npz", train=(images, labels)))
    truth = facts_of(write_npz(tmp_path / "c.npz", train=(images, labels.astype(bool))))
    assert truth.fingerprint == plain.fingerprint
    other = facts_of(write_npz(tmp_path / "d.npz", train=(images, 1 - labels)))
    assert other.fingerprint != plain.fingerprint


def test_labels_of_which_every_image_has_one_are_read_with_a_note(tmp_path: Path) -> None:
    images, labels = planted(60)[0], np.eye(3, dtype=int)[np.arange(60) % 3]
    note = "if they exclude each other, write them as class numbers"
    assert any(note in found for found in facts_of(write_npz(tmp_path / "a.npz", train=(images, labels))).notes)
    assert not any(note in found for found in facts_of(write_npz(tmp_path / "b.npz", train=planted(60))).notes)


TRAIN, OWN = planted(60), planted(20, 1)
BAD_NPZ = {
    "a two": ({"train": (TRAIN[0], TRAIN[1] * 2)}, "must be 0 or 1 for each of its 3 labels, but has the value 2"),
    "fractions": ({"train": (TRAIN[0], TRAIN[1] / 2)}, "must be whole numbers, but is float64"),
    "too few": ({"train": (TRAIN[0], TRAIN[1][:-1])}, "but has 59 for 60 images"),
    "other columns": (
        {"train": TRAIN, "val": (OWN[0], OWN[1][:, :2])},
        "the same number of labels, but they have 3 in train, 2 in",
    ),
    "one column": ({"train": TRAIN, "test": (OWN[0], OWN[1][:, 0])}, "they have 3 in train, one in test"),
    "one column beside exclusive labels": (
        {"train": (TRAIN[0], np.eye(3, dtype=int)[np.arange(60) % 3]), "test": (OWN[0], OWN[1][:, 0])},
        "they have 3 in train, one in test",
    ),
    "no positive": ({"train": (TRAIN[0], column(TRAIN[1], 1, 0))}, "label '1' has 0 with it where 3 are needed"),
    "no negative": ({"train": (TRAIN[0], column(TRAIN[1], 2, 1))}, "label '2' has 0 without it where 3 are needed"),
    "own parts, no positive in train": (
        {"train": (TRAIN[0], column(TRAIN[1], 1, 0)), "val": OWN, "test": OWN},
        "label '1' has 0 with it where 1 are needed",
    ),
    "constant labels": (
        {"train": TRAIN, "val": (OWN[0], OWN[1] * 0), "test": OWN},
        "in val, but there is no image with label '0'",
    ),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_npz_labels_that_cannot_be_learnt_are_refused(tmp_path: Path, case: str) -> None:
    parts, message = BAD_NPZ[case]
    with pytest.raises(DataError, match=message):
        facts_of(write_npz(tmp_path / "a.npz", **parts))


def test_a_label_that_is_constant_in_an_own_part_is_named(tmp_path: Path) -> None:
    images, labels = planted(20, 2)
    val = (images, column(labels, 2, 0))
    facts = facts_of(write_npz(tmp_path / "a.npz", train=TRAIN, val=val, test=OWN))
    assert facts.notes == ("The mean ROC AUC on val leaves out '2': the label is the same in all images of val.",)


@pytest.mark.parametrize(("value", "only"), [(0, "is no image"), (1, "are only images")])
def test_a_label_that_is_constant_in_train_is_refused(value: int, only: str) -> None:
    train = LabelledImages(TRAIN[0][..., None], column(TRAIN[1], 1, value))
    dataset = ImageDataset(LABELS, {"train": train, "test": LabelledImages(OWN[0][..., None], OWN[1])})
    with pytest.raises(DataError, match=f"in train, but there {only} with label 'hernia': add images, or remove"):
        constant_label_notes(dataset, {"train": train})


# --- the split


def test_every_label_is_cut_by_the_same_shares_and_the_seed_decides(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((1000, 6)) < (0.5, 0.3, 0.1, 0.05, 0.02, 0.01)).astype(np.int64)
    labels[:, 5] |= labels[:, 4]  # labels that go together
    shares = (0.6, 0.2, 0.1)
    parts = multilabel_split(labels, shares, 0, list("abcdef"))
    assert [len(part) for part in parts] == pytest.approx([600, 200, 100], abs=8)
    assert len(np.unique(np.concatenate(parts))) == sum(map(len, parts))
    for part, share in zip(parts, shares, strict=True):
        assert np.array_equal(part, np.sort(part))
        assert np.abs(labels[part].sum(0) - share * labels.sum(0)).max() <= 3
    again, other = (multilabel_split(labels, shares, seed, list("abcdef")) for seed in (0, 1))
    assert np.array_equal(parts[0], again[0])
    assert not np.array_equal(parts[0], other[0])


def test_three_images_of_a_label_go_to_three_parts() -> None:
    labels = np.zeros((40, 2), np.int64)
    labels[:3, 0] = labels[10:30, 1] = 1
    assert [labels[part, 0].sum() for part in multilabel_split(labels, (0.7, 0.15, 0.15), 0, ("rare", "usual"))] == [
        1,
        1,
        1,
    ]


# --- a folder with a table


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Forty images, every other one in a folder of its own, and a table of three labels."""
    folder = tmp_path / "chest"
    images, labels = planted(40)
    lines = [f"file,{','.join(LABELS)}"]
    for number, (image, row) in enumerate(zip(images, labels, strict=True)):
        name = f"deep/down/{number:02}.png" if number % 2 else f"{number:02}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
        lines.append(f"{name},{','.join(map(str, row))}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def edit(root: Path, change: Callable[[list[str]], object]) -> str:
    lines = (root / "labels.csv").read_text().splitlines()
    change(lines)
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return f"folder:{root}"


def test_a_folder_with_a_table_has_its_labels_and_their_names(root: Path) -> None:
    data = load_data(DataConfig(name=f"folder:{root}", image_size=8, split=(0.5, 0.25, 0.25)))
    images, labels = planted(40)
    assert (data.facts.task, data.facts.class_names, data.facts.in_channels) == ("multi-label", LABELS, 1)
    assert data.facts.class_counts == tuple(labels.sum(0))
    known = {image.tobytes(): tuple(row) for image, row in zip(images, labels, strict=True)}
    for part in (data.train, data.val, data.test):
        for pixels, targets in zip(part.pixels.numpy(), part.targets.numpy(), strict=True):
            assert known[pixels.tobytes()] == tuple(targets)
    assert len(data.train) + len(data.val) + len(data.test) == 40


def test_a_split_column_is_kept_wherever_it_stands(root: Path) -> None:
    def add(lines: list[str]) -> None:
        for number, line in enumerate(lines):
            file, rest = line.split(",", 1)
            word = "split" if number == 0 else ("train", "VAL", "test", "train")[number % 4]
            lines[number] = f"{file},{word},{rest}"

    data = load_data(DataConfig(name=edit(root, add), image_size=8))
    assert (data.facts.n_train, data.facts.n_val, data.facts.n_test) == (20, 10, 10)
    assert data.facts.class_names == LABELS
    assert np.array_equal(data.test.targets.numpy(), planted(40)[1][1::4])


def test_only_a_column_behind_the_first_is_the_split(root: Path) -> None:
    name = edit(root, lambda lines: lines.__setitem__(0, f"split,{','.join(LABELS)}"))
    assert facts_of(name, image_size=8).class_names == LABELS


def test_the_cache_stores_pixels_and_never_labels(root: Path) -> None:
    before = facts_of(f"folder:{root}", image_size=8)
    edit(
        root,
        lambda lines: lines.__setitem__(1, f"00.png,{','.join('10'[int(bit)] for bit in lines[1].split(',')[1:])}"),
    )
    after = facts_of(f"folder:{root}", image_size=8)
    assert before.class_counts != after.class_counts


def test_a_damaged_image_is_left_out_with_its_labels(root: Path) -> None:
    labels = planted(40)[1]
    for number in ("02", "04", "06", "08"):
        (root / f"{number}.png").rename(root / f"{number}.whole")
        (root / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="At most 1 % of the files, or 3, may be no images"):
        facts_of(f"folder:{root}", image_size=8)
    for number in ("04", "06", "08"):
        (root / f"{number}.whole").replace(root / f"{number}.png")
    facts = facts_of(f"folder:{root}", image_size=8)
    assert facts.class_counts == tuple(labels.sum(0) - labels[2])
    assert any("02.png" in note for note in facts.notes)


BAD_TABLES = {
    "another value": (
        lambda lines: lines.__setitem__(3, "02.png,0,2,1"),
        "Line 4 .* 0 or 1 for label 'hernia', but has '2'",
    ),
    "an empty cell": (lambda lines: lines.__setitem__(3, "02.png,0,,1"), "for label 'hernia', but has ''"),
    "a missing file": (lambda lines: lines.append("x.png,0,0,1"), "Line 42 .* must name a file below .* no 'x.png'"),
    "a file outside": (lambda lines: lines.append("../x.png,0,0,1"), r"must name a file below .* no '\.\./x\.png'"),
    "a file twice": (lambda lines: lines.append("./02.png,0,0,1"), r"names './02\.png' again, after line 4"),
    "a short row": (lambda lines: lines.append("02.png,0,0"), "must have 4 columns like the first line, but has 3"),
    "one label": (
        lambda lines: lines.__setitem__(slice(None), ["file,a", "00.png,1"]),
        "must have two classes or more, but has only '1'",
    ),
    "semicolons": (
        lambda lines: lines.__setitem__(0, "file;a;b"),
        "must have 3 columns like the first line, but has 1",
    ),
    "a name twice": (lambda lines: lines.__setitem__(0, "file,a,b,a"), "its own name, but column 4 has 'a'"),
    "no name": (lambda lines: lines.__setitem__(0, "file,a,b,"), "its own name, but column 4 has ''"),
    "no rows": (lambda lines: lines.__delitem__(slice(1, None)), "a line per image, but has 1"),
    "another split": (
        lambda lines: lines.__setitem__(slice(None), ["file,a,b,split", "00.png,1,0,trian"]),
        "Unknown split 'trian' in Line 2 .*: did you mean 'train'",
    ),
    "no train": (
        lambda lines: lines.__setitem__(slice(None), ["file,a,b,split", "00.png,1,0,val"]),
        "must name images of train",
    ),
    "no positive": (
        lambda lines: lines.__setitem__(slice(1, None), [f"{line.rsplit(',', 1)[0]},0" for line in lines[1:]]),
        "label 'mass' has 0 with it where 3 are needed",
    ),
    "an open quote": (
        lambda lines: lines.append('"x.png,0,0,1'),
        "must be a table in UTF-8 with commas, semicolons or tabs",
    ),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_table_that_does_not_fit_is_refused_with_its_line(root: Path, case: str) -> None:
    change, message = BAD_TABLES[case]
    with pytest.raises(DataError, match=message):
        facts_of(edit(root, change), image_size=8)


def test_a_table_of_other_bytes_is_one_sentence(root: Path) -> None:
    (root / "labels.csv").write_bytes(b"file,a,b\n\xff\xfe,1,0\n")
    with pytest.raises(DataError, match="must be a table in UTF-8 with commas, semicolons or tabs, but cannot be read"):
        facts_of(f"folder:{root}", image_size=8)
