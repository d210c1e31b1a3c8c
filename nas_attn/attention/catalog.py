"""The table of attention modules: facts only, complete at import, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from itertools import combinations
from math import isfinite
from types import MappingProxyType
from typing import Any

from nas_attn.attention import closed_forms as forms
from nas_attn.attention.entry import Context, Entry, Option, Options
from nas_attn.errors import SpaceError, nearest, unknown
from nas_attn.placement import Site, Value

__all__ = [
    "ATTENTIONS",
    "Context",
    "Entry",
    "Option",
    "Options",
    "attention_entry",
    "check_options",
    "load_class",
    "require_fit",
    "resolve_options",
    "why_not",
]

SHAPE_KEEPING = ("output", "pre", "branch", "shortcut", "hidden")


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


def require_fit(name: str, channels: int, **options: Value) -> None:
    """Refuse options that are unknown, out of range, or that cannot hold at these channels.

    Raises: SpaceError, in one sentence with the nearest that works.
    """
    entry = attention_entry(name)
    check_options(entry, options, "")
    if channels < 1:
        raise SpaceError(f"channels >= 1 must hold for attention '{name}', but got channels={channels}.")
    misfit = entry.fits(channels, _active(entry, options))
    if misfit:
        raise SpaceError(f"Attention '{name}' does not fit {channels} channels: {misfit}")


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
    if forms.whole(options, "reduction") > channels:
        return options
    hidden = forms.hidden_width(channels, options)
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
            Option("min_hidden", 1, "int", "Floor of the hidden width.", low=1, high=4096),
        ),
        n_parameters=forms.se_parameters,
        n_macs=forms.se_macs,
        fits=forms.misfit_reduction,
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
        n_parameters=forms.cbam_parameters,
        n_macs=forms.cbam_macs,
        fits=forms.misfit_reduction,
        idle=forms.cbam_idle,
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
        n_parameters=forms.gam_parameters,
        n_macs=forms.gam_macs,
        fits=forms.gam_misfit,
        idle=forms.gam_idle,
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
                "hidden",
                None,
                "int",
                "Width of the class attention; auto is min(512, channels).",
                low=1,
                high=4096,
                optional=True,
            ),
            Option("softmax", "spatial", "str", "Axis of the class attention.", choices=("spatial", "channel")),
            Option("aux_weight", 0.1, "float", "Weight of the auxiliary loss.", low=0.0, high=100.0),
        ),
        n_parameters=forms.triple_parameters,
        n_macs=forms.triple_macs,
        fits=forms.misfit_reduction,
        idle=forms.triple_idle,
        auto={"hidden": lambda channels: min(512, channels)},
        smallest_map=2,
        auxiliary=True,
        needs_context=True,
    ),
)
