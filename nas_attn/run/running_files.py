"""Files of running trials: their checkpoints, and the logs of what their trainings print."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from contextlib import suppress
from pathlib import Path

from nas_attn.files import write_whole
from nas_attn.records import Stage
from nas_attn.study.checkpoints import Identity

log = logging.getLogger(__name__)


class CheckpointFiles:
    """The checkpoints of running trials, one file each: a line of JSON with its checksum, then its content."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, identity: Identity, epoch: int, content: bytes) -> None:
        """Store a checkpoint in one step; it survives a loss of power. Raises: OSError if that fails."""
        header = {"epoch": epoch, "sha256": hashlib.sha256(content).hexdigest()}
        line = json.dumps(header).encode() + b"\n"
        write_whole(self._path(identity), lambda file: file.write(line + content), durable=True)

    def read(self, identity: Identity) -> tuple[int, bytes] | None:
        """Return epoch and content of a checkpoint, or None if there is none; a damaged one is deleted with a note."""
        path = self._path(identity)
        try:
            line, _, content = path.read_bytes().partition(b"\n")
            header = json.loads(line)
            if hashlib.sha256(content).hexdigest() != header["sha256"]:
                raise ValueError("its checksum does not match")
            return int(header["epoch"]), content
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("The checkpoint %s is damaged, so its training begins anew: %s", path, error)
            self.delete(identity)
            return None

    def delete(self, identity: Identity) -> None:
        """Delete a checkpoint, if there is one."""
        with suppress(OSError):
            self._path(identity).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all checkpoints and their folder."""
        with suppress(OSError):
            for path in self._folder.glob("*.checkpoint"):
                path.unlink()
            self._folder.rmdir()

    def _path(self, identity: Identity) -> Path:
        return self._folder / f"{'-'.join(map(str, identity))}.checkpoint"


class TrialLogFiles:
    """The logs of trials, one file each for trials that print something or end by an error.

    Args:
        is_shown: Whether the text is also printed.
    """

    def __init__(self, folder: Path, *, is_shown: bool = False) -> None:
        self._folder, self._is_shown = folder, is_shown
        self._shown: tuple[Stage, int] | None = None
        self._is_at_start = True
        self._has_warned = False

    def path(self, stage: Stage, number: int) -> Path:
        """Return the log of a trial, whether it exists or not."""
        return self._folder / f"{stage}-{number}.txt"

    def write(self, stage: Stage, number: int, text: str) -> None:
        """Add text to the log of a trial; a disk that refuses it never ends the search."""
        if self._is_shown:
            self._show(stage, number, text)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self.path(stage, number).open("a", encoding="utf-8", errors="backslashreplace", newline="") as file:
                file.write(text)
        except OSError as error:
            if not self._has_warned:
                log.warning("What a training printed could not be stored: %s", error)
            self._has_warned = True

    def _show(self, stage: Stage, number: int, text: str) -> None:
        """Print text under the name of its trial; an output that fails never ends the search."""
        gap = "" if self._is_at_start else "\n"
        title = "" if self._shown == (stage, number) else f"{gap}[{stage} {number}]\n"
        self._shown, self._is_at_start = (stage, number), text.endswith("\n")
        with suppress(OSError, ValueError, AttributeError):
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
            sys.stdout.write((title + text).encode(encoding, "backslashreplace").decode(encoding))
            sys.stdout.flush()
