"""What a training prints: kept apart from the process's own output, and cut in the middle beyond a length."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

HEAD, TAIL = 1_000_000, 100_000
"""Number of characters of a training's output that are kept from its beginning and from its end."""


class Output:
    """The text that one training prints.

    Args:
        at_once: Called after every piece of text; None leaves it to be taken.
    """

    def __init__(self, at_once: Callable[[], None] | None = None) -> None:
        self._lock = threading.RLock()
        self._new: list[str] = []
        self._n_head = self._n_more = 0
        self._tail = ""
        self._at_once = at_once
        self.is_paused = False

    def add(self, text: str) -> None:
        """Add printed text; beyond `HEAD` characters only the last `TAIL` are kept."""
        with self._lock:
            head, rest = text[: HEAD - self._n_head], text[HEAD - self._n_head :]
            if head:
                self._new.append(head)
                self._n_head += len(head)
            if rest:
                self._n_more += len(rest)
                self._tail = (self._tail + rest)[-TAIL:]
        if self._at_once is not None:
            self._at_once()

    def take(self) -> str:
        """Return the text since the last call, without the part beyond `HEAD`."""
        with self._lock:
            text, self._new = "".join(self._new), []
        return text

    def rest(self) -> str:
        """Return the text since the last call to its end; called once, when the training has ended."""
        n_lost = self._n_more - len(self._tail)
        gap = f"\n[{n_lost:,} characters are left out here]\n" if n_lost else ""
        return self.take() + gap + self._tail

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context manager: what is printed inside is not the training's."""
        self.is_paused = True
        try:
            yield
        finally:
            self.is_paused = False


@contextmanager
def captured(output: Output, *, thread: int | None) -> Iterator[None]:
    """Context manager: add to `output` what is printed, by Python code, to the standard output and error.

    Args:
        thread: Identifier of the only thread whose text is taken; None takes that of the whole process.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Routed(stream, output, thread) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Routed:
    """A stream whose text goes to the training's output, or to the stream that it stands for."""

    def __init__(self, stream: Any, output: Output, thread: int | None) -> None:
        self._stream, self._output, self._thread = stream, output, thread

    def write(self, text: str) -> int:
        """Write text."""
        if self._output.is_paused or self._thread not in (None, threading.get_ident()):
            written: int = self._stream.write(text)
            return written
        self._output.add(str(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    @property
    def buffer(self) -> _Bytes:
        """The same stream for bytes."""
        return _Bytes(self)

    def close(self) -> None:
        """Do nothing: the stream belongs to the process, which goes on after the training."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Bytes:
    """A routed stream for who writes bytes."""

    def __init__(self, stream: _Routed) -> None:
        self._stream = stream

    def write(self, content: Any) -> int:
        """Write bytes as UTF-8 text, with a replacement for what is none."""
        found = bytes(content)
        self._stream.write(found.decode("utf-8", "replace"))
        return len(found)

    def flush(self) -> None:
        """Write what is buffered."""
        self._stream.flush()
