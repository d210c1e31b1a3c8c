"""Where the ledger of a run lies: decided once, noted in `config.json`, and checked before anything is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_attn.errors import RunError
from nas_attn.files import content_digest

if TYPE_CHECKING:
    from nas_attn.study.store import Place

OF_RUN = "run"
"""Name of the note on the search's study with what it belongs to."""


def chosen_place(folder: Path, stated: str | None, begun: Mapping[str, Any] | None) -> Place:
    """Return where the ledger of a run lies, and check that it can be used; nothing is written.

    Args:
        stated: The setting `storage`; None for the SQLite file in the folder.
        begun: `config.json` of a run that exists.
    Raises: ConfigError or RunError, in one sentence.
    """
    from nas_attn.study.store import Place

    stored = (begun or {}).get("storage")
    if stated is None and not stored:
        return Place(folder)
    if stated is None:
        raise RunError(
            f"The run {folder} keeps its ledger in {stored['url'] if stored else ''}: repeat its --storage, or choose "
            "another --out."
        )
    if begun is not None and not stored:
        raise RunError(
            f"The run {folder} keeps its ledger in its own study.db: leave --storage out, or choose another --out."
        )
    from nas_attn.study.ledger import SEARCH
    from nas_attn.study.storage.postgresql import check, new_name, read_address, study_note

    address = read_address(stated)
    check(address)
    if not stored:
        return Place(folder, stated, new_name(folder.name))
    place = Place(folder, stated, str(stored["name"]))
    if begun is not None and _has_begun(folder):
        refuse_other_space(place, study_note(address, place.study(SEARCH), OF_RUN), begun)
    return place


def refuse_other_space(place: Place, note: Mapping[str, Any] | None, config: Mapping[str, Any]) -> None:
    """Refuse a ledger of another space. Raises: RunError.

    Args:
        note: The note `OF_RUN` of the ledger; one of an older version has none.
        config: `config.json`.
    """
    if note and note.get("space") != space_digest(config):
        raise RunError(
            f"The ledger in {place.in_words} must hold the trials of this run's space, but holds those of another one: "
            "results would be mixed. Restore the ledger, or choose another --out."
        )


def space_digest(config: Mapping[str, Any]) -> str:
    """Return the digest of the searched space."""
    return content_digest({"space": config.get("space")})


def place_of_run(folder: Path, config: Mapping[str, Any]) -> Place:
    """Return where the ledger of an existing run lies, to read it."""
    from nas_attn.study.store import stored_place

    return stored_place(folder, config, dict(os.environ))


def _has_begun(folder: Path) -> bool:
    """Return whether the folder has a file that a run writes after its ledger has begun."""
    return any((folder / name).exists() for name in ("best-so-far.json", "best.json", "retrained", "predictions"))
