"""How a command whose trainings run in its own process crashed in native code, for the next command on the same run."""

from __future__ import annotations

import faulthandler
import re
from contextlib import suppress
from pathlib import Path
from traceback import FrameSummary
from typing import IO

CRASH = "crash.txt"
"""Name of the file in a run folder into which Python writes its traceback when native code crashes."""

_FIRST = "Fatal Python error: "
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)


class CrashFile:
    """The traceback of a crash such as a segmentation fault, which no code of this process survives.

    Where Python's fault handler is on already, it is the user's own and is left alone.

    Args:
        folder: The run folder; one that cannot be written has no such file.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / CRASH
        self._file: IO[str] | None = None

    def open(self) -> str | None:
        """Await a crash; return how the last command crashed, as the part of a sentence, or None if it did not."""
        found = _crash_in(self._path)
        if not faulthandler.is_enabled():
            with suppress(OSError):
                self._file = self._path.open("w", encoding="utf-8")
                faulthandler.enable(self._file)
        return found

    def close(self) -> None:
        """Await no crash any more."""
        if self._file is not None:
            faulthandler.disable()
            with suppress(OSError):
                self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def _crash_in(path: Path) -> str | None:
    """Return the error in a file of Python's fault handler, with the last place in the user's own code."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    if not text.startswith(_FIRST):
        return None
    from nas_attn.training.ends import own_frame  # loads torch, which few starts need

    error = text.splitlines()[0].removeprefix(_FIRST)
    frames = [FrameSummary(file, int(line), name) for file, line, name in _FRAME.findall(text)]
    frame = own_frame(frames[::-1])
    return error if frame is None else f"{error} ({Path(frame.filename).name}:{frame.lineno})"
