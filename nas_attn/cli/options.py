"""The options of the command line: made from the settings, or one by one; each refusal is one sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from nas_attn.errors import ConfigError, nearest

if TYPE_CHECKING:
    from nas_attn.validation import Field

Parsed = TypeVar("Parsed")


def settings_signature(fields: Iterable[Field] | None = None, *beside: inspect.Parameter) -> inspect.Signature:
    """Return the signature of a command with settings as options, for typer.

    Args:
        fields: The settings; None takes all.
        beside: Further parameters of the command, by keyword only.
    """
    from nas_attn.config import settings

    parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for field in settings() if fields is None else fields:
        annotation, default = _annotation(field)
        parameter = inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )
        parameters.append(parameter)
    return inspect.Signature([*parameters, *beside], return_annotation=int)


def whole(option: str, low: int, high: int, *, help: str, default: str | bool = True) -> Any:
    """Return an option whose value is a whole number from `low` to `high`."""

    def parse(stated: str) -> int:
        try:
            number = int(stated)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ConfigError(f"'{option}' must be a whole number from {low:,} to {high:,}, but got {stated}.")
        return number

    return _with_value(option, parse, "N", help, default)


def text(option: str, metavar: str, *, help: str, default: str | bool = True, panel: str | None = None) -> Any:
    """Return an option whose value is any text that is not empty."""
    return _with_value(option, lambda stated: _not_empty(option, stated), metavar, help, default, panel)


def switch(option: str, *, help: str) -> Any:
    """Return an option without a value."""
    return typer.Option(option, help=help, show_default=False)


def _annotation(field: Field) -> tuple[Any, Any]:
    """Return the annotation of a setting for typer, and its default."""
    assert field.setting is not None, f"{field.key} is no setting"
    panel, shown = field.setting.group, field.setting.unset or True
    if field.annotation is bool:
        off = "/--no-" + field.option.removeprefix("--") if field.setting.table is not None else ""
        option = typer.Option(
            field.option + off, rich_help_panel=panel, help=field.help, show_default=field.setting.unset or bool(off)
        )
        return Annotated[bool, option], field.default
    choices = _choices(field)
    option = _with_value(
        field.option, _parser(field, choices), _metavar(field, choices), _help(field), shown, panel, choices
    )
    if field.default == ():
        return Annotated[list[str] | None, option], None
    kind = str if field.setting.metavar else field.annotation
    kind = type(choices[0]) if choices else kind
    return Annotated[kind | None, option], field.default


def _choices(field: Field) -> tuple[Any, ...]:
    """Return the allowed values of a setting: those of its type, or the names in its table; else empty."""
    from nas_attn.run.tables import RECORDS  # on use, like the settings: the list of commands needs neither

    return field.choices or tuple(RECORDS.get(field.name, {}))


def _help(field: Field) -> str:
    """Return the description of a setting, with the description of each name in its table."""
    from nas_attn.data.catalog import data_forms
    from nas_attn.run.tables import RECORDS

    if field.name == "data":
        return f"{field.help} Sources: {', '.join(data_forms())}."
    records = RECORDS.get(field.name, {})
    return " ".join([field.help, *(f"{name}: {record.about}" for name, record in records.items())])


def _metavar(field: Field, choices: Sequence[Any]) -> str:
    assert field.setting is not None, f"{field.key} is no setting"
    if choices:
        return "|".join(map(str, choices))
    return field.setting.metavar or ("N" if field.annotation is int else "X")


def _parser(field: Field, choices: Sequence[Any]) -> Callable[[str], Any]:
    """Return the parser of a setting's value on the command line; it refuses a bad value in one sentence."""

    from nas_attn.run.tables import OPEN

    def parse(stated: str) -> Any:
        if choices and not (field.name in OPEN and ":" in stated):
            return _one_of(field.option, choices, stated)
        if field.name == "split":
            from nas_attn.config import read_shares

            return read_shares(stated, field.option)
        if field.annotation in (int, float):
            return stated if stated in field.words else _number(field, stated)
        return _not_empty(field.option, stated)

    return parse


def _one_of(option: str, choices: Sequence[Any], stated: str) -> Any:
    for known in choices:
        if stated == str(known):
            return known
    close = nearest(stated, map(str, choices))
    hint = f": did you mean '{close}'?" if close else "."
    raise ConfigError(f"'{option}' must be one of {', '.join(map(str, choices))}, but got '{stated}'{hint}")


def _number(field: Field, stated: str) -> float:
    try:
        number: float = field.annotation(stated)
    except ValueError:
        number = float("nan")
    if not field.allows(number):
        raise ConfigError(f"'{field.option}' must be {field.rule}, but got {stated}.")
    return number


def _not_empty(option: str, stated: str) -> str:
    if not stated.strip():
        raise ConfigError(f"'{option}' must not be empty, but got '{stated}'.")
    return stated


def _with_value(
    option: str,
    parse: Callable[[str], Parsed],
    metavar: str,
    help: str,
    default: str | bool,
    panel: str | None = None,
    choices: Sequence[Any] = (),
) -> Any:
    """Return typer's definition of an option with a value."""

    def once(stated: str | Parsed) -> Parsed | str:
        return parse(stated) if isinstance(stated, str) else stated  # typer also parses the default

    def complete(start: str) -> list[str]:
        return [str(choice) for choice in choices if str(choice).startswith(start)]

    return typer.Option(
        option,
        parser=once,
        metavar=metavar,
        rich_help_panel=panel,
        help=help,
        show_default=default,
        autocompletion=complete if choices else None,
    )
