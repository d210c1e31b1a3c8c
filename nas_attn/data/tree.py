"""The files below a folder: its images, the files that accompany them, and links, each real folder once."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nas_attn.errors import DataError


def _suffixes(words: str) -> frozenset[str]:
    return frozenset(words.split())


IMAGES = _suffixes(
    "apng avif bmp dcm dib dicom gif heic heif hif ico j2c j2k jfif jp2 jpe jpeg jpf jpg jpx jxl mpo pbm pcx pfm pgm "
    "png pnm ppm qoi sgi tga tif tiff webp"
)
"""Suffixes of files that are images; one that cannot be read counts as damaged."""

COMPANIONS = _suffixes(
    "7z aae arw avi bak bin bz2 cfg cr2 cr3 crdownload csv dat db dng doc docx gz h5 hdf5 htm html ini ipynb json "
    "jsonl lnk lock log m mat md mkv mov mp3 mp4 nef npy npz ods orf part pdf pickle pkl pt pth py raf rar raw rst rtf "
    "rw2 sha256 sh sqlite srt svg tar tgz thm tmp toml tsv txt url wav xls xlsx xml xmp xz yaml yml zip"
)
"""Suffixes of files that accompany images, or that are no single image; they are passed over without being opened."""

_SYSTEM = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found", "__pycache__",
     "system volume information"}
)  # fmt: skip
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"\x00\x00\x00\x0cjP  ")


@dataclass(frozen=True)
class Found:
    """A file that is an image by its name or by its first bytes.

    Args:
        size, mtime_ns: Length in bytes and time of the last change in nanoseconds; 0 for a link to nowhere.
    """

    path: Path
    size: int
    mtime_ns: int


@dataclass
class Folder:
    """One real folder, with what lies in it in the order of the names.

    Args:
        name: As it is written on the disk.
        n_other: Number of its own files that are no images.
    """

    path: Path
    name: str
    images: list[Found] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)
    n_other: int = 0

    def all_images(self) -> Iterator[Found]:
        """Yield the images of this folder, then those of the folders inside."""
        yield from self.images
        for folder in self.folders:
            yield from folder.all_images()

    @property
    def n_images(self) -> int:
        """Number of images at any depth."""
        return len(self.images) + sum(folder.n_images for folder in self.folders)

    @property
    def is_empty(self) -> bool:
        """Whether there is no file at any depth."""
        return not self.images and not self.n_other and all(folder.is_empty for folder in self.folders)

    @property
    def with_images(self) -> list[Folder]:
        """The folders inside that hold images at any depth."""
        return [folder for folder in self.folders if folder.n_images]


@dataclass
class Tree:
    """Everything below a folder.

    Args:
        passed_over: Number of files that are no images, by their kind: a suffix, a name, or "hidden".
        links: Links to folders that are read elsewhere or that contain the whole, relative to the folder.
    """

    root: Folder
    passed_over: Counter[str] = field(default_factory=Counter)
    links: list[str] = field(default_factory=list)


def scan(path: Path) -> Tree:
    """Return everything below a folder, without hidden files.

    Each real folder is visited once: under its own path, or, if it lies elsewhere, under the link that is nearest to
    the root.

    Raises: DataError if it is no folder, or if a folder cannot be read.
    """
    if path.is_file():
        raise DataError(
            f"An image folder must be a folder, but {shown(path)} is a file: unpack it, or write table:PATH if it is a "
            "table of files."
        )
    if not path.is_dir():
        raise DataError(f"An image folder must exist, but there is none at {shown(path.absolute())}: check the path.")
    tree = Tree(Folder(path, path.name))
    real = path.resolve()
    visited = {_identity(place) for place in (real, *real.parents)}
    links = _read(tree, tree.root, visited, 0)
    while links:
        depth, link, parent = min(links, key=lambda found: (found[0], found[1]))
        links.remove((depth, link, parent))
        identity = _identity(link)
        if identity in visited:
            tree.links.append(shown(os.path.relpath(link, path)))
            continue
        visited.add(identity)
        folder = Folder(link, link.name)
        parent.folders.append(folder)
        parent.folders.sort(key=lambda found: found.name)
        links.extend(_read(tree, folder, visited, depth))
    return tree


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), in which equal names are equal.

    >>> composed("cafe\\u0301") == "caf\\u00e9"
    True
    """
    return unicodedata.normalize("NFC", name)


def shown(name: str | Path) -> str:
    """Return a path or name for a message: bytes that are no UTF-8 are replaced, and control characters too."""
    text = os.fsencode(name).decode(errors="replace")
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(one) == "Cc" else one for one in text)


def is_writable(name: str) -> bool:
    """Return whether a name can be written to a text file and shown: it is UTF-8 without control characters."""
    return not any(unicodedata.category(one) in ("Cs", "Cc") for one in name)


def _read(tree: Tree, folder: Folder, visited: set[tuple[int, int]], depth: int) -> list[tuple[int, Path, Folder]]:
    """Fill a folder and the real folders inside; return the links to folders, with the depth and place of each."""
    try:
        entries = sorted(os.scandir(folder.path), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"The folder {shown(folder.path)} cannot be read: {error.strerror}.") from None
    links: list[tuple[int, Path, Folder]] = []
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in _SYSTEM:
            tree.passed_over["hidden"] += 1
        elif _is_folder(entry):
            place = folder.path / entry.name
            if entry.is_symlink():
                links.append((depth + 1, place, folder))
            elif _identity(place) not in visited:
                visited.add(_identity(place))
                folder.folders.append(Folder(place, entry.name))
        else:
            _take(tree, folder, entry)
    for inner in folder.folders:
        links += _read(tree, inner, visited, depth + 1)
    return links


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _take(tree: Tree, folder: Folder, entry: os.DirEntry[str]) -> None:
    """Add a file to its folder if it is an image, otherwise count it."""
    path = folder.path / entry.name
    try:
        status = entry.stat()
    except OSError:  # a link to nowhere, which is named when it cannot be opened
        status = None
    if status is not None and not stat.S_ISREG(status.st_mode):
        kind: str | None = "special"
    else:
        kind = _kind(path)
    if kind is None:
        folder.images.append(Found(path, status.st_size if status else 0, status.st_mtime_ns if status else 0))
    else:
        folder.n_other += 1
        tree.passed_over[kind] += 1


def _kind(path: Path) -> str | None:
    """Return the kind of a file that is no image, by its name, or by its first bytes if the name says nothing."""
    suffix = path.suffix[1:].lower()
    if suffix in IMAGES:
        return None
    if suffix not in COMPANIONS and not path.name.endswith("~") and _starts_like_an_image(path):
        return None
    return f".{shown(suffix)}" if suffix else "without suffix"


def _starts_like_an_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return False
    return (
        start.startswith(_STARTS)
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"avif"))
        or start[128:132] == b"DICM"
    )


def _identity(path: Path) -> tuple[int, int]:
    """Return what two paths of the same real folder have in common."""
    status = path.stat()
    return status.st_dev, status.st_ino
