"""What the table of attention modules is made of: frozen records, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from nas_attn.errors import SpaceError, in_one_line
from nas_attn.placement import Convolution, Value

Options = Mapping[str, Value]

SHAPE_KEEPING = ("output", "pre", "branch", "shortcut", "hidden")
"""Kinds of site where one tensor passes and leaves in its shape."""


@dataclass(frozen=True)
class Context:
    """What an attention may need to know beyond its channels; the model builder fills it in.

    Args:
        num_classes: Classes of the task.
        height, width: Size of the map at the site, in pixels; None where it is not known.
        replaced: The convolution whose place the attention takes; None elsewhere.
    """

    num_classes: int = 1
    height: int | None = None
    width: int | None = None
    replaced: Convolution | None = None


@dataclass(frozen=True)
class Option:
    """One option of an attention: its type, its range, and the default of the paper.

    Args:
        type: What values are.
        low, high: Inclusive range of a number.
        odd: Whether only odd values have a meaning (kernel sizes that keep the map).
        choices: The only values that there are; a `str` option has some.
        optional: Whether None is a value ("auto" in a space file).
        about: One line for people.
    """

    name: str
    default: Value
    type: Literal["int", "float", "bool", "str"]
    about: str
    low: float | None = None
    high: float | None = None
    odd: bool = False
    choices: tuple[Value, ...] = ()
    optional: bool = False


def nothing_idle(channels: int, options: Options) -> frozenset[str]:
    """Return no option: each has an effect."""
    return frozenset()


def always_fits(channels: int, options: Options, context: Context) -> str | None:
    """Return None: these options hold at any channels."""
    return None


def any_logits(options: Options) -> int:
    """Return 1: it works in a network of any number of logits."""
    return 1


@dataclass(frozen=True)
class Entry:
    """One attention module: what it is called, where it fits, what it takes, and what it costs.

    Args:
        name: Its key in the catalogue, in lower case.
        cls: Its class, or where that is, as `module:name`, which is loaded on use. It takes `channels` first, then
            keyword-only options, and `context=Context(...)` if `needs_context`.
        summary: One line for people.
        formula: What it computes, x being what enters and y what leaves.
        source: Authors, venue, arXiv.
        kinds: Kinds of site that it fits.
        n_parameters: Trainable parameters for (channels, resolved options, context); None counts a built module's.
        n_macs: Multiply-adds of convolutions and matrix products for one image, for (channels, height, width,
            resolved options, context), height and width being those of the map that enters; None counts a built
            module's.
        fits: Why complete options cannot hold at these channels, with the nearest that work, or None.
        idle: Names of the options without effect beside the others, for (channels, complete options).
        auto: What None stands for, by channels and context, for each optional option whose None means a value.
        fewest_logits: How many logits the network must give, for resolved options.
        smallest_map: Smallest height and width at which every parameter matters.
        n_inputs: Tensors that enter; 2 at a merge: the branch, then the shortcut.
        auxiliary: Whether it leaves auxiliary logits in train mode.
        needs_context: Whether its class takes `context=Context(...)`.
        identity_start: Whether it computes y = x before it is trained, with the options' defaults.
        replaces_norm: Whether, at a site of kind `conv`, the batch norm behind the convolution goes too.
        neutral: Whether it computes what the plain network computes at that site: choosing it places nothing.
        exceptions: Checks of `nas_attn.testing` that cannot hold for this entry, each with the reason.
    """

    name: str
    cls: str | type[Any]
    summary: str
    formula: str
    source: str
    kinds: tuple[str, ...] = SHAPE_KEEPING
    options: tuple[Option, ...] = ()
    n_parameters: Callable[[int, Options, Context], int] | None = None
    n_macs: Callable[[int, int, int, Options, Context], int] | None = None
    fits: Callable[[int, Options, Context], str | None] = always_fits
    idle: Callable[[int, Options], frozenset[str]] = nothing_idle
    auto: Mapping[str, Callable[[int, Context], Value]] = field(default_factory=dict)
    fewest_logits: Callable[[Options], int] = any_logits
    smallest_map: int = 1
    n_inputs: int = 1
    auxiliary: bool = False
    needs_context: bool = False
    identity_start: bool = False
    replaces_norm: bool = False
    neutral: bool = False
    exceptions: Mapping[str, str] = field(default_factory=dict)

    @property
    def keeps_shape(self) -> bool:
        """Whether one tensor enters and leaves in its shape, so that wirings apply."""
        return set(self.kinds) <= set(SHAPE_KEEPING)


def load_class(cls: str | type[Any]) -> type[Any]:
    """Return a class, imported if it is given as `module:name`. Raises: SpaceError if it is not to be had."""
    if isinstance(cls, type):
        return cls
    module, _, name = cls.partition(":")
    try:
        loaded = getattr(import_module(module), name)
    except Exception as error:  # somebody else's code, which runs at import and may raise anything
        reason = f"{type(error).__name__}: {in_one_line(error)}"
        raise SpaceError(f"The class {cls} of an attention cannot be loaded: {reason}.") from error
    if not isinstance(loaded, type):
        raise SpaceError(f"The class {cls} of an attention must be a class, but is {loaded!r}.")
    return loaded
