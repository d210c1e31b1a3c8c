"""An image folder: the folders are the classes, or a table of labels names the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nas_attn.data.arrays import ImageDataset
from nas_attn.data.decode import ImageFile
from nas_attn.data.entry import DataRequest
from nas_attn.data.file_images import dataset_of_files
from nas_attn.data.labels_csv import TABLE, read_table
from nas_attn.data.layout import entered, find_layout
from nas_attn.data.tree import scan


def read_folder(request: DataRequest) -> ImageDataset:
    """Return the images of a folder, each resized to the requested size; they stay grey if all are.

    Layouts: `PATH/CLASS/...`; `PATH/train/CLASS/...` with optional `val` and `test` beside it; `PATH/labels.csv`.

    Raises: DataError if the folder is missing, empty or laid out otherwise; if a file is no image under `strict`; if
        more files are damaged than are tolerated.
    """
    if (request.path / TABLE).is_file():
        return read_table(request)
    class_names, files, notes = list_folder(request.path)
    labels = np.array([file.label for file in files], np.int64)
    return dataset_of_files(request, files, class_names, labels, notes)


def list_folder(root: Path) -> tuple[tuple[str, ...], tuple[ImageFile, ...], tuple[str, ...]]:
    """Return the class names, every image file in a fixed order, and notes for the user; no image is decoded."""
    tree = scan(root)
    place, notes = entered(tree.root, (TABLE,))
    layout = find_layout(tree, place)
    files = tuple(
        ImageFile(found.path, part, label, found.size, found.mtime_ns)
        for part, classes in layout.classes.items()
        for label, folders in sorted(classes.items())
        for folder in folders
        for found in folder.all_images()
    )
    return layout.class_names, files, (*notes, *layout.notes)
