"""The records that the catalogue of attentions consists of: frozen, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from nas_attn.errors import SpaceError, in_one_line
from nas_attn.placement import Convolution, Value

Options = Mapping[str, Value]

SHAPE_KEEPING = ("output", "pre", "branch", "shortcut", "hidden")
"""Kinds of site with one input and an output of the same shape."""


@dataclass(frozen=True)
class Context:
    """What an attention may need beyond its channels; the model builder provides it.

    Args:
        num_classes: Number of classes of the task.
        height, width: Size of the map at the site, in pixels; None if unknown.
        replaced: The convolution that the attention replaces; None if it replaces none.
    """

    num_classes: int = 1
    height: int | None = None
    width: int | None = None
    replaced: Convolution | None = None


@dataclass(frozen=True)
class Option:
    """One option of an attention: its type, its range, and the default of the paper.

    Args:
        type: Type of the values.
        low, high: Inclusive range of a number.
        odd: Whether only odd values are allowed (kernel sizes that keep the map's size).
        choices: The allowed values; required for a `str` option.
        optional: Whether None is allowed ("auto" in a space file).
        implied: Whether a resolved placement leaves the default out, as files do that are older than the option.
        about: Description in one line.
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
    implied: bool = False


def nothing_idle(channels: int, options: Options) -> frozenset[str]:
    """Return the empty set: every option has an effect."""
    return frozenset()


def all_effective(channels: int, options: Options, context: Context) -> Options:
    """Return no options: each value is another function of the map."""
    return {}


def as_written(channels: int, options: Options) -> Options:
    """Return no options: a search places every value as it is written."""
    return {}


def always_fits(channels: int, options: Options, context: Context) -> str | None:
    """Return None: the options fit any number of channels."""
    return None


def nothing_unused(channels: int, options: Options, context: Context) -> str | None:
    """Return None: every part of the module has an effect on any map."""
    return None


def never(options: Options) -> bool:
    """Return False: no options make it work on a map of one pixel that is too small otherwise."""
    return False


def any_logits(options: Options) -> int:
    """Return 0: the attention works in a network with any number of logits, or without any."""
    return 0


@dataclass(frozen=True)
class Entry:
    """One attention module: its name, the sites that it fits, its options and its cost.

    Args:
        name: Key in the catalogue, in lower case.
        cls: The class, or `module:name`, which is imported on first use. The class takes `channels` first, then
            keyword-only options, and `context=Context(...)` if `needs_context`.
        summary: Description in one line.
        formula: The output y in terms of the input x.
        source: Authors, venue, arXiv.
        kinds: Kinds of site that it fits.
        n_parameters: (channels, resolved options, context) -> number of trainable parameters; None: counted on a built
            module.
        n_macs: (channels, height, width, resolved options, context) -> multiply-adds of convolutions and matrix
            products for one image, for the height and width of the input; None: counted on a built module.
        fits: (channels, complete options, context) -> the reason why they do not fit these channels, with the nearest
            values that do, or None.
        idle: (channels, complete options) -> the names of the options that have no effect, given the others.
        effective: (channels, resolved options, context) -> those options whose value the map cannot fill, with the
            smallest value that is the same function: the kernel of 7 is one of 3 on a map of 2x2. It must change
            nothing where the context has no map.
        searched: (channels, resolved options) -> those options that a search does not place as written, because they
            would leave a group too little, with the nearest value that does not.
        unused: (channels, resolved options, context) -> which part of the module has no effect there, as the second
            half of a sentence, or None. It is said wherever such a module is searched or built.
        auto: Name of an optional option -> (channels, context) -> the value that None stands for.
        fewest_logits: (resolved options) -> minimum number of logits of the network.
        smallest_map: Smallest height and width at which every parameter has an effect.
        on_pixels: (complete options) -> whether with these options every parameter has an effect on one pixel too.
        n_inputs: Number of inputs; 2 at a merge: the branch, then the shortcut.
        auxiliary: Whether it stores auxiliary logits in train mode.
        needs_context: Whether the class takes `context=Context(...)`.
        identity_start: Whether it computes y = x before training, with the default options.
        replaces_norm: Whether, at a site of kind `conv`, it also replaces the batch norm after the convolution.
        neutral: Whether it computes what the plain network computes at that site, so that choosing it changes nothing.
        weighs: Function (module, its inputs) -> what the module weighs in a forward pass in evaluation mode, as
            `nas_attn.attention.weighing.record.Weights`; or its location as `module:name`. None: the change of the map
            is shown instead.
        exceptions: Checks of `nas_attn.testing` that cannot pass for this entry, each with the reason.
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
    effective: Callable[[int, Options, Context], Options] = all_effective
    searched: Callable[[int, Options], Options] = as_written
    unused: Callable[[int, Options, Context], str | None] = nothing_unused
    auto: Mapping[str, Callable[[int, Context], Value]] = field(default_factory=dict)
    fewest_logits: Callable[[Options], int] = any_logits
    smallest_map: int = 1
    on_pixels: Callable[[Options], bool] = never
    n_inputs: int = 1
    auxiliary: bool = False
    needs_context: bool = False
    identity_start: bool = False
    replaces_norm: bool = False
    neutral: bool = False
    weighs: str | Callable[..., Any] | None = None
    exceptions: Mapping[str, str] = field(default_factory=dict)

    @property
    def keeps_shape(self) -> bool:
        """Whether it fits kinds of site with one input and an output of the same shape, where wirings apply."""
        return not set(SHAPE_KEEPING).isdisjoint(self.kinds)


def load_class(cls: str | type[Any]) -> type[Any]:
    """Return the class, which is imported if written as `module:name`. Raises: SpaceError if it cannot be imported."""
    if isinstance(cls, type):
        return cls
    module, _, name = cls.partition(":")
    try:
        loaded = getattr(import_module(module), name)
    except Exception as error:  # a plug-in's module may raise anything at import
        reason = f"{type(error).__name__}: {in_one_line(error)}"
        raise SpaceError(f"The class {cls} of an attention cannot be loaded: {reason}.") from error
    if not isinstance(loaded, type):
        raise SpaceError(f"The class {cls} of an attention must be a class, but is {loaded!r}.")
    return loaded


def construct(entry: Entry, channels: int, options: Options, context: Context | None) -> Any:
    """Return a module of the entry's class, with exactly these options, and the context if the class takes one."""
    extra = {"context": context} if entry.needs_context else {}
    return load_class(entry.cls)(channels, **options, **extra)
