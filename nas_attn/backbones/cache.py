"""Records in the user's cache folder, each checked by its digest when read; no torch."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from nas_attn.files import cache_path, write_whole

log = logging.getLogger(__name__)


def kept_file(kind: str, *parts: str) -> Path | None:
    """Return where the record of this kind is kept that these words decide; None on a machine without a home folder."""
    digest = hashlib.sha256("\n".join([*parts, _code()]).encode()).hexdigest()
    return cache_path(kind, f"{digest[:32]}.json")


def read_kept(path: Path) -> Any:
    """Return the kept record, or None where there is none or the file is damaged."""
    try:
        kept = json.loads(path.read_bytes())
        if kept["digest"] != _digest(kept["record"]):
            raise ValueError("its digest does not fit")
        return kept["record"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.debug("%s is made again: %s", path, error)
        return None


def keep(path: Path, record: Any) -> None:
    """Keep a record of plain JSON; a folder that cannot be written only costs time at the next start."""
    text = json.dumps({"digest": _digest(record), "record": record})
    try:
        write_whole(path, lambda file: file.write(text.encode()))
    except OSError as error:
        log.debug("%s is not kept: %s", path, error)


def _code() -> str:
    """Digest of the files below this folder, which decide what a record holds: an edit makes every kept one stale."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _digest(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
