"""TIFF files that Pillow does not read, or reads wrong: double and half precision, floating colours, planes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.data.appearance import Deep, Picture, deep_picture
from nas_attn.data.deep import NotUnderstood
from nas_attn.data.entry import Reading
from nas_attn.data.unreadable import Unreadable, over_limit

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BIG = (b"II+\0", b"MM\0+")
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _ORIENTATION = 256, 257, 258, 259, 262, 273, 274
_SAMPLES, _COUNTS, _PLANES, _PREDICTOR, _FORMAT, _SUBFILE = 277, 279, 284, 317, 339, 254
_KINDS = {1: "u", 2: "i", 3: "f"}
_WORDS = {1: "unsigned", 2: "signed", 3: "floating", 5: "complex", 6: "complex"}
_UNCOMPRESSED, _DEFLATE = 1, (8, 32946)
_REDUCED_OR_MASK = 0b101

Tags = Mapping[int, Any]


def is_tiff(head: bytes) -> bool:
    """Return whether a file begins like a TIFF."""
    return head[:4] in _MAGIC


def has_deep_planes(tags: Tags) -> bool:
    """Return whether the channels lie one after the other with more than 8 bits each, which Pillow reads wrong."""
    return bool(_first(tags, _PLANES, 1) == 2 and _first(tags, _BITS, 1) > 8 and _first(tags, _SAMPLES, 1) > 1)


def read_tiff(source: Path | IO[bytes], reading: Reading) -> tuple[list[Picture], int]:
    """Return the pictures of a TIFF of plain values, without compression or by deflate, and its number of pages.

    Raises: NotUnderstood for other kinds; Unreadable for a file over the limit of pixels, or without a page.
    """
    content = source.read_bytes() if isinstance(source, Path) else source.read()
    every = list(_pages(content))
    if not every:
        raise Unreadable("truncated: it has no page")
    pages = [tags for tags in every if not tags.get(_SUBFILE, 0) & _REDUCED_OR_MASK] or every[:1]
    wanted = pages if reading.frames == "all" else pages[:1]
    return [_picture(content, tags, reading) for tags in wanted], len(pages)


def _pages(content: bytes) -> Iterator[Tags]:
    """Yield the tags of each page, of reduced copies and masks too."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file = BytesIO(content)
    head = content[:16] if content[:4] in _BIG else content[:8]
    directory: Any = ImageFileDirectory_v2(head)
    place = directory.next
    seen: set[int] = set()
    while place and place not in seen:
        seen.add(place)
        directory = ImageFileDirectory_v2(head)
        file.seek(place)
        directory.load(file)
        yield dict(directory)
        place = directory.next


def _picture(content: bytes, tags: Tags, reading: Reading) -> Picture:
    """Return one page as a picture."""
    size = tags[_WIDTH] * tags[_HEIGHT]
    if size > reading.max_pixels:
        raise Unreadable(over_limit(size, reading.max_pixels))
    values = _values(content, tags)
    whole = values.dtype.kind != "f"
    inverted = tags.get(_PHOTOMETRIC) == 0
    deep = deep_picture(values, whole=whole, what=_in_words(tags), inverted=inverted).content
    assert isinstance(deep, Deep), "its values are not scaled yet"
    orientation = tags.get(_ORIENTATION, 1)
    return Picture(deep.turned(orientation), turned=orientation in range(2, 9))


def _values(content: bytes, tags: Tags) -> NDArray[Any]:
    """Return the values of a page. Shape: (H, W, C)."""
    n, height, width = _first(tags, _SAMPLES, 1), tags[_HEIGHT], tags[_WIDTH]
    bits, kind, packing = _first(tags, _BITS, 1), _first(tags, _FORMAT, 1), tags.get(_COMPRESSION, _UNCOMPRESSED)
    is_plain = len({*_several(tags, _BITS, 1)}) == 1 and tags.get(_PREDICTOR, 1) == 1 and _OFFSETS in tags
    if (
        not is_plain
        or n not in (1, 3)
        or bits not in (8, 16, 32, 64)
        or kind not in _KINDS
        or packing not in (_UNCOMPRESSED, *_DEFLATE)
    ):
        raise NotUnderstood(f"is {_in_words(tags)}, which neither Pillow nor this package reads")
    order = "<" if content[:2] == b"II" else ">"
    strips = (
        content[start : start + count]
        for start, count in zip(_several(tags, _OFFSETS, 0), _several(tags, _COUNTS, 0), strict=True)
    )
    plain = b"".join(zlib.decompress(strip) if packing in _DEFLATE else strip for strip in strips)
    values = np.frombuffer(plain, f"{order}{_KINDS[kind]}{bits // 8}", count=n * height * width)
    if _first(tags, _PLANES, 1) == 2:
        return values.reshape(n, height, width).transpose(1, 2, 0)
    return values.reshape(height, width, n)


def _in_words(tags: Tags) -> str:
    """Return what kind of values a page has."""
    kind = _WORDS.get(_first(tags, _FORMAT, 1), "unknown")
    return (
        f"a TIFF of {kind} values with {'+'.join(map(str, _several(tags, _BITS, 1)))} bits a pixel (compression "
        f"{tags.get(_COMPRESSION, 1)}, predictor {tags.get(_PREDICTOR, 1)})"
    )


def _several(tags: Tags, number: int, default: int) -> tuple[int, ...]:
    found = tags.get(number, default)
    return found if isinstance(found, tuple) else (found,)


def _first(tags: Tags, number: int, default: int) -> int:
    return int(_several(tags, number, default)[0])
