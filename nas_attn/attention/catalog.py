"""The table of attention modules: facts only, complete at import, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from itertools import combinations
from math import gcd, isfinite
from types import MappingProxyType
from typing import Any, Literal

from nas_attn.errors import SpaceError, nearest, unknown
from nas_attn.placement import Site, Value

Options = Mapping[str, Value]
SHAPE_KEEPING = ("output", "pre", "branch", "shortcut", "hidden")


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


def attention_entry(name: str, where: str = "") -> Entry:
    """Return the entry called `name`.

    Raises: SpaceError that names the nearest attention and `where`, e.g. `site 'denseblock2'`.
    """
    if name not in ATTENTIONS:
        raise SpaceError(unknown("attention", name, ATTENTIONS, where))
    return ATTENTIONS[name]


def check_options(entry: Entry, options: Options, where: str) -> None:
    """Check names, types and ranges; what depends on the channels is `why_not`'s.

    Raises: SpaceError that names the option, the rule, the value, and the nearest that is known.
    """
    known = {option.name: option for option in entry.options}
    for name, value in options.items():
        if name not in known:
            raise SpaceError(unknown(f"option of '{entry.name}'", name, known, where))
        rule = _broken_rule(known[name], value)
        if rule:
            place = f" at {where}" if where.startswith("site ") else f" in {where}" if where else ""
            raise SpaceError(f"Option '{name}' of '{entry.name}'{place} must be {rule}, but got {value!r}.")


def resolve_options(entry: Entry, channels: int, options: Options) -> dict[str, Value]:
    """Fill in defaults, resolve None by the channels, and write equal models in one way.

    Options without effect are dropped. Reductions that give one hidden width become one value: the power of two among
    them if there is one, else the largest. Options that do not fit (see `why_not`) keep the value that they have.

    >>> resolve_options(attention_entry("cbam"), 24, {"reduction": 20, "branches": "channel"})
    {'reduction': 16, 'branches': 'channel', 'gate': 'sigmoid'}
    """
    resolved = {name: _resolved(entry, channels, name, value) for name, value in _active(entry, options).items()}
    return _canonical_width(channels, resolved) if "reduction" in resolved else resolved


def why_not(entry: Entry, site: Site, options: Options) -> str | None:
    """Return why this attention cannot sit at this site, with the nearest that can, or None if it can.

    `options` are valid by `check_options`; those left out have their defaults.
    """
    place = f"Attention '{entry.name}' does not fit site '{site.name}'"
    if site.kind not in entry.kinds:
        return f"{place}: a site of kind '{site.kind}' is not among its kinds ({', '.join(entry.kinds)})."
    if min(site.height, site.width) < entry.smallest_map:
        size = entry.smallest_map
        return f"{place}: a map of at least {size}x{size} must hold, but the map is {site.height}x{site.width}."
    misfit = entry.fits(site.channels, _active(entry, options))
    return f"{place}: {misfit}" if misfit else None


def load_class(path: str) -> type[Any]:
    """Import `module:name` and return the class."""
    module, _, name = path.partition(":")
    loaded = getattr(import_module(module), name)
    assert isinstance(loaded, type), f"{path} must be a class, but is {loaded!r}"
    return loaded


def _active(entry: Entry, options: Options) -> dict[str, Value]:
    """Return the options with defaults, without those that have no effect."""
    complete = {option.name: options.get(option.name, option.default) for option in entry.options}
    idle = entry.idle(complete)
    return {name: value for name, value in complete.items() if name not in idle}


def _resolved(entry: Entry, channels: int, name: str, value: Value) -> Value:
    """Return what None or "auto" stands for, and a number of a `float` option as a float."""
    if name in entry.auto and value in (None, "auto"):
        return entry.auto[name](channels)
    is_float = any(option.name == name and option.type == "float" for option in entry.options)
    return float(value) + 0.0 if is_float and isinstance(value, int | float) else value  # -0.0 becomes 0.0


def _canonical_width(channels: int, options: dict[str, Value]) -> dict[str, Value]:
    """Write the hidden width max(min_hidden, channels // reduction) in one way."""
    if _int(options, "reduction") > channels:
        return options
    hidden = _hidden(channels, options)
    largest = channels // hidden
    if largest == 0 or channels // largest != hidden:  # no reduction gives this width: only `min_hidden` does
        return options | {"reduction": largest + 1}
    power = 1 << (largest.bit_length() - 1)
    reduction = power if channels // power == hidden else largest
    kept = {name: value for name, value in options.items() if name != "min_hidden"}
    return kept | {"reduction": reduction}


def _broken_rule(option: Option, value: Value) -> str | None:
    """Return the rule that `value` breaks, with the nearest word, or None."""
    if option.optional and (value is None or value == "auto"):
        return None
    check = {"int": _broken_number, "float": _broken_number, "bool": _broken_bool, "str": _broken_word}[option.type]
    rule = check(option, value)
    return f"{rule} or auto" if rule and option.optional else rule


def _broken_bool(option: Option, value: Value) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _broken_word(option: Option, value: Value) -> str | None:
    if value in option.choices:
        return None
    close = nearest(value, option.choices) if isinstance(value, str) else None
    return f"one of {', '.join(option.choices)}" + (f" (did you mean '{close}'?)" if close else "")


def _broken_number(option: Option, value: Value) -> str | None:
    fits_type = isinstance(value, int if option.type == "int" else int | float) and not isinstance(value, bool)
    if fits_type and isinstance(value, int | float) and isfinite(value):
        in_range = (option.low is None or value >= option.low) and (option.high is None or value <= option.high)
        if in_range and not (option.odd and value % 2 == 0):
            return None
    noun = {(True, False): "a whole number", (True, True): "an odd number"}.get(
        (option.type == "int", option.odd), "a number"
    )
    low = "" if option.low is None else f" from {option.low:g}"
    return noun + low + ("" if option.high is None else f" to {option.high:g}")


def _int(options: Options, name: str) -> int:
    value = options[name]
    assert isinstance(value, int), f"option '{name}' must be a whole number here, but is {value!r}"
    return value


def _hidden(channels: int, options: Options) -> int:
    """Return the hidden width of a bottleneck."""
    floor = _int(options, "min_hidden") if "min_hidden" in options else 1
    return max(floor, channels // _int(options, "reduction"))


def _misfit_reduction(channels: int, options: Options) -> str | None:
    if "reduction" not in options or _int(options, "reduction") <= channels:
        return None
    return (
        f"reduction <= channels must hold, but got reduction={options['reduction']}, channels={channels}; "
        f"the nearest that works is reduction={channels}."
    )


def _misfit_groups(channels: int, options: Options) -> str | None:
    groups = _int(options, "groups") if "groups" in options else 1
    hidden = channels // _int(options, "reduction")
    if channels % groups == 0 and hidden % groups == 0:
        return None
    divisors = [n for n in range(1, hidden + 1) if gcd(channels, hidden) % n == 0]
    near = [max(n for n in divisors if n < groups), *[n for n in divisors if n > groups][:1]]
    return (
        f"groups must divide the channels and the hidden width, but got groups={groups}, channels={channels}, "
        f"hidden width {hidden}; the nearest that work: groups={' or '.join(map(str, near))}."
    )


def _gam_misfit(channels: int, options: Options) -> str | None:
    return _misfit_reduction(channels, options) or _misfit_groups(channels, options)


def _cbam_idle(options: Options) -> frozenset[str]:
    idle = {"channel": ("order", "kernel_size", "spatial_norm"), "spatial": ("order", "reduction")}
    return frozenset(idle.get(str(options["branches"]), ()))


def _gam_idle(options: Options) -> frozenset[str]:
    if options["branches"] == "channel":
        return frozenset({"kernel_size", "groups", "padding_mode"})
    idle = {"channel_gate"} if options["branches"] == "spatial" else set()
    return frozenset(idle | ({"padding_mode"} if options["kernel_size"] == 1 else set()))


def _triple_idle(options: Options) -> frozenset[str]:
    parts = _parts(options)
    idle = set() if "element" in parts else {"hidden", "softmax", "aux_weight"}
    return frozenset(idle if "channel" in parts else idle | {"reduction"})


def _parts(options: Options) -> list[str]:
    return str(options["parts"]).split("+")


def _se_parameters(channels: int, options: Options, context: Context) -> int:
    hidden = _hidden(channels, options)
    return 2 * channels * hidden + (hidden + channels if options.get("bias", True) else 0)


def _se_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    return 2 * channels * _hidden(channels, options)


def _cbam_parameters(channels: int, options: Options, context: Context) -> int:
    gate = 0 if options["branches"] == "spatial" else _se_parameters(channels, options, context)
    if options["branches"] == "channel":
        return gate
    return gate + 2 * _int(options, "kernel_size") ** 2 + (2 if options["spatial_norm"] else 0)


def _cbam_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    gate = 0 if options["branches"] == "spatial" else 4 * channels * _hidden(channels, options)
    if options["branches"] == "channel":
        return gate
    return gate + 2 * _int(options, "kernel_size") ** 2 * height * width


def _gam_weights(channels: int, options: Options) -> tuple[int, int]:
    """Return the weights of the channel branch and of the spatial branch's convolutions."""
    pair = 2 * channels * _hidden(channels, options)
    mlp = 0 if options["branches"] == "spatial" else pair
    if options["branches"] == "channel":
        return mlp, 0
    return mlp, pair * _int(options, "kernel_size") ** 2 // _int(options, "groups")


def _gam_parameters(channels: int, options: Options, context: Context) -> int:
    mlp, convolutions = _gam_weights(channels, options)
    width = _hidden(channels, options) + channels
    return mlp + (width if mlp else 0) + convolutions + (3 * width if convolutions else 0)


def _gam_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    return sum(_gam_weights(channels, options)) * height * width


def _triple_weights(channels: int, options: Options, context: Context) -> int:
    """Return the convolution weights of the element part, which all act at every pixel."""
    hidden, classes = _int(options, "hidden"), context.num_classes
    return hidden * (channels + 9 * hidden + classes) + 2 * channels * classes


def _triple_parameters(channels: int, options: Options, context: Context) -> int:
    parts = _parts(options)
    total = _se_parameters(channels, options, context) if "channel" in parts else 0
    if "element" in parts:
        classes = context.num_classes * (2 if options["softmax"] == "channel" else 1)
        total += _triple_weights(channels, options, context) + 2 * _int(options, "hidden") + classes + channels
    return total + (3 if "scale" in parts else 0)


def _triple_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    parts = _parts(options)
    gate = _se_macs(channels, height, width, options, context) if "channel" in parts else 0
    return gate + (_triple_weights(channels, options, context) * height * width if "element" in parts else 0)


def _table(*entries: Entry) -> Mapping[str, Entry]:
    """Return the entries by name, read-only."""
    table = {entry.name: entry for entry in entries}
    assert len(table) == len(entries), f"names must be unique, but got {[entry.name for entry in entries]}"
    return MappingProxyType(table)


_REDUCTION = Option("reduction", 16, "int", "Channels over the hidden width of the bottleneck.", low=1)
_KERNEL = Option("kernel_size", 7, "int", "Kernel of the spatial convolutions.", low=1, high=63, odd=True)
_BRANCHES = ("both", "channel", "spatial")
_PARTS = tuple("+".join(words) for count in (3, 2, 1) for words in combinations(("channel", "element", "scale"), count))

ATTENTIONS: Mapping[str, Entry] = _table(
    Entry(
        name="se",
        cls="nas_attn.attention.channel:SE",
        summary="Gates each channel by a bottleneck over the channels' means.",
        source="Hu et al., CVPR 2018, arXiv:1709.01507",
        kinds=SHAPE_KEEPING,
        options=(
            _REDUCTION,
            Option("bias", True, "bool", "Whether the bottleneck has biases."),
            Option("min_hidden", 1, "int", "Floor of the hidden width.", low=1),
        ),
        n_parameters=_se_parameters,
        n_macs=_se_macs,
        fits=_misfit_reduction,
    ),
    Entry(
        name="cbam",
        cls="nas_attn.attention.mixed:CBAM",
        summary="Gates the channels, then the pixels, each by their means and maxima.",
        source="Woo et al., ECCV 2018, arXiv:1807.06521",
        kinds=SHAPE_KEEPING,
        options=(
            _REDUCTION,
            _KERNEL,
            Option(
                "order",
                "channel_first",
                "str",
                "Which gate acts first.",
                choices=("channel_first", "spatial_first", "parallel"),
            ),
            Option("branches", "both", "str", "Which gates there are.", choices=_BRANCHES),
            Option("gate", "sigmoid", "str", "What squashes both gates.", choices=("sigmoid", "hard_sigmoid")),
            Option("spatial_norm", True, "bool", "Whether a batch norm follows the spatial convolution."),
        ),
        n_parameters=_cbam_parameters,
        n_macs=_cbam_macs,
        fits=_misfit_reduction,
        idle=_cbam_idle,
    ),
    Entry(
        name="gam",
        cls="nas_attn.attention.mixed:GAM",
        summary="Gates every element by a bottleneck over its channels, then by two large convolutions; no pooling.",
        source="Liu et al., 2021, arXiv:2112.05561",
        kinds=SHAPE_KEEPING,
        options=(
            _REDUCTION,
            _KERNEL,
            Option("groups", 1, "int", "Groups of both spatial convolutions; above 1 with a channel shuffle.", low=1),
            Option("branches", "both", "str", "Which gates there are.", choices=_BRANCHES),
            Option("padding_mode", "zeros", "str", "What lies outside the map.", choices=("zeros", "replicate")),
            Option("channel_gate", False, "bool", "Whether a sigmoid squashes the channel branch."),
        ),
        n_parameters=_gam_parameters,
        n_macs=_gam_macs,
        fits=_gam_misfit,
        idle=_gam_idle,
    ),
    Entry(
        name="triple",
        cls="nas_attn.attention.triple:Triple",
        summary="Gates channels, adds what each class attends to, gates by scale; trains on auxiliary logits.",
        source="Wang et al. (A3Net), Medical Image Analysis 67, 2021, doi:10.1016/j.media.2020.101846",
        kinds=SHAPE_KEEPING,
        options=(
            Option("parts", _PARTS[0], "str", "Which of the three parts there are.", choices=_PARTS),
            _REDUCTION,
            Option(
                "hidden", None, "int", "Width of the class attention; auto is min(512, channels).", low=1, optional=True
            ),
            Option("softmax", "spatial", "str", "Axis of the class attention.", choices=("spatial", "channel")),
            Option("aux_weight", 0.1, "float", "Weight of the auxiliary loss.", low=0.0, high=100.0),
        ),
        n_parameters=_triple_parameters,
        n_macs=_triple_macs,
        fits=_misfit_reduction,
        idle=_triple_idle,
        auto={"hidden": lambda channels: min(512, channels)},
        smallest_map=2,
        auxiliary=True,
        needs_context=True,
    ),
)
