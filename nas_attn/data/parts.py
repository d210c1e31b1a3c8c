"""Names of folders, splits and files that mean a part of a data set."""

from __future__ import annotations

import re

EXACT = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Words for the parts, in lower case, and the part that each means."""

UNCLEAR = frozenset({"eval", "evaluation", "holdout", "heldout"})
"""Words that mean val for some people and test for others."""

_TOKEN = re.compile(r"[-_ .]+")
_GLUED = re.compile(r"(set|data|split)?\d*$")


def part_of(name: str) -> str | None:
    """Return the part that a name means: a word of `EXACT`, alone or beside other words; None for any other name.

    Case does not matter; `-`, `_`, blanks and dots separate words; digits and `set` may follow a word.

    >>> [part_of(name) for name in ("Training", "seg_train", "val2017", "test-images", "testset", "trainee")]
    ['train', 'train', 'val', 'test', 'test', None]
    >>> part_of("train_test_split") is None
    True
    """
    found = {EXACT[word] for word in map(_bare, _TOKEN.split(name.lower())) if word in EXACT}
    return found.pop() if len(found) == 1 else None


def is_exact(name: str) -> bool:
    """Return whether a name is nothing but a word for a part."""
    return name.lower() in EXACT


def is_unclear(name: str) -> bool:
    """Return whether a name holds a word that may mean val or test."""
    return any(_bare(word) in UNCLEAR for word in _TOKEN.split(name.lower()))


def _bare(word: str) -> str:
    """Return a word without what may follow it: `trainset` and `train2017` are `train`."""
    return word if word in EXACT else _GLUED.sub("", word)
