"""The page of settings, from the models that check them, and the page of commands, from the command line itself."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from generators.markdown import block, code, table, toml
from nas_attn import config
from nas_attn.cli.commands import app
from nas_attn.config import Strict
from nas_attn.space.file import SpaceFile

SIGNS = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))
TITLES = {
    "DataConfig": "Data",
    "Recipe": "Training",
    "Budget": "Budget",
    "Engine": "Search engine",
    "Resources": "Resources",
}


def pages() -> dict[str, str]:
    """Return the pages by their paths."""
    return {"settings.md": _settings(), "commands.md": _commands()}


def _settings() -> str:
    """Return the page of every setting: those of a run, then those of a space file."""
    options = {parameter.name: parameter for parameter in _command("search").params}
    parts = [
        "# Space files and settings",
        "A setting comes from the command line, else from the space file, else from the defaults on this page. In "
        'Python, `search` takes the same settings by the same names. "auto" stands for no value: it is found at the '
        "start of the run.",
        "## Settings of a run",
    ]
    for model in _run_models():
        parts += [f"### {TITLES.get(model.__name__, model.__name__)}", *_about(model), _fields(model, options)]
    shown = {field for model in _run_models() for field in _names(model, options)}
    rest = [option for name, option in options.items() if name not in shown and name != "help"]
    parts += ["### The rest", "Options of `nas-attn search` that are no part of these groups.", _options(rest)]
    parts += [
        "## A space file",
        "A space file is TOML. `nas-attn schema space` prints its JSON schema, for editors: save it as "
        "`space.schema.json` and begin the file with `#:schema ./space.schema.json`.",
        _fields(SpaceFile, {}),
    ]
    for name, model in _tables(SpaceFile):
        parts += [f"### {name}", *_about(model), _fields(model, {})]
    return "\n\n".join(parts)


def _commands() -> str:
    """Return the page of every command with its arguments and options."""
    parts = [
        "# Commands",
        "`nas-attn` and `python -m nas_attn` are the same; `python run_search.py` is `nas-attn search`, in a clone.",
        block("nas-attn --help\nnas-attn search --help", "sh"),
    ]
    for name in _group().commands:
        command = _command(name)
        words = [_usage(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
        parts += [f"## nas-attn {name}", " ".join((command.help or "").split())]
        parts.append(block(" ".join(["nas-attn", name, *words, "[OPTIONS]"])))
        if name == "search":
            parts.append("Its options are the [settings](settings.md).")
        else:
            parts.append(_options([parameter for parameter in command.params if parameter.name not in ("help",)]))
    return "\n\n".join(parts)


def _run_models() -> list[type[Strict]]:
    """Return the models of a run's settings: the strict records of `nas_attn.config`, in its order."""
    found = [value for value in vars(config).values() if isinstance(value, type) and issubclass(value, Strict)]
    return [model for model in found if model is not Strict and model.__module__ == config.__name__]


def _about(model: type[BaseModel]) -> list[str]:
    """Return the first line of a model's docstring."""
    return [(model.__doc__ or "").strip().splitlines()[0]]


def _fields(model: type[BaseModel], options: Mapping[str, Any]) -> str:
    """Return a table of a model's fields; with the command line's options, their flags too."""
    headers = ["setting", "values", "default", "meaning"]
    rows = []
    for name, field in model.model_fields.items():
        option = options.get(_name_of(model, name, options))
        about = field.description or (option.help if option is not None else "") or ""
        row = [code(name), _values(field), _default(field), " ".join(about.split())]
        rows.append([*row, code(", ".join([*option.opts, *option.secondary_opts])) if option is not None else ""])
    if not options:
        return table(headers, [row[:-1] for row in rows])
    return table([*headers, "option"], rows)


def _names(model: type[BaseModel], options: Mapping[str, Any]) -> Iterator[str]:
    for name in model.model_fields:
        yield _name_of(model, name, options)


def _name_of(model: type[BaseModel], field: str, options: Mapping[str, Any]) -> str:
    """Return the command line's name of a field: in `DataConfig`, words that would clash have "data" beside them."""
    if model.__name__ != "DataConfig":
        return field
    words = {"name": "data", "root": "data_root", "strict": "strict_data", "seed": ""}
    return words.get(field, field)


def _tables(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the tables inside a space file, as a file writes their headings."""
    for name, field in model.model_fields.items():
        for inner in _models_in(field.annotation):
            yield (f"[[{name}]]" if "tuple" in str(field.annotation) else f"[{name}]"), inner


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _values(field: FieldInfo) -> str:
    """Return in words what values a field takes: its type, its choices, its bounds."""
    bounds = [
        f"{words} {_number(getattr(rule, sign))}"
        for rule in _rules(field.annotation, field.metadata)
        for sign, words in SIGNS
        if getattr(rule, sign, None) is not None
    ]
    return ", ".join([_type(field.annotation), *dict.fromkeys(bounds)])


def _number(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def _rules(annotation: Any, metadata: list[Any]) -> list[Any]:
    """Return the rules of a field, also those inside an `Annotated` or a union."""
    rules = list(metadata)
    for argument in get_args(annotation):
        inner = getattr(argument, "__metadata__", ())
        for rule in inner:
            rules += rule.metadata if isinstance(rule, FieldInfo) else [rule]
        rules += _rules(argument, [])
    return rules


def _type(annotation: Any) -> str:
    """Return a type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _type(arguments[0])
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments if argument is not type(None))
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return f"list of {_type(arguments[0])}s"
    if origin is tuple:
        return f"{len(arguments)} numbers"
    if origin is dict or annotation is dict:
        return "table"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return {bool: "true or false", int: "whole number", float: "number", str: "word"}.get(annotation, "value")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None or default in ({}, ()) or isinstance(default, BaseModel):
        return "auto" if default is None else ""
    return code(toml(default))


def _group() -> Any:
    return typer.main.get_command(app)


def _command(name: str) -> Any:
    return _group().commands[name]


def _options(parameters: list[Any]) -> str:
    """Return a table of arguments and options."""
    rows = []
    for parameter in parameters:
        is_option = parameter.param_type_name == "option"
        words = ", ".join([*parameter.opts, *parameter.secondary_opts]) if is_option else _usage(parameter)
        metavar = parameter.metavar or "" if is_option and not getattr(parameter, "is_flag", False) else ""
        rows.append((code(f"{words} {metavar}".strip()), " ".join((parameter.help or "").split()), _shown(parameter)))
    return table(("", "meaning", "default"), rows) if rows else ""


def _usage(parameter: Any) -> str:
    return parameter.metavar or parameter.name.upper()


def _shown(parameter: Any) -> str:
    """Return an option's default as its help shows it."""
    shown = getattr(parameter, "show_default", None)
    if isinstance(shown, str):
        return shown
    default = parameter.default
    return code(default) if default not in (None, False) and not callable(default) else ""
