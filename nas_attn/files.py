"""Atomic writes of files, digests of their content, and the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

MOST_PIXELS = 178_956_970
"""Largest number of pixels of an image file by default: Pillow's limit before it refuses one."""

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parent
_PART = ".part"


def write_whole(path: Path, write: Callable[[IO[bytes]], object], *, durable: bool = False) -> None:
    """Let `write` fill a temporary file in the same folder, then rename it to `path` in one step.

    A reader sees the old file or the new one and never a part of it. If several processes write the same path, the last
    one wins. A missing folder is created.

    Args:
        durable: Whether to flush content and name to the disk, so that both survive a loss of power.
    Raises: OSError that names the path if it cannot be written; the old file is unchanged and no temporary file
    remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = new_part(path)
    try:
        with part.open("xb") as file:
            write(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and str(error.filename or part) == str(part):
            error.filename = str(path)  # a write that fails names no file
        raise
    if durable:
        flush_folder(path.parent)


def link_whole(source: Path, path: Path) -> None:
    """Give a file a second name in one step, or a copy where the disk has no hard links; a missing folder is created.

    Raises: OSError if it cannot be written; the old file is unchanged and no temporary file remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = new_part(path)
    try:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)  # a rename to another name of the same file leaves both
    flush_folder(path.parent)


def flush_folder(path: Path) -> None:
    """Flush the names in a folder to the disk, where the system can do that."""
    with suppress(OSError):  # Windows opens no folder, and some network disks flush none
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def new_part(path: Path) -> Path:
    """Return a name that no file has, beside `path`, for a file that is to be renamed to it."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{_PART}")


def is_part(path: Path) -> bool:
    """Return whether this is a temporary file of `write_whole`; one that stays is of a process that was killed."""
    return path.name.startswith(".") and path.name.endswith(_PART)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with "\\n" line ends, as `write_whole` does; a lone surrogate becomes a question mark."""
    write_whole(path, lambda file: file.write(text.encode("utf-8", "replace")))


def with_digest(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with its digest, by which `is_proved` knows it again."""
    plain: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return {**plain, "digest": content_digest(plain)}


def is_proved(content: Mapping[str, Any]) -> bool:
    """Return whether a JSON object is as `with_digest` returned it; one of an older version has no digest, and is."""
    return "digest" not in content or content["digest"] == content_digest(content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an indented JSON object that survives a loss of power; values without a JSON form become text."""
    text = json.dumps(content, indent=2, default=str) + "\n"
    write_whole(path, lambda file: file.write(text.encode("utf-8")), durable=True)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON object without its key `digest`."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@lru_cache
def code_digest(folder: str) -> str:
    """Return the SHA-256 of the code in a folder of this package and in the modules beside the folders.

    The folders `backbones`, `attention` and `data` import only these modules, so the digest covers all code of this
    package that their results depend on. It is part of the key of every cached record.
    """
    digest = hashlib.sha256()
    for path in sorted([*_PACKAGE.glob("*.py"), *(_PACKAGE / folder).rglob("*.py")]):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def cache_path(*parts: str) -> Path | None:
    """Return a path in this package's folder of the user's cache; None on a machine without a home folder.

    The user's cache is `XDG_CACHE_HOME` if set, otherwise that of the platform.
    """
    named = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
    try:
        folder = Path(named) if named else Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    except RuntimeError:
        return None
    return folder.joinpath("nas_attn", *parts)


def cached_record_path(kind: str, *key: str, folder: str) -> Path | None:
    """Return the path of a cached JSON record; None on a machine without a home folder.

    Args:
        kind: Folder inside the cache folder.
        key: Everything that the record depends on besides the code.
        folder: Folder of this package whose code computes the record, as in `code_digest`.
    """
    digest = hashlib.sha256("\n".join([*key, code_digest(folder)]).encode()).hexdigest()
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
    """Cache a JSON record with its digest; if the folder is not writable, the record is only computed again."""
    text = json.dumps({"digest": _record_digest(record), "record": record})
    try:
        write_whole(path, lambda file: file.write(text.encode()))
    except OSError as error:
        log.debug("%s is not cached: %s", path, error)


def _record_digest(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
