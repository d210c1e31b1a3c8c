"""Where images come from: scikit-learn's digits, torchvision's data sets, an image folder, a MedMNIST-style file."""

from __future__ import annotations

import gzip
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.config import DataConfig
from nas_attn.data.arrays import PARTS, Labels, Part, Pixels, Progress, Source
from nas_attn.data.folder import DEFAULT_SIZE, read_folder
from nas_attn.data.labels_csv import TABLE, read_table
from nas_attn.errors import DataError, unknown

_DAMAGED = (
    OSError, ValueError, KeyError, EOFError, TypeError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class TorchvisionSet:
    """One of torchvision's data sets: the name of its class, and the folder that it looks for below the root."""

    cls: str
    folder: str


TORCHVISION_SETS: Mapping[str, TorchvisionSet] = {
    "mnist": TorchvisionSet("MNIST", "MNIST/raw"),
    "fashion-mnist": TorchvisionSet("FashionMNIST", "FashionMNIST/raw"),
    "cifar10": TorchvisionSet("CIFAR10", "cifar-10-batches-py"),
    "cifar100": TorchvisionSet("CIFAR100", "cifar-100-python"),
}
DATA_SETS = ("digits", *TORCHVISION_SETS, "folder:PATH", "npz:PATH")


def read_source(config: DataConfig, progress: Progress | None = None) -> Source:
    """Return the images that `config` names, at their own size (a folder: at the size asked for).

    Raises: DataError, in one sentence, for an unknown name and for data that is missing or damaged.
    """
    kind, colon, path = config.name.partition(":")
    if kind in ("folder", "npz") and not path.strip():
        raise DataError(f"Data '{config.name}' must name its place: write {kind}:PATH.")
    if kind == "folder" and colon:
        size = config.image_size or DEFAULT_SIZE
        read = read_table if (_path(path) / TABLE).is_file() else read_folder
        return read(_path(path), size, strict=config.strict, progress=progress)
    if kind == "npz" and colon:
        return read_npz(_path(path))
    if config.name in TORCHVISION_SETS:
        return read_torchvision(config.name, _path(config.root), download=config.download)
    if config.name == "digits":
        return read_digits()
    if _path(config.name).exists():
        kind = "folder" if _path(config.name).is_dir() else "npz"
        raise DataError(f"A path must say what it is, but got '{config.name}': write {kind}:{config.name}.")
    raise DataError(unknown("data set", config.name, DATA_SETS))


def _path(text: str) -> Path:
    """Return the path with `~` replaced; one that cannot be replaced stays, and is then not found."""
    return Path(os.path.expanduser(text))


def read_digits() -> Source:
    """Return scikit-learn's 1,797 handwritten digits from the file that it ships; scikit-learn is not imported.

    Its 17 shades are spread over 0 to 255. By default 10 % are train and 20 % val: with more, every network reaches
    99 % and none can be told from another.
    """
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError("The digits ship with scikit-learn, which is not installed: pip install scikit-learn.")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        table = np.loadtxt(gzip.decompress(path.read_bytes()).decode().splitlines(), np.int64, delimiter=",")
        shades, labels = table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1]
    except (*_DAMAGED, IndexError) as error:
        raise DataError(f"The digits cannot be read from {path} ({error}): install scikit-learn anew.") from None
    pixels = ((shades * 255 + 8) // 16).astype(np.uint8)
    return Source(tuple(map(str, range(10))), {"train": Part(pixels, labels)}, shares=(0.1, 0.2, 0.7))


def read_torchvision(name: str, root: Path, *, download: bool = False) -> Source:
    """Return one of torchvision's data sets with its own test part, fetched only if `download`."""
    import torchvision

    entry = TORCHVISION_SETS[name]
    place = (root / entry.folder).absolute()
    build: Callable[..., Any] = getattr(torchvision.datasets, entry.cls)
    try:
        halves = {part: build(str(root), train=part == "train", download=download) for part in ("train", "test")}
    except Exception as error:  # not found, md5 mismatch, a broken file, no network: each by another class
        reason = next(iter(str(error).splitlines()), type(error).__name__).partition(" You can use download")[0]
        if download:
            raise DataError(f"Data set '{name}' could not be fetched into {root.absolute()}: {reason}") from None
        if place.exists():
            raise DataError(
                f"Data set '{name}' is not whole in {place} ({reason}): fetch it with --download."
            ) from None
        raise DataError(
            f"Data set '{name}' was not found in {place}: say where it lies with --data-root, "
            "or fetch it with --download."
        ) from None
    parts = {part: _torchvision_part(half) for part, half in halves.items()}
    return Source(tuple(map(str, halves["train"].classes)), parts)


def _torchvision_part(half: Any) -> Part:
    """Return the arrays of a torchvision data set, whose grey images are a tensor and whose colour ones are not."""
    pixels = np.asarray(half.data, np.uint8)
    return Part(pixels[..., None] if pixels.ndim == 3 else pixels, np.asarray(half.targets, np.int64))


def read_npz(path: Path) -> Source:
    """Return a file in MedMNIST's layout: `train_images`, `train_labels`, and the same for `val` and `test`.

    `val` and `test` may be missing. Nothing in the file is executed (`allow_pickle=False`).
    Shape: images (N, H, W), (N, H, W, 1) or (N, H, W, 3) uint8; labels (N,) or (N, 1) whole numbers from 0, or (N, K)
        of 0 and 1 where an image may have several labels.
    """
    arrays = _read_arrays(path)
    parts = {}
    for part in PARTS:
        if f"{part}_images" in arrays or f"{part}_labels" in arrays:
            parts[part] = _npz_part(path, part, arrays)
    shapes = {part: held.pixels.shape[1:] for part, held in parts.items()}
    if len(set(shapes.values())) > 1:
        shown = ", ".join(f"{shape} in {part}" for part, shape in shapes.items())
        raise DataError(f"All images in {path} must have one shape, but they have {shown}.")
    several = {part: held.labels.shape[1:] for part, held in parts.items()}
    if len(set(several.values())) > 1:
        shown = ", ".join(f"{shape[0] if shape else 'one'} in {part}" for part, shape in several.items())
        raise DataError(f"All images in {path} must have as many labels, but they have {shown}.")
    if several["train"]:
        return Source(tuple(map(str, range(several["train"][0]))), parts, notes=_one_label_note(parts))
    n_classes = int(parts["train"].labels.max()) + 1
    _check_labels(path, parts, n_classes)
    return Source(tuple(map(str, range(n_classes))), parts)


def _one_label_note(parts: Mapping[str, Part]) -> tuple[str, ...]:
    """Say what classes that exclude each other should be written as."""
    if any((held.labels.sum(1) != 1).any() for held in parts.values()):
        return ()
    return (
        "Every image has exactly one of its labels: if they exclude each other, write them as class numbers, (N,).",
    )


def _check_labels(path: Path, parts: Mapping[str, Part], n_classes: int) -> None:
    """Refuse a label that train does not have, and a class without an image."""
    for part, held in parts.items():
        if held.labels.max() >= n_classes:
            raise DataError(
                f"Labels of '{part}_labels' in {path} must be among the {n_classes} classes of 'train_labels' "
                f"(0 to {n_classes - 1}), but {int(held.labels.max())} is there."
            )
    present = np.unique(parts["train"].labels)
    if len(present) < n_classes:
        absent = int(np.flatnonzero(present != np.arange(len(present)))[0])
        raise DataError(
            f"The labels of 'train_labels' in {path} must count the classes from 0 without a gap, but none is {absent} "
            f"and the largest is {n_classes - 1}."
        )


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array that the layout names."""
    if not path.is_file():
        raise DataError(f"An .npz file must exist, but there is none at {path.absolute()}.")
    wanted = {f"{part}_{what}" for part in PARTS for what in ("images", "labels")}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if "train_images" not in stored.files:
                found = ", ".join(stored.files) or "nothing"
                raise DataError(f"{path} must hold 'train_images' and 'train_labels', but holds {found}.")
            return {name: stored[name] for name in stored.files if name in wanted}
    except _DAMAGED as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        if "pickle" in reason:  # numpy takes any other file for one, and advises to run it
            reason = "it is no archive of plain arrays"
        raise DataError(f"{path} cannot be read as an .npz file, it is damaged or of another kind: {reason}.") from None


def _npz_part(path: Path, part: str, arrays: Mapping[str, NDArray[Any]]) -> Part:
    """Check one part's images and labels against each other."""
    for name in (f"{part}_images", f"{part}_labels"):
        if name not in arrays:
            raise DataError(f"{path} must hold '{name}' beside {', '.join(sorted(arrays))}.")
    return Part(
        _checked_pixels(path, f"{part}_images", arrays[f"{part}_images"]),
        _checked_labels(path, f"{part}_labels", arrays[f"{part}_labels"], len(arrays[f"{part}_images"])),
    )


def _checked_pixels(path: Path, name: str, images: NDArray[Any]) -> Pixels:
    """Return the images as (N, H, W, C)."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise DataError(
            f"'{name}' in {path} must have the shape (N, H, W), (N, H, W, 1) or (N, H, W, 3), but has {images.shape}."
        )
    if images.dtype != np.uint8:
        raise DataError(f"'{name}' in {path} must be uint8 (0 to 255), but is {images.dtype}: convert it.")
    return images


def _checked_labels(path: Path, name: str, labels: NDArray[Any], n_images: int) -> Labels:
    """Return the labels as (N,) int64, or as (N, K) of 0 and 1."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or 0 in labels.shape[1:]:
        raise DataError(
            f"'{name}' in {path} must hold one label an image, (N,) or (N, 1), or 0 or 1 for each of several labels, "
            f"(N, K), but has {labels.shape}."
        )
    if len(labels) != n_images:
        raise DataError(
            f"'{name}' in {path} must hold one label an image, but has {len(labels)} for {n_images} images."
        )
    if labels.ndim == 2 and labels.dtype.kind in "iub":
        other = labels[(labels != 0) & (labels != 1)]
        if len(other):
            raise DataError(
                f"'{name}' in {path} must hold 0 or 1 for each of its {labels.shape[1]} labels, but {int(other[0])} is "
                "there."
            )
        return labels.astype(np.int64)
    if labels.dtype.kind not in "iu":
        raise DataError(f"'{name}' in {path} must hold whole numbers, but is {labels.dtype}.")
    if labels.min() < 0 or labels.max() >= 2**31:
        worst = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(f"'{name}' in {path} must count the classes from 0, but {int(worst)} is there.")
    return labels.astype(np.int64)
