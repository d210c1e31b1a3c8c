"""Which columns of a Hugging Face data set are the images and the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_attn.data.arrow_shards import Shards
from nas_attn.data.table_columns import is_called_class
from nas_attn.data.tree import composed, is_writable
from nas_attn.errors import DataError


@dataclass(frozen=True)
class Features:
    """The columns that are read.

    Args:
        image: The column of images.
        is_struct: Whether an image is a pair of bytes and path; otherwise it is bytes.
        label: The column of labels.
        class_names: Names of the class numbers; empty if the values of the column are the classes.
        several: Whether a label is a list of class numbers.
        unread: The other columns.
    """

    image: str
    is_struct: bool
    label: str
    class_names: tuple[str, ...]
    several: bool
    unread: tuple[str, ...]

    @property
    def in_words(self) -> str:
        """One sentence on how the columns are read."""
        kind = "several labels" if self.several else "one class"
        unread = f"; not read: {', '.join(repr(name) for name in self.unread)}" if self.unread else ""
        return f"The images are in column '{self.image}', {kind} per image in '{self.label}'{unread}."


def find_features(train: Shards, root: Path) -> Features:
    """Return the columns of images and labels.

    Raises: DataError, in one sentence, if there is none of a kind, or more than one.
    """
    import pyarrow.types as types

    stated = train.features
    kinds = {name: train.schema.field(name).type for name in train.schema.names}
    structs = [name for name, kind in kinds.items() if _is_picture(kind)]
    plain = [name for name, kind in kinds.items() if types.is_binary(kind) or types.is_large_binary(kind)]
    typed = {name: f"'{name}' ({kind})" for name, kind in kinds.items()}
    image = _only(structs or plain, "images", root, typed)
    classes = [name for name in kinds if _type(stated.get(name)) == "ClassLabel"]
    lists = [name for name in kinds if _listed_classes(stated.get(name)) is not None]
    words = [name for name, kind in kinds.items() if is_called_class(name) and (_is_word(kind))]
    typed.pop(image)
    label = _only(_preferred(classes) or lists or words, "labels", root, typed)
    several = label in lists
    entry = _listed_classes(stated[label]) if several else stated.get(label)
    names = _names(entry, label, root) if several or label in classes else ()
    unread = tuple(name for name in kinds if name not in (image, label))
    return Features(image, bool(structs), label, names, several, unread)


def _only(found: Sequence[str], what: str, root: Path, typed: Mapping[str, str]) -> str:
    """Return the only column of a kind. Raises: DataError with the columns and their types if there is not one."""
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(repr(name) for name in found)
        raise DataError(
            f"{root} must have one column of {what}, but has {listed}: remove the others by remove_columns() and save "
            "it again."
        )
    listed = ", ".join(typed.values()) or "no other"
    if what == "images":
        raise DataError(
            f"{root} must have a column of images, but has {listed}: cast one by cast_column(NAME, Image())."
        )
    raise DataError(
        f"{root} must have a column of class labels, or one of text or whole numbers called 'label', but has {listed}."
    )


def _preferred(classes: Sequence[str]) -> Sequence[str]:
    """Return the column that is called `label` alone, if there is one among several."""
    return ["label"] if "label" in classes else classes


def _is_picture(kind: Any) -> bool:
    """Return whether a type is a pair of bytes and path."""
    import pyarrow.types as types

    if not types.is_struct(kind):
        return False
    return {kind.field(number).name for number in range(kind.num_fields)} == {"bytes", "path"}


def _is_word(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind))


def _type(feature: Any) -> str | None:
    return feature.get("_type") if isinstance(feature, Mapping) else None


def _listed_classes(feature: Any) -> Mapping[str, Any] | None:
    """Return the class labels of a list of them, in the form of any version of `datasets`; None for another column."""
    if isinstance(feature, Sequence) and not isinstance(feature, str):
        inner = feature[0] if len(feature) == 1 else None
    else:
        inner = feature.get("feature") if _type(feature) in ("Sequence", "List", "LargeList") else None
    return inner if _type(inner) == "ClassLabel" else None


def _names(entry: Any, label: str, root: Path) -> tuple[str, ...]:
    """Return the names of class labels in NFC. Raises: DataError for names that are none, or equal."""
    names = entry.get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"The class names of '{label}' in {root} must be a list of text, but are {names}.")
    found = tuple(map(composed, names))
    for number, name in enumerate(found):
        if not name or not is_writable(name) or name in found[:number]:
            raise DataError(f"The class names of '{label}' in {root} must differ and be text, but one is {name!r}.")
    return found
