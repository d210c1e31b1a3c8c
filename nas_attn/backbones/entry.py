"""What the table of backbones is made of: frozen records, no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nas_attn.errors import SpaceError

Spec = Mapping[str, Any]
Size = int | Callable[[Spec], int]
"""Height and width of square images, or how they follow from a backbone's options."""

_KEYS = ("name", "import", "weights", "download", "replace")
"""Keys of a spec that no option may be called by."""


@dataclass(frozen=True)
class BackboneOption:
    """One option of a backbone: its type, its range and its default.

    Args:
        type: What values are; `ints` is a list of whole numbers.
        low, high: Inclusive range of a number, or of each number of a list; None sets no limit.
        longest: How many numbers an `ints` option may hold.
        choices: The only values that there are; without any, a `str` option is free.
        auto: Gives the value that None stands for, from the other options; None where None is no value.
    """

    name: str
    default: Any
    type: Literal["int", "float", "bool", "str", "ints"]
    about: str
    low: float | None = None
    high: float | None = None
    longest: int = 1
    choices: tuple[str, ...] | tuple[int, ...] = ()
    auto: Callable[[Spec], Any] | None = None


@dataclass(frozen=True, eq=False)
class Backbone:
    """One backbone: what it is called, how it is built, and where its sites lie.

    Two records are one only if they are the same object: what was found out about one is never said of another that
    bears its name.

    Args:
        name: Its key in the catalogue, in lower case.
        build: Function that makes the network, or where that is, as "module:name", which is loaded on use. It gets the
            options by name, and num_classes, in_channels and image_size: a plug-in's those of them that it names.
        summary: One line for people.
        default_image: Height and width that smaller images are enlarged to, or a function of its options.
        smallest_image: Height and width of the smallest image that it takes, or a function of its options; 1 promises
            nothing.
        places: Function that names its sites as `Place`s, given a network that was built, or where that is. None takes
            the module paths, as in a user's own network. In either case a plug-in's sites are found by running it.
        kinds: Kinds of site that it offers; a fact for people, which a plug-in need not state.
        lacks: For each kind of site that it, or some of its blocks, or it with some options, does not have: the fact of
            the family that is the reason, to stand in brackets.
        source: Authors, venue, arXiv where there is one.
        fixed: Arguments of `build` that are no options.
        sized: Whether its first classifier layer depends on the image size, so that `build` takes that too; a plug-in
            need not say it.
    Raises: SpaceError if an option has a name that means something else in a spec.
    """

    name: str
    build: str | Callable[..., Any]
    summary: str
    default_image: Size
    smallest_image: Size = 1
    options: tuple[BackboneOption, ...] = ()
    places: str | Callable[[Any], Iterable[Any]] | None = None
    kinds: tuple[str, ...] = ()
    lacks: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    sized: bool = False

    def __post_init__(self) -> None:
        taken = [option.name for option in self.options if option.name in _KEYS]
        if taken:
            raise SpaceError(
                f"An option of a backbone must be called by none of {', '.join(_KEYS)}, but '{self.name}' has "
                f"'{taken[0]}'."
            )

    def image_sizes(self, spec: Spec) -> tuple[int, int]:
        """Return height and width of the smallest image that it takes with these options, and of its default one."""
        smallest, default = (
            size if isinstance(size, int) else size(spec) for size in (self.smallest_image, self.default_image)
        )
        return smallest, default
