"""What the folders of an image folder mean: its parts, its classes, or what has to be asked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nas_attn.data.arrays import PARTS
from nas_attn.data.parts import is_exact, is_unclear, part_of
from nas_attn.data.tree import Folder, Tree, composed, is_writable, shown
from nas_attn.errors import DataError, unknown

_MASK = re.compile(r"(.+)[ _-](?:masks?|seg|segmentation|annotation|gt)(?:[ _-]?\d+)?", re.IGNORECASE)
_MISSING = frozenset({"nan", "none", "null", "na", "n/a", "<na>", "nat", "?", "-"})
"""What programs write for a label that is missing, in lower case."""
_MOST = 5
"""Greatest number of names in a sentence."""


@dataclass(frozen=True)
class Layout:
    """The class folders of each part.

    Args:
        class_names: Sorted, in NFC.
        classes: Part -> class number -> the folders of the class: several if their names are equal in NFC.
        notes: Sentences that the user should read.
    """

    class_names: tuple[str, ...]
    classes: dict[str, dict[int, list[Folder]]]
    notes: tuple[str, ...]


def find_layout(tree: Tree, place: Folder) -> Layout:
    """Return the layout of a folder that `entered` returned.

    Raises: DataError, in one sentence that says what to change, for folders that may mean several things.
    """
    if tree.passed_over and not place.n_images:
        raise DataError(
            f"An image folder must have images, but {shown(place.path)} has none among its files: {_kinds(tree)}. "
            "Convert them, or write a data source of your own."
        )
    parts, notes = _parts(place)
    inside = {"train": _within(parts["train"], (), notes)}
    class_names = _class_names(inside["train"])
    inside |= {part: _within(parts[part], class_names, notes) for part in PARTS if part in parts and part != "train"}
    classes = {part: _classes(part, folder, class_names, notes) for part, folder in inside.items()}
    for folders in classes.values():
        _refuse_parts_among(each for several in folders.values() for each in several)
        _refuse_masks(each for several in folders.values() for each in several)
    _refuse_shared_insides([each for folders in classes.values() for each in folders.values()])
    notes += _class_notes(class_names, classes)
    return Layout(class_names, classes, (*notes, *tree_notes(tree)))


def entered(folder: Folder, tables: Sequence[str]) -> tuple[Folder, list[str]]:
    """Return the folder that holds the data, and a note if it is not the named one but the only one inside.

    Args:
        tables: Names of tables of labels: a folder with one of them is not left.
    """
    place = folder
    while not _has_table(place, tables) and (only := _only_inside(place, tables)):
        is_part = part_of(only.name) and not any(part_of(each.name) for each in only.with_images)
        if is_part and not _has_table(only, tables):
            break
        place = only
    if place is folder:
        return place, []
    return place, [f"{shown(folder.path)} holds only {shown(place.path.relative_to(folder.path))}, which is read."]


def tree_notes(tree: Tree) -> list[str]:
    """Return notes on the files that were passed over and the links that were not followed."""
    notes = []
    n_passed = sum(tree.passed_over.values())
    if n_passed:
        files = "file that is no image was" if n_passed == 1 else "files that are no images were"
        notes.append(f"{n_passed:,} {files} passed over: {_kinds(tree)}.")
    if tree.links:
        notes.append(f"Links to folders that are read elsewhere are not followed: {_some(tree.links)}.")
    return notes


def _kinds(tree: Tree) -> str:
    """Return the kinds of the files that were passed over, with their numbers, the most frequent first."""
    most = tree.passed_over.most_common()
    kinds = [f"{number:,} {kind}" for kind, number in most[:_MOST]]
    kinds += [f"{sum(number for _, number in most[_MOST:]):,} others"] if len(most) > _MOST else []
    return ", ".join(kinds)


def _has_table(folder: Folder, tables: Sequence[str]) -> bool:
    return any((folder.path / table).is_file() for table in tables)


def _only_inside(folder: Folder, tables: Sequence[str] = ()) -> Folder | None:
    """Return the only folder inside, if the data can only lie there: it holds folders with images, or a table."""
    inside = folder.with_images
    if len(inside) != 1 or folder.images or any(each.is_empty for each in folder.folders):
        return None
    (only,) = inside
    return only if _has_table(only, tables) or (only.with_images and not only.images) else None


def _parts(place: Folder) -> tuple[dict[str, Folder], list[str]]:
    """Return the folder of each part, and notes: those that are named so, or the place itself as train.

    Raises: DataError if folders may be parts or classes, or if two are one part.
    """
    named = [each for each in place.folders if part_of(each.name)]
    parts = [each for each in named if each.with_images or (is_exact(each.name) and not each.images)]
    found = _one_each(place, parts)
    unlabelled = [
        each
        for each in named
        if each not in parts and (is_exact(each.name) or ("train" in found and part_of(each.name) not in found))
    ]
    if not parts and not unlabelled:
        return {"train": place}, []
    others = [each for each in place.with_images if each not in parts and each not in unlabelled]
    if unlabelled and parts:
        raise DataError(
            f"Every image must lie in a class folder, but the {unlabelled[0].n_images:,} images of "
            f"{shown(unlabelled[0].path)} lie beside none: sort them into class folders, or move the folder away."
        )
    if unlabelled or ("train" not in found and others):
        _ask(place, unlabelled or parts, others)
    if "train" not in found:
        names = ", ".join(repr(each.name) for each in parts)
        raise DataError(f"{shown(place.path)} must have a 'train' folder beside {names}, but has none: add it.")
    if others and len(found) == 1:
        _ask(place, parts, others)
    return found, _unread_notes(place, found, others)


def _one_each(place: Folder, parts: Sequence[Folder]) -> dict[str, Folder]:
    """Return the folder of each part. Raises: DataError if two folders are one part."""
    found: dict[str, Folder] = {}
    for each in parts:
        part = part_of(each.name)
        assert part is not None, "only folders with the name of a part are passed"
        if part in found:
            raise DataError(
                f"{shown(place.path)} must have one {part} folder, but has '{shown(found[part].name)}' and "
                f"'{shown(each.name)}': join them, or move one away."
            )
        found[part] = each
    return {part: found[part] for part in PARTS if part in found}


def _ask(place: Folder, parts: Sequence[Folder], others: Sequence[Folder]) -> None:
    """Raise the question whether folders named like parts are parts or classes."""
    named = _some([repr(shown(each.name)) for each in parts])
    if not others:
        raise DataError(
            f"{shown(place.path)} must have class folders inside of {named}, but the images lie there without any: "
            "sort them into class folders, or state each image's class in a labels.csv."
        )
    beside = _some([repr(shown(each.name)) for each in others])
    are, they, them = ("Are", "they are", "them") if len(parts) > 1 else ("Is", "it is", "it")
    part, a_class = ("parts", "classes") if len(parts) > 1 else ("a part", "a class")
    raise DataError(
        f"{are} {named} in {shown(place.path)} {part} of the data or {a_class}, beside {beside}? Move the other "
        f"folders away if {they} {part}, or rename {them} if {they} {a_class}."
    )


def _unread_notes(place: Folder, found: dict[str, Folder], others: Sequence[Folder]) -> list[str]:
    """Return a note on the folders beside the parts. Raises: DataError for one that may be val or test."""
    for each in others:
        if is_unclear(each.name):
            raise DataError(f"Is '{shown(each.name)}' in {shown(place.path)} val or test? Rename it to one of them.")
    beside = [each for each in place.folders if each not in found.values()]
    if not beside:
        return []
    counted = [shown(each.name) + (f" ({each.n_images:,} images)" if each.n_images else "") for each in beside]
    return [f"Folders of {shown(place.path)} beside 'train' that are not read: {_some(counted)}."]


def _within(part: Folder, class_names: Sequence[str], notes: list[str]) -> Folder:
    """Return the folder that holds the class folders of a part: itself, or the only one inside if that holds them."""
    place = part
    while (only := _only_inside(place)) and composed(only.name) not in class_names:
        place = only
    if place is not part:
        notes.append(f"{shown(part.path)} holds only {shown(place.path.relative_to(part.path))}, which is read.")
    return place


def _class_names(train: Folder) -> tuple[str, ...]:
    """Return the names of the class folders. Raises: DataError if they are fewer than two, empty, or unwritable."""
    folders = [each for each in train.folders if each.n_images or each.is_empty]
    for each in folders:
        _refuse_unwritable(each)
    names = tuple(sorted({composed(each.name) for each in folders}))
    if len(names) < 2:
        stray = f" beside {len(train.images):,} images" if train.images else ""
        raise DataError(
            f"{shown(train.path)} must have one folder per class, two classes or more, but it has "
            f"{f'only {names[0]!r}' if names else 'no folder'}{stray}: make them, or state each image's class in a "
            "labels.csv."
        )
    if train.n_images:
        empty = [each for each in folders if each.is_empty]
        full = {composed(each.name) for each in folders if each.n_images}
        for each in empty:
            if composed(each.name) not in full:
                raise DataError(
                    f"Every class must have images, but {shown(each.path)} is empty: add images, or remove the folder."
                )
    return names


def _refuse_unwritable(folder: Folder) -> None:
    if not is_writable(folder.name):
        raise DataError(
            f"The name of a class must be UTF-8 without control characters, but {shown(folder.path)} is not: rename "
            "the folder."
        )


def _classes(part: str, place: Folder, class_names: Sequence[str], notes: list[str]) -> dict[int, list[Folder]]:
    """Return the folders of each class of a part, and add notes on what is unusual.

    Raises: DataError for a class that train does not have, and for a part without images.
    """
    found: dict[int, list[Folder]] = {}
    for each in place.with_images:
        _refuse_unwritable(each)
        name = composed(each.name)
        if name not in class_names:
            raise DataError(unknown("class", shown(name), class_names, shown(place.path)))
        found.setdefault(class_names.index(name), []).append(each)
    if not found:
        raise DataError(
            f"An image folder must have images, but {shown(place.path)} has no image in any class folder: add images, "
            "or remove the folder."
        )
    joined = [class_names[number] for number, folders in found.items() if len(folders) > 1]
    if joined:
        notes.append(f"Folders of {part} whose names are equal in Unicode's form NFC are one class: {_some(joined)}.")
    if place.images:
        notes.append(f"Images in {shown(place.path)} outside of its class folders are not read: {len(place.images):,}.")
    bare = [shown(each.name) for each in place.folders if not each.n_images and not each.is_empty]
    if bare:
        notes.append(f"Folders of {shown(place.path)} without images are no classes: {_some(bare)}.")
    return found


def _refuse_parts_among(folders: Iterable[Folder]) -> None:
    """Refuse class folders that are called like parts and hold folders of images: parts may lie in the wrong place."""
    for each in folders:
        if is_exact(each.name) and each.with_images:
            raise DataError(
                f"Is {shown(each.path)} a part of the data or a class? Move it beside the other parts if it is a part, "
                "or rename it if it is a class."
            )


def _refuse_masks(folders: Iterable[Folder]) -> None:
    """Refuse images that are called like masks of others beside them, such as `1_mask.png` beside `1.png`."""
    for each in folders:
        stems = {found.path.stem for found in each.images}
        for found in each.images:
            mask = _MASK.fullmatch(found.path.stem)
            if mask and mask[1] in stems:
                raise DataError(
                    f"Is {shown(found.path)} an image of its class, or a mask of '{shown(mask[1])}'? Move masks away, "
                    "or name the images in a labels.csv."
                )


def _refuse_shared_insides(classes: Sequence[Sequence[Folder]]) -> None:
    """Refuse class folders of which half or more, at least two, hold folders of the same name with images."""
    held: Counter[str] = Counter()
    for folders in classes:
        held.update({composed(inner.name).lower() for each in folders for inner in each.with_images})
    shared = sorted(name for name, number in held.items() if number >= max(2, len(classes) / 2))
    if not shared:
        return
    outer = [each for folders in classes for each in folders]
    first = next(each for each in outer if any(composed(i.name).lower() in shared for i in each.with_images))
    named = _some([repr(shown(name)) for name in shared])
    if all(part_of(name) for name in shared):
        raise DataError(
            f"Parts must lie outside of the classes, but {shown(first.path)} holds {named}, like other classes: make "
            "it PART/CLASS, or state class and split of each image in a labels.csv."
        )
    raise DataError(
        f"Are the classes the outer folders or the inner ones? {shown(first.path)} holds {named}, like other folders "
        "beside it: keep one level of class folders, or state the class of each image in a labels.csv."
    )


def _class_notes(class_names: Sequence[str], classes: dict[str, dict[int, list[Folder]]]) -> list[str]:
    """Return a note on folders inside of class folders, and one on classes whose names differ in case only."""
    inner = [
        f"{shown(each.name)}/{shown(deeper.name)}"
        for folders in classes["train"].values()
        for each in folders
        for deeper in each.with_images
    ]
    notes = []
    if inner:
        notes.append(f"The outer folders are the classes; folders inside are read as part of them: {_some(inner)}.")
    return notes + alike_notes(class_names)


def alike_notes(class_names: Sequence[str]) -> list[str]:
    """Return a note on classes whose names differ in case or blanks only."""
    alike = Counter("".join(name.lower().split()) for name in class_names)
    pairs = [repr(name) for name in class_names if alike["".join(name.lower().split())] > 1]
    return [f"Classes that differ in case or blanks only: {_some(pairs)}."] if pairs else []


def missing_notes(class_names: Sequence[str]) -> list[str]:
    """Return a note on classes of a table that are called like labels that are missing."""
    found = [repr(name) for name in class_names if name.lower() in _MISSING]
    return [f"Classes that may be missing labels, but are read as classes: {_some(found)}."] if found else []


def _some(names: Iterable[str]) -> str:
    """Return the first names of many, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _MOST} more" if len(listed) > _MOST else ""
    return ", ".join(listed[:_MOST]) + more
