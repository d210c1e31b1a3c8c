"""The user's cache folder: what takes time to make is kept there, each file whole or not at all."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO


def cache_path(*parts: str) -> Path | None:
    """Return a path in our part of the user's cache folder; None on a machine without a home folder.

    The user's cache folder is where the platform, or `XDG_CACHE_HOME`, wants it.
    """
    named = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
    try:
        folder = Path(named) if named else Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    except RuntimeError:
        return None
    return folder.joinpath("nas_attn", *parts)


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a file beside its place, then move it there in one step.

    A reader finds a whole file or none, also while several processes write the same one: the last one stays.
    Raises: OSError if that cannot be done; what stood there before stays then, and nothing else is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        try:
            write(file)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(file.name)
            raise
