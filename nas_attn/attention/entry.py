"""What the table of attention modules is made of: frozen records, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from nas_attn.placement import Value

Options = Mapping[str, Value]


@dataclass(frozen=True)
class Context:
    """What an attention may need to know beyond its channels; the model builder fills it in.

    Args:
        num_classes: Classes of the task.
    """

    num_classes: int = 1


@dataclass(frozen=True)
class Option:
    """One option of an attention: its type, its range, and the default of the paper.

    Args:
        type: What values are.
        low, high: Inclusive range of a number.
        odd: Whether only odd values have a meaning (kernel sizes that keep the map).
        choices: The words of a `str` option.
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
    choices: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class Entry:
    """One attention module: what it is called, where it fits, what it takes, and what it costs.

    Args:
        cls: Its class as `module:name`, loaded on use by `load_class`.
        kinds: Kinds of site that it fits.
        n_parameters: Trainable parameters for (channels, resolved options, context).
        n_macs: Multiply-adds of convolutions and matrix products for one image, for (channels, height, width,
            resolved options, context).
        fits: Why complete options cannot hold at these channels, with the nearest that work, or None.
        idle: Names of the options without effect beside the others.
        auto: What None stands for, by channels, for each optional option.
        smallest_map: Smallest height and width at which every parameter matters.
        auxiliary: Whether it leaves auxiliary logits in train mode.
        needs_context: Whether its class takes `context=Context(...)`.
    """

    name: str
    cls: str
    summary: str
    source: str
    kinds: tuple[str, ...]
    options: tuple[Option, ...]
    n_parameters: Callable[[int, Options, Context], int]
    n_macs: Callable[[int, int, int, Options, Context], int]
    fits: Callable[[int, Options], str | None]
    idle: Callable[[Options], frozenset[str]] = lambda options: frozenset()
    auto: Mapping[str, Callable[[int], Value]] = field(default_factory=dict)
    smallest_map: int = 1
    auxiliary: bool = False
    needs_context: bool = False
