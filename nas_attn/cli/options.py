"""The kinds of value that an option of the command line takes; a refusal is one sentence with the law and the value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import typer

from nas_attn.errors import ConfigError, nearest

Parsed = TypeVar("Parsed")


def whole(flag: str, low: int, high: int, *, panel: str, help: str, default: str | bool = True) -> Any:
    """Return an option that takes a whole number from `low` to `high`."""

    def parse(word: str) -> int:
        try:
            number = int(word)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ConfigError(f"'{flag}' must be a whole number from {low:,} to {high:,}, but got {word}.")
        return number

    return _option(flag, parse, "N", panel, help, default)


def real(
    flag: str,
    low: float,
    high: float,
    *,
    panel: str,
    help: str,
    default: str | bool = True,
    above: bool = False,
    below: bool = False,
) -> Any:
    """Return an option that takes a number from `low` to `high`; `above` and `below` leave the ends out."""
    law = f"{'above' if above else 'from'} {low:g} {'and below' if below else 'to'} {high:g}"

    def parse(word: str) -> float:
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        inside = (low < number if above else low <= number) and (number < high if below else number <= high)
        if not inside:
            raise ConfigError(f"'{flag}' must be a number {law}, but got {word}.")
        return number

    return _option(flag, parse, "X", panel, help, default)


def one_of(
    flag: str,
    words: Sequence[str],
    *,
    panel: str,
    help: str,
    default: str | bool = True,
    convert: Callable[[str], Any] = str,
) -> Any:
    """Return an option that takes one of `words`, and gives it through `convert`."""

    def parse(word: str) -> Any:
        if word not in words:
            close = nearest(word, words)
            hint = f": did you mean '{close}'?" if close else "."
            raise ConfigError(f"'{flag}' must be one of {', '.join(words)}, but got '{word}'{hint}")
        return convert(word)

    def complete(begun: str) -> list[str]:
        return [word for word in words if word.startswith(begun)]

    return _option(flag, parse, "|".join(words), panel, help, default, complete)


def shares(flag: str, *, panel: str, help: str, default: str) -> Any:
    """Return an option that takes three shares in percent, such as `10/20/70`, and gives them as fractions."""

    def parse(word: str) -> tuple[float, float, float]:
        from nas_attn.config import read_shares  # on use: it loads pydantic, which the help does not need

        return read_shares(word, flag)

    return _option(flag, parse, "N/N/N", panel, help, default)


def text(flag: str, metavar: str, *, panel: str, help: str, default: str | bool = True) -> Any:
    """Return an option that takes any word, such as a name or a path; an empty one is refused."""

    def parse(word: str) -> str:
        if not word.strip():
            raise ConfigError(f"'{flag}' must not be empty, but got '{word}'.")
        return word

    return _option(flag, parse, metavar, panel, help, default)


def switch(flags: str, *, panel: str, help: str) -> Any:
    """Return an option that takes no value; `flags` is `--on` or `--on/--off`."""
    return typer.Option(flags, rich_help_panel=panel, help=help, show_default="/" in flags)


def _option(
    flag: str,
    parse: Callable[[str], Parsed],
    metavar: str,
    panel: str,
    help: str,
    default: str | bool,
    complete: Callable[[str], list[str]] | None = None,
) -> Any:
    """Return typer's record of one option with a value."""

    def once(word: str | Parsed) -> Parsed | str:
        return parse(word) if isinstance(word, str) else word  # typer parses a default too

    return typer.Option(
        flag,
        parser=once,
        metavar=metavar,
        rich_help_panel=panel,
        help=help,
        show_default=default,
        autocompletion=complete,
    )
