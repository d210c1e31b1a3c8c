"""Validates and resolves the options of an attention, and decides whether they fit a site; no torch."""

from __future__ import annotations

from math import isfinite

from nas_attn.attention.catalog import attention_entry
from nas_attn.attention.entry import Context, Entry, Option, Options
from nas_attn.attention.forms.widths import hidden_width, whole
from nas_attn.errors import SpaceError, nearest, placed, unknown
from nas_attn.placement import Site, Value

NO_CONTEXT = Context()


def context_at(site: Site, num_classes: int = 1) -> Context:
    """Return the context of an attention at a site."""
    return Context(num_classes, site.height, site.width, site.replaced)


def check_options(entry: Entry, options: Options, where: str) -> None:
    """Check names, types and ranges; `why_not` checks what depends on the channels.

    Raises: SpaceError that names the option, the rule, the value, and the nearest known name.
    """
    known = {option.name: option for option in entry.options}
    for name, value in options.items():
        if name not in known:
            raise SpaceError(unknown(f"option of '{entry.name}'", name, known, where))
        rule = _broken_rule(known[name], value)
        if rule:
            raise SpaceError(f"Option '{name}' of '{entry.name}'{placed(where)} must be {rule}, but got {value!r}.")


def resolve_options(entry: Entry, channels: int, options: Options, context: Context = NO_CONTEXT) -> dict[str, Value]:
    """Fill in defaults, replace None by its value at these channels, and write equal models in one way.

    Options without effect are dropped. A kernel that the map cannot fill becomes the smallest that does the same.
    Reductions with the same hidden width become one value: the power of two among
    them if there is one, otherwise the largest. Options that do not fit (see `why_not`) keep their value.

    >>> resolve_options(attention_entry("cbam"), 24, {"reduction": 20, "branches": "channel"})
    {'reduction': 16, 'branches': 'channel', 'gate': 'sigmoid'}
    """
    active = _active(entry, channels, options)
    resolved = {name: _resolved(entry, channels, context, name, value) for name, value in active.items()}
    resolved |= entry.effective(channels, resolved, context)
    implied = {option.name: option.default for option in entry.options if option.implied}
    resolved = {name: value for name, value in resolved.items() if name not in implied or value != implied[name]}
    return _canonical_width(entry, channels, resolved) if "reduction" in resolved else resolved


def why_not(entry: Entry, site: Site, options: Options) -> str | None:
    """Return why this attention does not fit this site, with the nearest values that do, or None if it fits.

    Args:
        options: Valid by `check_options`; options left out have their defaults.
    """
    place = f"Attention '{entry.name}' does not fit site '{site.name}'"
    if site.kind not in entry.kinds:
        return f"{place}: a site of kind '{site.kind}' is not among its kinds ({', '.join(entry.kinds)})."
    active = _active(entry, site.channels, options)
    if min(site.height, site.width) < entry.smallest_map and not entry.on_pixels(active):
        size = entry.smallest_map
        return f"{place}: the map must be at least {size}x{size}, but is {site.height}x{site.width}."
    misfit = entry.fits(site.channels, active, context_at(site))
    return f"{place}: {misfit}" if misfit else None


def require_fit(name: str, channels: int, /, *, context: Context | None = None, **options: Value) -> None:
    """Refuse options that are unknown, out of range, or do not fit these channels.

    Raises: SpaceError, in one sentence with the nearest value that fits.
    """
    entry = attention_entry(name)
    check_options(entry, options, "")
    if channels < 1:
        raise SpaceError(f"channels >= 1 must hold for attention '{name}', but got channels={channels}.")
    misfit = entry.fits(channels, _active(entry, channels, options), context or NO_CONTEXT)
    if misfit:
        raise SpaceError(f"Attention '{name}' does not fit {channels} channels: {misfit}")


def _active(entry: Entry, channels: int, options: Options) -> dict[str, Value]:
    """Return the options, completed by defaults, without those that have no effect."""
    complete = {option.name: options.get(option.name, option.default) for option in entry.options}
    idle = entry.idle(channels, complete)
    return {name: value for name, value in complete.items() if name not in idle}


def _resolved(entry: Entry, channels: int, context: Context, name: str, value: Value) -> Value:
    """Replace None or "auto" by its value, and a number of a `float` option by a float."""
    if name in entry.auto and value in (None, "auto"):
        return entry.auto[name](channels, context)
    if value == "auto" and any(option.name == name and option.optional for option in entry.options):
        return None
    is_float = any(option.name == name and option.type == "float" for option in entry.options)
    return float(value) + 0.0 if is_float and isinstance(value, int | float) else value  # -0.0 becomes 0.0


def _canonical_width(entry: Entry, channels: int, options: dict[str, Value]) -> dict[str, Value]:
    """Write the width max(min_hidden, channels // reduction) in one way; an unused minimum becomes the default or 1."""
    if whole(options, "reduction") > channels and options.get("min_hidden", 1) == 1:
        return options
    hidden = hidden_width(channels, options)
    largest = channels // hidden
    if largest == 0 or channels // largest != hidden:  # no reduction has this width: it comes from `min_hidden`
        return options | {"reduction": largest + 1}
    power = 1 << (largest.bit_length() - 1)
    reduction = power if channels // power == hidden else largest
    written = options | {"reduction": reduction}
    if "min_hidden" in written:
        least = next(option.default for option in entry.options if option.name == "min_hidden")
        if isinstance(least, int) and least <= hidden:
            del written["min_hidden"]
        else:
            written["min_hidden"] = 1
    return written


def _broken_rule(option: Option, value: Value) -> str | None:
    """Return the rule that `value` breaks, with the nearest allowed word, or None."""
    if option.optional and (value is None or value == "auto"):
        return None
    if option.choices:
        return _broken_choice(option, value)
    check = {"int": _broken_number, "float": _broken_number, "bool": _broken_bool}[option.type]
    rule = check(option, value)
    return f"{rule} or auto" if rule and option.optional else rule


def _broken_bool(option: Option, value: Value) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _broken_choice(option: Option, value: Value) -> str | None:
    if any(value == choice and type(value) is type(choice) for choice in option.choices):
        return None
    words = [str(choice) for choice in option.choices]
    close = nearest(value, words) if isinstance(value, str) else None
    return f"one of {', '.join(words)}" + (f" (did you mean '{close}'?)" if close else "")


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
