"""A file of decoded images: their rows one after the other, a checksum of each, and small arrays about all of them.

The rows come first, so that they can be written while images are decoded; the rest is a zip archive behind them.
"""

from __future__ import annotations

import mmap
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.config import n_cores
from nas_attn.data.arrays import ChosenPixels, rows_per_block
from nas_attn.data.mapped import Announcing, AnyPixels, MappedPixels, blocks, fits_in_memory, map_file

_SHAPE, _ROWS, _CHECKS = "shape", "rows", "checks"


def check_of(row: NDArray[np.uint8]) -> int:
    """Return the checksum of an image, which is contiguous."""
    return zlib.crc32(row.data)


def write_rows(file: IO[bytes], facts: Mapping[str, NDArray[Any]], pixels: AnyPixels) -> None:
    """Write small arrays and images, which are copied block by block.

    Raises: OSError if they cannot be written.
    """
    checks: list[int] = []
    for block in blocks(pixels):
        file.write(block.data)
        checks += map(check_of, block)
    write_facts(file, facts, pixels.shape, np.arange(len(pixels)), np.array(checks, np.uint32))


def write_facts(
    file: IO[bytes],
    facts: Mapping[str, NDArray[Any]],
    shape: tuple[int, ...],
    rows: NDArray[np.int64],
    checks: NDArray[np.uint32],
) -> None:
    """Write what follows the rows, at the position of the file.

    Args:
        shape: Of all rows, (M, H, W, C).
        rows: Those that are images, (N,).
        checks: The checksum of each row, (M,).
    Raises: OSError if it cannot be written.
    """
    arrays = {**facts, _SHAPE: np.array(shape), _ROWS: rows, _CHECKS: checks}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_facts(file: IO[bytes]) -> dict[str, NDArray[Any]]:
    """Return the small arrays of a file, those of its rows too. Raises: what numpy and zipfile raise if damaged."""
    found = {}
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                found[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
    return found


def read_rows(file: IO[bytes], facts: Mapping[str, NDArray[Any]]) -> AnyPixels:
    """Return the images of a file after a check of each: they are mapped, and those that are few are one array.

    The mapping is private: nothing that is written to the array reaches the file.

    Args:
        facts: As `read_facts` returned them.
    Raises: ValueError or what numpy raises for a file that is damaged.
    """
    shape, rows = tuple(facts[_SHAPE].tolist()), facts[_ROWS]
    if not prod(shape):
        return np.empty(shape, np.uint8)
    mapping = map_file(file)
    base = np.frombuffer(mapping, np.uint8, count=prod(shape)).reshape(shape)
    _refuse_altered(base, rows, facts[_CHECKS])
    return mapped_rows(base, mapping, rows)


def mapped_rows(base: NDArray[np.uint8], mapping: mmap.mmap, rows: NDArray[np.int64]) -> AnyPixels:
    """Return some rows of an array that lies at the beginning of a mapping.

    Those of a large one are read when they are asked for. Shape: base (M, H, W, C); rows (N,).
    """
    if fits_in_memory(base.nbytes):
        return base if len(rows) == len(base) else ChosenPixels(base, rows)
    announce = None
    if hasattr(mmap, "MADV_WILLNEED"):
        mapping.madvise(mmap.MADV_RANDOM)
        announce = Announcing(mapping, 0, prod(base.shape[1:]))
    return MappedPixels(base, rows, announce=announce)


def _refuse_altered(base: NDArray[np.uint8], rows: NDArray[np.int64], checks: NDArray[np.uint32]) -> None:
    """Compare all rows with their checksums. Raises: ValueError if one differs, or has none."""
    step = rows_per_block(base.shape)

    def is_whole(start: int) -> bool:
        return all(check_of(base[row]) == checks[row] for row in rows[start : start + step])

    with ThreadPoolExecutor(n_cores()) as pool:
        if len(checks) != len(base) or not all(pool.map(is_whole, range(0, len(rows), step))):
            raise ValueError("a row differs from its checksum")
