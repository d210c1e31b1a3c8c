"""An image folder: the folders are the classes, or a table of labels names the images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nas_attn.data.arrays import ImageDataset
from nas_attn.data.decode import ImageFile
from nas_attn.data.entry import DataRequest
from nas_attn.data.file_images import dataset_of_files
from nas_attn.data.layout import entered, find_layout
from nas_attn.data.table import TABLES, read_table, table_in
from nas_attn.data.tree import Folder, Tree, scan


def read_folder(request: DataRequest) -> ImageDataset:
    """Return the images of a folder, each resized to the requested size; they stay grey if all are.

    Layouts: `PATH/CLASS/...`; `PATH/train/CLASS/...` with optional `val` and `test` beside it; `PATH/labels.csv`,
    or such a table with another suffix of `TABLES`; also one folder deeper, if nothing else lies above it.

    Raises: DataError if the folder is missing, empty or laid out otherwise; if a file is no image under `strict`; if
        more files are damaged than are tolerated.
    """
    tree = scan(request.path)
    place, notes = entered(tree.root, TABLES)
    table = table_in(place.path)
    if table is not None:
        found = read_table(replace(request, path=table))
        return replace(found, notes=(*notes, *found.notes))
    class_names, files, more = list_classes(tree, place)
    notes += more
    labels = np.array([file.label for file in files], np.int64)
    return dataset_of_files(request, files, class_names, labels, notes)


def list_classes(tree: Tree, place: Folder) -> tuple[tuple[str, ...], tuple[ImageFile, ...], tuple[str, ...]]:
    """Return the class names, every image file in a fixed order, and notes for the user; no image is decoded."""
    layout = find_layout(tree, place)
    files = tuple(
        ImageFile(found.path, part, label, found.size, found.mtime_ns)
        for part, classes in layout.classes.items()
        for label, folders in sorted(classes.items())
        for folder in folders
        for found in folder.all_images()
    )
    return layout.class_names, files, layout.notes
