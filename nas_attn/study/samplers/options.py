"""Options of samplers and schedulers, `key=value`, with the types of the parameters of their classes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from nas_attn.errors import ConfigError, unknown

NOT_OPTIONS = frozenset({"self", "seed"})
"""Parameters of a sampler's class that are no options: the seed is that of the run."""

_PLAIN = ("bool", "int", "float", "str", "None")
"""The types that can be written on the command line, in the order in which they are tried."""

_RULES = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "text", "None": "none"}

_WORDS = {"true": True, "false": False, "none": None}


def known_options(made: Callable[..., Any]) -> dict[str, tuple[str, ...]]:
    """Return the options of a class, each with the types that its value may have.

    Parameters whose values cannot be written as one word, such as functions, are none.

    >>> def make(n_startup_trials: int = 10, gamma: Callable[[int], int] | None = None, seed: int | None = None): ...
    >>> known_options(make)
    {'n_startup_trials': ('int',)}
    """
    found = {}
    for name, parameter in inspect.signature(made).parameters.items():
        kinds = _kinds(parameter)
        if (
            name not in NOT_OPTIONS
            and kinds != ("None",)
            and kinds
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        ):
            found[name] = kinds
    return found


def read_options(
    stated: tuple[str, ...], known: Mapping[str, tuple[str, ...]], what: str, option: str
) -> dict[str, Any]:
    """Return options as values by name.

    Args:
        stated: Each `key=value`; the last one of a key counts.
        what, option: Name of what has the options, and of the setting, for messages.
    Raises: ConfigError, in one sentence.
    """
    found = {}
    for each in stated:
        key, equals, text = (part.strip() for part in each.partition("="))
        if not key or not equals:
            raise ConfigError(f"'{option}' must be KEY=VALUE, but got '{each}'.")
        if key not in known:
            raise ConfigError(unknown("option", key, known, what))
        found[key] = _value(key, text, known[key], what)
    return found


def _kinds(parameter: inspect.Parameter) -> tuple[str, ...]:
    """Return the plain types of a parameter: those of its annotation, or else that of its default."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        kind = type(parameter.default).__name__ if parameter.default is not parameter.empty else ""
        return (kind,) if kind in _PLAIN else ()
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    words = re.findall(r"'([^']*)'|\"([^\"]*)\"", text) if "Literal[" in text else []
    if words:
        return tuple(f"={one or other}" for one, other in words)
    parts = [part.strip() for part in re.sub(r"\[[^\[\]]*\]", "", re.sub(r"\[[^\[\]]*\]", "", text)).split("|")]
    return tuple(kind for kind in _PLAIN if kind in parts)


def _value(key: str, text: str, kinds: tuple[str, ...], what: str) -> Any:
    """Return a value as the first of the types that it can have. Raises: ConfigError."""
    for kind in kinds:
        if kind == f"={text}":
            return text
        if kind in ("bool", "None") and isinstance(
            _WORDS.get(text.lower(), ""), bool if kind == "bool" else type(None)
        ):
            return _WORDS[text.lower()]
        if kind in ("int", "float"):
            try:
                return int(text) if kind == "int" else float(text)
            except ValueError:
                continue
        if kind == "str" and text:
            return text
    rule = " or ".join(_RULES.get(kind, kind.removeprefix("=")) for kind in kinds)
    raise ConfigError(f"Option '{key}' of {what} must be {rule}, but got '{text}'.")
