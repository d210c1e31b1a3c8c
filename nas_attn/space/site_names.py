"""Names of sites, and patterns that match them."""

from __future__ import annotations

import re
from functools import cache


def matches(pattern: str, name: str) -> bool:
    """Return whether a pattern matches a name: "*" stays within a dot, "**" crosses dots.

    >>> matches("stage*.block1", "stage3.block1"), matches("stage*", "stage3.block1"), matches("**1", "stage3.block1")
    (True, False, True)
    """
    return _compiled(pattern).fullmatch(name) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    wild = {"**": ".*", "*": "[^.]*"}
    return re.compile("".join(wild.get(part) or re.escape(part) for part in re.split(r"(\*\*|\*)", pattern)))
