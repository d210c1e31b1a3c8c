"""All errors that a user can cause, named by their consequence, and the message for an unknown name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

MOST_NAMES, MOST_NEAR = 40, 8
"""Greatest number of known names in a message, and number of nearest names if there are more."""

MOST_LETTERS = 400
"""Greatest length of a reason in the ledger, the tables and on the page; the log has the whole message."""

MOST_SHOWN = 2000
"""Greatest length of a message in the terminal."""

_UNSHOWN = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters but for the line's end, lone surrogates, and what turns the direction of the text beside it."""


class NasAttnError(Exception):
    """Base class of all errors of this package; `exit_code` is the exit code of the command line."""

    exit_code = 1


class Refused(NasAttnError):
    """The request is refused; nothing was started or written."""

    exit_code = 2


class SpaceError(Refused):
    """A space, a placement or an attention that cannot be built as asked."""


class ConfigError(Refused):
    """A setting outside its range, or settings that contradict each other."""


class DataError(Refused):
    """Data that is missing, damaged, or too small for the settings."""


class FileError(Refused):
    """A model file that is truncated, altered, or of another schema."""


class RunError(Refused):
    """A run folder that is in use, that belongs to another search, or that cannot be written."""


class TrialFailed(NasAttnError):
    """This trial has no value; the search continues. `cause` is one word for statistics: "oom", "nan", "error"."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class RunStopped(NasAttnError):
    """The run cannot continue; its finished trials are kept."""


class Interrupted(NasAttnError):
    """The user stopped the run; the ledger was closed cleanly, and the same command continues the run."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its name, for use within a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def in_one_line(error: BaseException) -> str:
    """Return an error's whole message in one line, or its name, for use at the end of a sentence."""
    return " ".join(str(error).split()).removesuffix(".") or type(error).__name__


def in_plain_words(message: object, most: int = MOST_LETTERS) -> str:
    """Return foreign text in one line, without what cannot be written or shown, cut to `most` letters.

    Lone surrogates, control characters (escape sequences of terminals too) and those that turn the direction of text
    become question marks.

    >>> in_plain_words("first line\\nsecond \\ud800 \\x1b[31m")
    'first line second ? ?[31m'
    """
    try:
        text = str(message)
    except BaseException:  # `__str__` is code of the user and may raise anything, SystemExit too
        text = "its message cannot be shown"
    words = " ".join(text[: 8 * most].split())
    shown = showable(words)
    is_whole = len(shown) <= most and len(text) <= 8 * most
    return shown if is_whole else f"{shown[: most - 2].rstrip()} \N{HORIZONTAL ELLIPSIS}"


def showable(text: str) -> str:
    """Return text with a question mark for what cannot be written or shown as it is; its lines stay.

    >>> showable("left \\u202e right \\0\\nnext \\ud800")
    'left ? right ?\\nnext ?'
    """
    return _UNSHOWN.sub("?", text)


def of_system(error: OSError) -> str:
    """Return an error of the operating system as a sentence that names the file.

    >>> of_system(FileNotFoundError(2, "No such file or directory", "a.csv"))
    'No such file or directory: a.csv.'
    """
    names = [in_plain_words(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{error.strerror or in_plain_words(error)}{': ' if names else ''}{' and '.join(names)}."


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to `name`, or None when none is close."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(kind: str, name: str, known: Iterable[str], where: str = "", listing: str | None = None) -> str:
    """Return the message for an unknown name.

    Args:
        listing: A command that lists the names.

    >>> unknown("attention", "cbma", ["se", "cbam"], "site 'denseblock2'")
    "Unknown attention 'cbma' at site 'denseblock2': did you mean 'cbam'? Known: cbam, se."
    """
    names = sorted(known)
    return f"Unknown {kind} {name!r}{placed(where)}{suggestion(name, names, listing)}"


def suggestion(name: str, known: Sequence[str], listing: str | None = None) -> str:
    """Return the end of a message that suggests the nearest name and lists all names, or the nearest few of many.

    Args:
        listing: A command that lists the names; the message then lists at most `MOST_NEAR`.
    """
    close = nearest(name, known)
    hint = f": did you mean {close!r}?" if close else "."
    most = MOST_NAMES if listing is None else MOST_NEAR
    shown = list(known) if len(known) <= most else get_close_matches(name, known, n=MOST_NEAR, cutoff=0.0)
    more = f" and {len(known) - len(shown)} more" if len(shown) < len(known) else ""
    more += f" (`{listing}` lists them)" if more and listing else ""
    return f"{hint} Known: {', '.join(shown) or 'none'}{more}."


def placed(where: str) -> str:
    """Return a location in words, for use within a message.

    >>> placed("site 'denseblock2'"), placed("x.toml"), placed("")
    (" at site 'denseblock2'", ' in x.toml', '')
    """
    return f" at {where}" if where.startswith("site ") else f" in {where}" if where else ""
