"""Files that are written whole or not at all, digests of their content, and the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parent


def write_whole(path: Path, write: Callable[[IO[bytes]], object], *, durable: bool = False) -> None:
    """Let `write` fill a temporary file in the same folder, then rename it to `path` in one step.

    A reader sees the old file or the new one and never a part, also while several processes write the same path: the
    last one stays. The folder is created if it is missing.

    Args:
        durable: Whether the content is flushed to the disk before the rename, so that it survives a loss of power.
    Raises: OSError if the file cannot be written; the old file is then untouched and no temporary file remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            write(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with "\\n" line ends, as `write_whole` does."""
    write_whole(path, lambda file: file.write(text.encode("utf-8")))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an indented JSON object that survives a loss of power; values that JSON does not know become text."""
    text = json.dumps(content, indent=2, default=str) + "\n"
    write_whole(path, lambda file: file.write(text.encode("utf-8")), durable=True)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON object without its own key `digest`."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@lru_cache
def code_digest(room: str) -> str:
    """Return the SHA-256 of the code in a folder of this package and in the files of its ground floor.

    A folder on the lowest floor of folders (`backbones`, `attention`, `data`) imports from the ground alone, so this
    covers all code of ours that its results depend on. It is part of the key of everything that is cached.
    """
    digest = hashlib.sha256()
    for path in sorted([*_PACKAGE.glob("*.py"), *(_PACKAGE / room).rglob("*.py")]):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def cache_path(*parts: str) -> Path | None:
    """Return a path in this package's part of the user's cache folder; None on a machine without a home folder.

    The user's cache folder is `XDG_CACHE_HOME`, or else the platform's.
    """
    named = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
    try:
        folder = Path(named) if named else Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    except RuntimeError:
        return None
    return folder.joinpath("nas_attn", *parts)


def cached_record_path(kind: str, *key: str, room: str) -> Path | None:
    """Return the file of a cached JSON record; None on a machine without a home folder.

    Args:
        kind: The folder inside the cache folder.
        key: Everything that the record depends on besides the code.
        room: The folder of this package whose code makes the record, as in `code_digest`.
    """
    digest = hashlib.sha256("\n".join([*key, code_digest(room)]).encode()).hexdigest()
    return cache_path(kind, f"{digest[:32]}.json")


def read_cached_record(path: Path) -> Any:
    """Return a cached JSON record, or None if there is none or its digest does not match."""
    try:
        stored = json.loads(path.read_bytes())
        if stored["digest"] != _record_digest(stored["record"]):
            raise ValueError("its digest does not match")
        return stored["record"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.debug("%s is computed again: %s", path, error)
        return None


def cache_record(path: Path, record: Any) -> None:
    """Cache a JSON record with its digest; a folder that cannot be written costs only time at the next start."""
    text = json.dumps({"digest": _record_digest(record), "record": record})
    try:
        write_whole(path, lambda file: file.write(text.encode()))
    except OSError as error:
        log.debug("%s is not cached: %s", path, error)


def _record_digest(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
