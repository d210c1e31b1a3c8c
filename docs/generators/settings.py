"""The page of settings, from the models that check them, and the page of commands, from the command line itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from generators.markdown import block, code, plain, table, toml
from nas_attn.cli.commands import command_line
from nas_attn.config import settings, table_model
from nas_attn.config.groups import GROUPS
from nas_attn.data.catalog import DATA
from nas_attn.run.tables import RECORDS
from nas_attn.space.file import Limits, SiteRule, SpaceFile
from nas_attn.validation import Field, fields_of

TABLES: Mapping[str, type[BaseModel]] = {
    "[[sites]]": SiteRule,
    "[limits]": Limits,
    "[data]": table_model("data"),
    "[recipe]": table_model("recipe"),
}
"""The tables of a space file, beside `[backbone]` and `[attentions.NAME]`, whose keys the catalogues state."""


def pages() -> dict[str, str]:
    """Return the pages by their paths."""
    return {"settings.md": _settings(), "commands.md": _commands()}


def _settings() -> str:
    """Return the page of every setting: those of a run, then those of a space file."""
    parts = [
        "# Space files and settings",
        "A setting comes from the command line, otherwise from the space file, otherwise from the defaults on this "
        "page. Python and space files write an option without its dashes and with underscores: `--batch-size 64` is "
        "`batch_size=64` in a call of `search`, and `batch_size = 64` in `[recipe]`.",
        "## Settings of a run",
    ]
    for group in GROUPS:
        found = [field for field in settings() if field.setting is not None and field.setting.group == group]
        rows = [(code(field.option), plain(field.help), _values(field), _default(field)) for field in found]
        parts += [f"### {group}", table(("option", "meaning", "values", "default"), rows)]
    for name, records in RECORDS.items():
        parts += [f"### Names of {name}s", _records(records)]
    parts += [
        "### Data sources",
        table(("source", "images"), [(code(DATA[name].form), plain(DATA[name].summary)) for name in DATA.own]),
        "## A space file",
        "A space file is TOML. `nas-attn schema space` prints its JSON schema, for editors: save it as "
        "`space.schema.json` and begin the file with `#:schema ./space.schema.json`.",
        _keys(SpaceFile),
        "`[backbone]` has the options of the [network](networks/index.md), or `import` beside those of your own; and "
        "`replace`, `weights` and `download` ([Your network](network.md)). `[attentions.NAME]` has the options of the "
        "[attention](attentions/index.md), each a value or a list of values.",
    ]
    for heading, model in TABLES.items():
        parts += [f"### {heading}", _keys(model)]
    return "\n\n".join(parts)


def _keys(model: type[BaseModel]) -> str:
    """Return the keys of a table of a space file."""
    rows = [(code(field.key), plain(field.help), _values(field)) for field in fields_of(model)]
    return table(("key", "meaning", "values"), rows)


def _records(records: Mapping[str, Any]) -> str:
    return table(("name", "meaning"), [(code(name), plain(record.about)) for name, record in records.items()])


def _values(field: Field) -> str:
    """Return in words what values a field takes."""
    if field.name in RECORDS:
        return ", ".join(RECORDS[field.name])
    if field.choices:
        return ", ".join(map(str, field.choices))
    return field.rule or _type(field.annotation)


def _type(annotation: Any) -> str:
    """Return a type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _type(arguments[0])
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    if origin is tuple and get_origin(arguments[0]) is Literal:
        return "a list of these"
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return f"a list of {_type(arguments[0]).removeprefix('a ')}s"
    if origin is tuple:
        return f"{len(arguments)} numbers"
    if arguments and origin is not dict:
        return " or ".join(_type(argument) for argument in arguments if argument is not type(None))
    is_table = origin is dict or annotation is dict
    is_table = is_table or (isinstance(annotation, type) and issubclass(annotation, BaseModel))
    return "a table" if is_table else "a word" if annotation is str else "a number"


def _default(field: Field) -> str:
    """Return the default of a setting, or in words what holds without one."""
    unset = field.setting.unset if field.setting else None
    if field.default is None or field.default == ():
        return unset or ""
    return code(toml(field.default))


def _commands() -> str:
    """Return the page of every command with its arguments and options."""
    parts = [
        "# Commands",
        "`nas-attn` and `python -m nas_attn` are the same; `python run_search.py` is `nas-attn search`, in a clone.",
        block("nas-attn --help\nnas-attn search --help", "sh"),
    ]
    for name, command in command_line().commands.items():
        arguments = [_usage(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
        parts += [f"## nas-attn {name}", " ".join((command.help or "").split())]
        parts.append(block(" ".join(["nas-attn", name, *arguments, "[OPTIONS]"])))
        shown = [parameter for parameter in command.params if parameter.name != "help"]
        parts.append("Its options are the [settings](settings.md)." if name == "search" else _options(shown))
    return "\n\n".join(parts)


def _options(parameters: Sequence[Any]) -> str:
    """Return a table of arguments and options."""
    return table(("", "meaning", "default"), list(_option_rows(parameters)))


def _option_rows(parameters: Iterable[Any]) -> Iterator[tuple[str, str, str]]:
    for parameter in parameters:
        words = _usage(parameter)
        if parameter.param_type_name == "option":
            words = ", ".join([*parameter.opts, *parameter.secondary_opts])
            words += "" if parameter.is_flag else f" {parameter.metavar}"
        yield code(words), plain(" ".join((parameter.help or "").split())), _shown(parameter)


def _usage(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _shown(parameter: Any) -> str:
    """Return an option's default as its help shows it."""
    shown = getattr(parameter, "show_default", None)
    if isinstance(shown, str):
        return shown
    default = parameter.default
    return code(default) if default not in (None, False) and not callable(default) else ""
