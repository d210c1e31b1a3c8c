"""Small image files, made for the tests: noise, and PNG and TIFF of any numbers, which Pillow cannot write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 16


def shape(left: bool, seed: int = 0) -> np.ndarray:
    """A bright half, on the left or at the top, with some noise: values from 0.05 to 0.95, (16, 16)."""
    values = np.full((SIZE, SIZE), 0.1)
    values[(slice(None), slice(SIZE // 2)) if left else (slice(SIZE // 2), slice(None))] = 0.8
    return values + np.random.default_rng(seed + 100 * left).uniform(-0.05, 0.15, values.shape)


def fill(root: Path, write: Callable[[Path, np.ndarray, int], None], n: int = 6) -> Path:
    """Call `write` with a path without suffix, the values and the number of each image of two classes."""
    for name in ("left", "top"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(n):
            write(root / name / f"{number}", shape(name == "left", number), number)
    return root


def noise(path: Path, generator: np.random.Generator) -> None:
    """Write a coloured image of 8x8 pixels without a pattern, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel. Shape: (H, W, C) with 1 to 4 channels."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(values: np.ndarray, *, order: str = "<", photometric: int | None = None, separate: bool = False) -> bytes:
    """An uncompressed TIFF of any numbers. Shape: (H, W) or (H, W, 3)."""
    three = values[..., None] if values.ndim == 2 else values
    height, width, n = three.shape
    kind = {"u": 1, "i": 2, "f": 3, "c": 6}[values.dtype.kind]
    bits = 8 * values.dtype.itemsize
    data = (three.transpose(2, 0, 1) if separate else three).astype(values.dtype.newbyteorder(order)).tobytes()
    start = 8
    after = start + len(data)
    many = struct.pack(f"{order}{n}H", *[bits] * n), struct.pack(f"{order}{n}H", *[kind] * n)
    step = len(data) // n
    starts = struct.pack(f"{order}{n}I", *(start + step * plane for plane in range(n)))
    counts = struct.pack(f"{order}{n}I", *[step] * n)
    places = np.cumsum([after, len(many[0]), len(many[1]), len(starts)]).tolist()
    single = n == 1
    tags = [
        (256, 4, 1, width), (257, 4, 1, height),
        (258, 3, n, bits if single else places[0]),
        (259, 3, 1, 1), (262, 3, 1, (1 if single else 2) if photometric is None else photometric),
        (273, 4, n if separate else 1, places[2] if separate and n > 1 else start), (277, 3, 1, n), (278, 4, 1, height),
        (279, 4, n if separate else 1, places[3] if separate and n > 1 else len(data)),
        (284, 3, 1, 2 if separate else 1),
        (339, 3, n, kind if single else places[1]),
    ]  # fmt: skip
    extra = many[0] + many[1] + starts + counts
    directory = struct.pack(f"{order}H", len(tags))
    for number, width_of, count, value in tags:
        short = width_of == 3 and count == 1
        directory += struct.pack(
            f"{order}HHI" + ("HH" if short else "I"), number, width_of, count, *([value, 0] if short else [value])
        )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", after + len(extra))
    return head + data + extra + directory + struct.pack(f"{order}I", 0)
