"""Where images come from, how they are split, and what is refused, with its sentence."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_attn.config import DataConfig
from nas_attn.data import describe, load_data
from nas_attn.data_parts import Part, Source, cut, default_shares, mean_and_std, resized, stratified, with_channels
from nas_attn.errors import DataError


def facts_of(name: str, **options: Any):
    return describe(DataConfig(name=name, **options))


# --- digits


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
        "import sys; from nas_attn.config import DataConfig; from nas_attn.data import describe; "
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
    parts = stratified(labels, shares, seed, names)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    for part, share in zip(parts, shares, strict=True):
        found = np.bincount(labels[part], minlength=len(counts))
        assert (found >= 1).all()
        assert (np.abs(found - share * np.array(counts)) <= 2).all()
    again = stratified(labels, shares, seed, names)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


def test_another_seed_draws_another_split() -> None:
    labels = np.repeat(np.arange(2), 50)
    one, other = (stratified(labels, (0.5, 0.2, 0.3), seed, "ab")[0] for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_a_split_never_changes_between_versions() -> None:
    train, val, test = stratified(np.repeat(np.arange(2), 5), (0.4, 0.2, 0.4), 7, "ab")
    assert (train.tolist(), val.tolist(), test.tolist()) == ([1, 4, 8, 9], [0, 7], [2, 3, 5, 6])


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
    part = Part(np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1), labels)
    source = Source(("a", "b"), {"train": part, "test": part.take(np.arange(6))})
    parts = cut(source, None, 0)
    assert parts["test"] is source.parts["test"]
    assert (len(parts["train"]), len(parts["val"])) == (32, 8)
    with pytest.raises(DataError, match="brings its own test part, so its share must be 0"):
        cut(source, (0.5, 0.2, 0.3), 0)
    assert len(cut(source, (0.1, 0.2, 0.0), 0)["train"]) == 4
    whole = cut(Source(("a", "b"), {"train": part, "val": part, "test": part}), None, 0)
    assert np.array_equal(whole["train"].pixels, part.pixels)


@pytest.mark.parametrize("own", [(), ("train",), ("train", "test"), ("train", "val"), ("train", "val", "test")])
def test_default_shares_add_up_to_one(own: tuple[str, ...]) -> None:
    assert sum(default_shares(own)) == pytest.approx(1)


def test_a_class_with_too_few_images_is_named_with_its_count() -> None:
    labels = np.array([0] * 10 + [1] * 2)
    with pytest.raises(DataError, match="class 'crow' has 2 where 3 are needed"):
        stratified(labels, (0.6, 0.2, 0.2), 0, ["owl", "crow"])


# --- pixels


def test_grey_is_what_pil_makes_of_colour() -> None:
    from PIL import Image

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
    mean, std = mean_and_std(pixels)
    assert mean == pytest.approx((pixels / 255).mean((0, 1, 2)))
    assert std[:2] == pytest.approx((pixels / 255).std((0, 1, 2))[:2])
    assert std[2] == 1 / 255


# --- names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cifar",
            r"Unknown data set 'cifar': did you mean 'cifar10+'\? Known: cifar10, cifar100, digits, fashion-mnist",
        ),
        ("folder", "must name its place: write folder:PATH"),
        ("npz:", "must name its place: write npz:PATH"),
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
    assert any("test was cut from its train part" in note for note in with_val.notes)


def test_images_that_are_not_square_are_stretched_and_it_is_said(tmp_path: Path) -> None:
    images, labels = arrays(30)
    facts = facts_of(write_npz(tmp_path / "a.npz", train=(images[:, :4], labels)))
    assert facts.image_size == 6
    assert "Images of 4 x 6 are stretched to 6 x 6." in facts.notes


BAD_NPZ = {
    "float images": ((arrays()[0] / 255, arrays()[1]), r"must be uint8 \(0 to 255\), but is float64"),
    "five axes": ((arrays()[0][:, None, :, :, None], arrays()[1]), r"must have the shape \(N, H, W\)"),
    "no images": ((arrays()[0][:0], arrays()[1][:0]), r"must have the shape .* but has \(0, 6, 6, 1\)"),
    "too few labels": ((arrays()[0], arrays()[1][:-1]), "must hold one label an image, but has 29 for 30 images"),
    "three axes of labels": ((arrays()[0], np.zeros((30, 4, 2), int)), r"0 or 1 for each of several labels, \(N, K\)"),
    "float labels": ((arrays()[0], arrays()[1] / 2), "must hold whole numbers, but is float64"),
    "negative labels": ((arrays()[0], arrays()[1] - 1), "must count the classes from 0, but -1 is there"),
    "huge labels": ((arrays()[0], arrays()[1] + 2**40), "must count the classes from 0, but 1099511627778 is there"),
    "a gap": ((arrays()[0], arrays()[1] * 10**6), "without a gap, but none is 1 and the largest is 2000000"),
    "one class": ((arrays()[0], arrays()[1] * 0), "must have two classes or more, but has only '0'"),
    "rare class": ((arrays(4)[0], arrays(4)[1]), "class '0' has 2 where 3 are needed"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_npz_content_that_does_not_fit_is_refused(tmp_path: Path, case: str) -> None:
    pair, message = BAD_NPZ[case]
    with pytest.raises(DataError, match=message):
        facts_of(write_npz(tmp_path / "a.npz", train=pair))


def test_npz_parts_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"among the 3 classes of 'train_labels' \(0 to 2\), but 4 is there"):
        facts_of(write_npz(tmp_path / "a.npz", train=arrays(), test=arrays(classes=5)))
    with pytest.raises(DataError, match=r"must have one shape, but they have \(6, 6, 1\) in train, \(7, 7, 1\) in val"):
        facts_of(write_npz(tmp_path / "b.npz", train=arrays(), val=arrays(size=7)))
    np.savez(tmp_path / "c.npz", train_images=arrays()[0])
    with pytest.raises(DataError, match="must hold 'train_labels' beside train_images"):
        facts_of(f"npz:{tmp_path / 'c.npz'}")
    np.savez(tmp_path / "d.npz", x=arrays()[0])
    with pytest.raises(DataError, match="must hold 'train_images' and 'train_labels', but holds x"):
        facts_of(f"npz:{tmp_path / 'd.npz'}")


def test_an_npz_that_would_execute_something_is_refused(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}] * 30, dtype=object)
    np.savez(tmp_path / "a.npz", train_images=objects, train_labels=arrays()[1])
    with pytest.raises(DataError, match=r"cannot be read as an \.npz file"):
        facts_of(f"npz:{tmp_path / 'a.npz'}")


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", arrays()[0])
    (tmp_path / "b.npz").write_text("no archive")
    (tmp_path / "c.npz").write_bytes(b"")
    for name in ("a.npy", "b.npz", "c.npz"):
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


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_a_missing_data_set_says_where_it_looked_and_which_flags_help(tmp_path: Path, name: str) -> None:
    message = (
        rf"'{name}' was not found in {tmp_path}.*: say where it lies with --data-root, or fetch it with --download"
    )
    with pytest.raises(DataError, match=message):
        facts_of(name, root=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_damaged_data_set_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:999])
    with pytest.raises(DataError, match=r"'mnist' is not whole in .*raw .*: fetch it with --download"):
        facts_of("mnist", root=str(tmp_path))
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="'cifar10' is not whole in"):
        facts_of("cifar10", root=str(tmp_path))


def test_colour_sets_come_as_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    class Stored:
        classes = ("cat", "dog")

        def __init__(self, root: str, train: bool, download: bool) -> None:
            assert not download
            self.targets = [0, 1] * (20 if train else 5)
            self.data = np.full((len(self.targets), 32, 32, 3), 7, np.uint8)

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Stored)
    facts = facts_of("cifar10", root=str(tmp_path))
    assert (facts.n_train, facts.n_val, facts.n_test) == (32, 8, 10)
    assert (facts.in_channels, facts.image_size, facts.class_names) == (3, 32, ("cat", "dog"))


def test_a_download_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", offline)
    with pytest.raises(DataError, match=r"could not be fetched into .*: no route to host$"):
        facts_of("cifar100", root=str(tmp_path), download=True)


def test_a_scikit_learn_with_a_broken_file_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.machinery import ModuleSpec

    folder = tmp_path / "datasets" / "data"
    folder.mkdir(parents=True)
    (folder / "digits.csv.gz").write_bytes(gzip.compress(b"1,2,3\n4,x,6\n"))
    spec = ModuleSpec("sklearn", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("nas_attn.data_sources.find_spec", lambda _: spec)
    with pytest.raises(DataError, match=r"The digits cannot be read from .*: install scikit-learn anew"):
        facts_of("digits")
    monkeypatch.setattr("nas_attn.data_sources.find_spec", lambda _: None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        facts_of("digits")
