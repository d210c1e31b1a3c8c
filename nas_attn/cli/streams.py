"""The standard streams of a command: none that is closed, full or of another encoding ends what the command does."""

from __future__ import annotations

import codecs
import errno
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_SPELT = {
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MINUS SIGN}": "-",
    "\N{PLUS-MINUS SIGN}": "+/-",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": '"',
    "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
    "\N{BULLET}": "*",
    "\N{MIDDLE DOT}": "*",
    "\N{LESS-THAN OR EQUAL TO}": "<=",
    "\N{GREATER-THAN OR EQUAL TO}": ">=",
    "\N{BOX DRAWINGS HEAVY HORIZONTAL}": "-",
}
"""What stands for a character that a terminal cannot write; of letters with marks it is the letter."""

PIPE_CLOSED = 128 + 13
"""Exit code of a listing whose reader has gone, such as `| head`: that of a program which the signal SIGPIPE ends."""


class OutputLost(Exception):
    """The standard output, which is the whole result of the command, cannot be written."""


class Stream:
    """A text stream that writes what it can: another character for one that its encoding lacks, and no error.

    Args:
        stream: The stream itself; what is not defined here is asked of it.
        is_result: Whether the output is all that the command makes; then `write` raises OutputLost where it is lost.
    """

    def __init__(self, stream: TextIO, *, is_result: bool) -> None:
        self._stream, self._is_result = stream, is_result
        self.failure: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # who writes bytes would pass by this stream
            raise AttributeError("a stream of text has no buffer")
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text; return its length."""
        try:
            self._stream.write(writable(text, self._stream))
        except (OSError, ValueError) as error:  # a closed file raises ValueError
            self._lose(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        self.failure = self.failure or error
        if self._is_result:
            raise OutputLost from error

    @property
    def reason(self) -> str:
        """Why the output was lost."""
        return getattr(self.failure, "strerror", None) or str(self.failure)

    @property
    def is_pipe_closed(self) -> bool:
        """Whether the reader of the output has gone."""
        return getattr(self.failure, "errno", None) == errno.EPIPE

    def end(self) -> None:
        """Write what is buffered; where that fails, the end of the process must not try it again."""
        self._is_result = False
        self.flush()
        if self.failure is not None:
            with suppress(OSError, ValueError, AttributeError):
                descriptor = os.open(os.devnull, os.O_WRONLY)
                os.dup2(descriptor, self._stream.fileno())
                os.close(descriptor)
                self._stream.flush()


def writable(text: str, stream: TextIO) -> str:
    """Return text as a stream can write it.

    >>> import io
    >>> writable("8\\u00d78 \\u2026 \\u00e9", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    '8x8 ... e'
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    with suppress(UnicodeError, LookupError):
        text.encode(encoding, getattr(stream, "errors", None) or "strict")
        return text
    with suppress(LookupError):
        return text.encode(encoding, "nas_attn.spelt").decode(encoding)
    return text.encode("ascii", "nas_attn.spelt").decode("ascii")


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Return the replacement of the characters that an encoding lacks; see `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_spelt, error.object[error.start : error.end])), error.end


def _spelt(character: str) -> str:
    if character in _SPELT:
        return _SPELT[character]
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"


codecs.register_error("nas_attn.spelt", _spell)


@contextmanager
def standard_streams(*, is_result: bool) -> Iterator[Stream]:
    """Context manager: make the standard streams safe, and yield the standard output.

    A descriptor that is closed is opened on the null device before any file can take its number: what a library prints
    would be written into that file.

    Args:
        is_result: Whether the output is all that the command makes, as a listing's.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    before = sys.stdout, sys.stderr
    # Typed as possibly None, which they are where a descriptor was closed before Python began.
    found = [stream if stream is not None else open(os.devnull, "w") for stream in before]  # noqa: SIM115
    out, err = Stream(found[0], is_result=is_result), Stream(found[1], is_result=False)
    replaced: tuple[Any, Any] = out, err  # with the methods that are used
    sys.stdout, sys.stderr = replaced
    try:
        yield out
    finally:
        out.end()
        err.end()
        sys.stdout, sys.stderr = before
