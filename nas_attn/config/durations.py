"""Durations as people write them: `90s`, `10m`, `2h`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

_NUMBER = r"(\d+(?:\.\d+)?)\s*"
_PART = re.compile(_NUMBER + "([dhms])")
_FORM = re.compile(rf"{_NUMBER}|(?:{_NUMBER}d\s*)?(?:{_NUMBER}h\s*)?(?:{_NUMBER}m\s*)?(?:{_NUMBER}s)?")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds_of(duration: str) -> float:
    """Return a duration in seconds; a bare number is in seconds.

    >>> [seconds_of(text) for text in ("90s", "1.5m", "2h", "1h30m", "1d", "45")]
    [90.0, 90.0, 7200.0, 5400.0, 86400.0, 45.0]

    Raises: ValueError for anything else, and unless the duration is above 0.
    """
    text = duration.strip().lower()
    found = _FORM.fullmatch(text)
    parts = [(found[1], "s")] if found and found[1] else _PART.findall(text) if found else []
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not 0 < seconds < float("inf"):
        raise ValueError(
            f"A duration must be a number above 0 with s, m, h or d, such as 90s or 1h30m, but got '{duration}'."
        )
    return seconds


def _checked(duration: str) -> str:
    try:
        seconds_of(duration)
    except ValueError:
        raise PydanticCustomError("duration", "it must be a duration above 0, such as 90s, 10m or 1h30m") from None
    return duration


Duration = Annotated[str, AfterValidator(_checked)]
"""A setting that is a duration; `seconds_of` reads it."""
