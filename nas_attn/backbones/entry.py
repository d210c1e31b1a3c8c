"""What the table of backbones is made of: frozen records, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class BackboneOption:
    """One option of a backbone: its type, its range and its default.

    Args:
        type: What values are; `ints` is a list of whole numbers.
        low, high: Inclusive range of a number, or of each number of a list.
        longest: How many numbers an `ints` option may hold.
        choices: The only values that there are; a `str` option has some.
        auto: Gives the value that None stands for, from the other options; None where None is no value.
    """

    name: str
    default: Any
    type: Literal["int", "float", "str", "ints"]
    about: str
    low: float = 0
    high: float = 0
    longest: int = 1
    choices: tuple[str, ...] | tuple[int, ...] = ()
    auto: Callable[[Spec], Any] | None = None


@dataclass(frozen=True)
class Backbone:
    """One backbone of the catalogue.

    Args:
        build: Function that makes the network from its options, as "module:name".
        places: Function that names its sites, as "module:name".
        kinds: Kinds of site that it offers.
        lacks: For each kind of site that it, or some of its blocks, or it with some options, does not have: the fact of
            the family that is the reason, to stand in brackets.
        smallest_image: Height and width of the smallest image that it takes, from its options.
        default_image: Height and width that smaller images are enlarged to, from its options.
        source: Authors, venue, arXiv where there is one.
        fixed: Arguments of `build` that are no options.
        sized: Whether its first classifier layer depends on the image size, so that `build` takes that too.
    """

    name: str
    build: str
    places: str
    summary: str
    source: str
    options: tuple[BackboneOption, ...]
    kinds: tuple[str, ...]
    lacks: Mapping[str, str]
    smallest_image: Callable[[Spec], int]
    default_image: Callable[[Spec], int]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    sized: bool = False
