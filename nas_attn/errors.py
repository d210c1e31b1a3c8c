"""Every error that a user can cause, named by its consequence, and the sentence for an unknown name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

MOST_NAMES, MOST_NEAR = 40, 8
"""How many known names a sentence lists, and how many of them, the nearest, when there are more."""


class NasAttnError(Exception):
    """Root of all errors of this package; `exit_code` is what the command line ends with."""

    exit_code = 1


class Refused(NasAttnError):
    """The request is refused before anything starts or is written."""

    exit_code = 2


class SpaceError(Refused):
    """A space, a placement or an attention that cannot be built as asked."""


class ConfigError(Refused):
    """A setting outside its range, or settings that contradict each other."""


class DataError(Refused):
    """Data that is missing, damaged, or too small for what is asked of it."""


class FileError(Refused):
    """A model file that is truncated, altered, or of another schema."""


class RunError(Refused):
    """A run folder that is in use, that belongs to another search, or that cannot be written."""


class TrialFailed(NasAttnError):
    """This trial has no value; the search goes on. `cause` is one word for counting: "oom", "nan", "error"."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class RunStopped(NasAttnError):
    """The run cannot go on; what it has finished is kept."""


class Interrupted(NasAttnError):
    """The user asked the run to stop; the ledger is closed cleanly and the same command goes on from it."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, to stand within a sentence, or its name."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def in_one_line(error: BaseException) -> str:
    """Return an error's whole message in one line, to stand at the end of a sentence, or its name."""
    return " ".join(str(error).split()).removesuffix(".") or type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to `name`, or None when none is close."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(kind: str, name: str, known: Iterable[str], where: str = "", listing: str | None = None) -> str:
    """Return the sentence for a name that is not known.

    Args:
        listing: A command that lists the names.

    >>> unknown("attention", "cbma", ["se", "cbam"], "site 'denseblock2'")
    "Unknown attention 'cbma' at site 'denseblock2': did you mean 'cbam'? Known: cbam, se."
    """
    names = sorted(known)
    return f"Unknown {kind} {name!r}{placed(where)}{suggestion(name, names, listing)}"


def suggestion(name: str, known: Sequence[str], listing: str | None = None) -> str:
    """Return the end of a sentence that suggests a name: the nearest, and all, or the nearest few of many.

    Args:
        listing: A command that lists the names; with one, a sentence lists `MOST_NEAR` at most.
    """
    close = nearest(name, known)
    hint = f": did you mean {close!r}?" if close else "."
    most = MOST_NAMES if listing is None else MOST_NEAR
    shown = list(known) if len(known) <= most else get_close_matches(name, known, n=MOST_NEAR, cutoff=0.0)
    more = f" and {len(known) - len(shown)} more" if len(shown) < len(known) else ""
    more += f" (`{listing}` lists them)" if more and listing else ""
    return f"{hint} Known: {', '.join(shown) or 'none'}{more}."


def placed(where: str) -> str:
    """Return how a sentence says where something stands.

    >>> placed("site 'denseblock2'"), placed("x.toml"), placed("")
    (" at site 'denseblock2'", ' in x.toml', '')
    """
    return f" at {where}" if where.startswith("site ") else f" in {where}" if where else ""
