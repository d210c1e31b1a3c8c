"""The records of the table of backbones; no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nas_attn.errors import SpaceError

Spec = Mapping[str, Any]
Size = int | Callable[[Spec], int]
"""Height and width of square images, or a function of the backbone's options that returns them."""

_KEYS = ("name", "import", "weights", "download", "replace")
"""Reserved keys of a spec, which cannot be names of options."""


@dataclass(frozen=True)
class BackboneOption:
    """One option of a backbone: its type, its range and its default.

    Args:
        type: Type of its values; `ints` is a list of whole numbers.
        low, high: Inclusive range of a number, or of each number of a list; None sets no limit.
        longest: Greatest length of an `ints` option.
        choices: All allowed values; if empty, a `str` option is free.
        auto: Function of the other options that returns the value for None; None if None is not allowed.
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
    """One backbone: its name, its build function, and its sites.

    Two records are equal only if they are the same object, so that cached results are never shared by two records of
    one name.

    Args:
        name: Its key in the catalogue, in lower case.
        build: Function that returns the network, or its path "module:name", which is imported on use. Its arguments are
            the options by name, and num_classes, in_channels and image_size; of the last three, a plug-in's function
            gets those that it has as parameters.
        summary: One line of description.
        default_image: Height and width to which smaller images are enlarged, or a function of the options.
        smallest_image: Height and width of the smallest accepted image, or a function of the options.
        places: Function from a built network to its sites as `Place`s, or its path. None makes the module paths the
            names of sites, as in a user's own network. The sites of a plug-in are always checked by running it.
        kinds: Kinds of its sites, for listings; optional for a plug-in.
        lacks: Kind of site -> reason why the network, some of its blocks, or some options of it have no such site. The
            reason is shown in brackets.
        source: Authors, venue, arXiv number if any.
        fixed: Arguments of `build` that are not options.
        sized: Whether `build` needs the image size, for a classifier that depends on it; not needed for a plug-in.
    Raises: SpaceError if the name of an option is a reserved key.
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
                f"The name of a backbone's option must be none of {', '.join(_KEYS)}, but '{self.name}' has "
                f"'{taken[0]}'."
            )

    def image_sizes(self, spec: Spec) -> tuple[int, int]:
        """Return the smallest and the default image size with these options."""
        smallest, default = (
            size if isinstance(size, int) else size(spec) for size in (self.smallest_image, self.default_image)
        )
        return smallest, default
