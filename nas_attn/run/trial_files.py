"""Files of single trainings, each proved by its checksum before it is read."""

from __future__ import annotations

import json
import logging
import os
import re
import struct
import zipfile
from functools import cached_property
from pathlib import Path

from nas_attn.files import file_digest, flush_folder, write_whole

CHECKSUMS = "SHA256SUMS"
"""Name of the file with the checksums of a folder, as `sha256sum --check` reads it."""

_LINE = re.compile(r"^([0-9a-f]{64})  ([^/\\\n]+)$")

log = logging.getLogger(__name__)


class TrialFiles:
    """Files of single trainings, one per placement, seed and number of epochs.

    The SHA-256 of each file stands in `SHA256SUMS` beside it. A file that differs from it counts as missing, so that it
    is made again; one of an older version, without a checksum, is proved by its format.

    Args:
        suffix: That of the files' names, e.g. `.safetensors`.
    """

    def __init__(self, folder: Path, suffix: str) -> None:
        self._folder, self._suffix = folder, suffix
        self._proved: dict[Path, tuple[tuple[int, int, int], bool]] = {}

    def path(self, key: str, seed: int, epochs: int) -> Path:
        """Return the file of a training, whether it exists or not; `key` is that of its placement."""
        return self._folder / f"{key}-{seed}-{epochs}{self._suffix}"

    def has(self, key: str, seed: int, epochs: int) -> bool:
        """Return whether the file of a training is stored and as it was written."""
        return self._is_valid(self.path(key, seed, epochs))

    def is_lost(self, key: str, seed: int, epochs: int) -> bool:
        """Return whether the file of a training was stored once, and is missing, truncated or altered now."""
        path = self.path(key, seed, epochs)
        return (path.exists() or path.name in self._sums) and not self._is_valid(path)

    def write(self, key: str, seed: int, epochs: int, content: bytes) -> None:
        """Store the file of a training with its checksum; both survive a loss of power."""
        path = self.path(key, seed, epochs)
        write_whole(path, lambda file: file.write(content), durable=True)
        digest = file_digest(path)
        with (self._folder / CHECKSUMS).open("a", encoding="utf-8", newline="\n") as sums:
            sums.write(f"{digest}  {path.name}\n")
            sums.flush()
            os.fsync(sums.fileno())
        flush_folder(self._folder)
        self._sums[path.name] = digest
        self._proved.pop(path, None)

    def read(self, key: str, seed: int, epochs: int) -> bytes | None:
        """Return the content of the file of a training, or None if there is none, or it is truncated or altered."""
        path = self.path(key, seed, epochs)
        return path.read_bytes() if self._is_valid(path) else None

    @cached_property
    def _sums(self) -> dict[str, str]:
        """The checksums by the file's name; the last line of a name counts, and a line that was cut off does not."""
        try:
            text = (self._folder / CHECKSUMS).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return {}
        found = (_LINE.match(line) for line in text.splitlines())
        return {match[2]: match[1] for match in found if match}

    def _is_valid(self, path: Path) -> bool:
        """Return whether a file is as it was written; the answer is kept until the file changes."""
        try:
            status = path.stat()
        except OSError:
            return False
        state = (status.st_mtime_ns, status.st_size, status.st_ino)
        known = self._proved.get(path)
        if known is None or known[0] != state:
            known = state, self._prove(path)
            self._proved[path] = known
            if not known[1]:
                log.warning("%s is truncated or altered, so it is made again.", path)
        return known[1]

    def _prove(self, path: Path) -> bool:
        stated = self._sums.get(path.name)
        try:
            return _is_whole(path) if stated is None else file_digest(path) == stated
        except OSError:
            return False


def _is_whole(path: Path) -> bool:
    """Return whether a file without a checksum is complete by its own format."""
    if path.suffix == ".safetensors":
        return _is_whole_safetensors(path)
    try:
        with zipfile.ZipFile(path) as content:
            return content.testzip() is None
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError):
        return False


def _is_whole_safetensors(path: Path) -> bool:
    """Return whether a file is as long as its header says."""
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            return False
        (length,) = struct.unpack("<Q", start)
        if length > path.stat().st_size:
            return False
        try:
            header = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            return False
    return path.stat().st_size == 8 + int(length) + max(ends, default=0)
