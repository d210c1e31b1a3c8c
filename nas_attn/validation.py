"""Strict records, their fields as settings, and the one sentence for a refused value."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from nas_attn.errors import ConfigError, Refused, nearest, unknown

Model = TypeVar("Model", bound=BaseModel)
KeyPath = tuple[int | str, ...]
"""Path of a value inside a record: keys and list positions, the outermost first."""


class Strict(BaseModel):
    """An immutable record that refuses unknown keys and wrong types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class Setting:
    """The presentation of a field as a setting, in addition to its type, bounds, default and description.

    Args:
        group: Heading in the help text and the documentation.
        name: Name of the setting if it differs from the field's; the option is the name with dashes.
        table: Table of a space file that can state it, or None.
        unset: Description of the default None.
        metavar: Placeholder of the value in the help text; None derives it from the type.
        formerly: The value that describes runs from before the setting existed, if it is not the default.
    """

    group: str
    name: str | None = None
    table: Literal["recipe", "data"] | None = None
    unset: str | None = None
    metavar: str | None = None
    formerly: Any = None


@dataclass(frozen=True)
class Field:
    """A field of a record.

    Args:
        key: Name of the field in the record.
        info: Definition of the field.
        setting: Presentation as a setting; None for a field that is not a setting.
    """

    model: type[BaseModel]
    key: str
    info: FieldInfo
    setting: Setting | None

    @property
    def name(self) -> str:
        """Name of the setting."""
        return (self.setting.name if self.setting else None) or self.key

    @property
    def option(self) -> str:
        """Option of the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def help(self) -> str:
        """Description."""
        return self.info.description or ""

    @property
    def default(self) -> Any:
        """Default value."""
        return self.info.get_default()

    @property
    def annotation(self) -> Any:
        """Type without None, and without the words that may stand for a number."""
        kinds = [
            kind for kind in _alternatives(self.info.annotation) if not self.words or get_origin(kind) is not Literal
        ]
        return _plain(kinds[0]) if len(kinds) == 1 else self.info.annotation

    @property
    def words(self) -> tuple[str, ...]:
        """The words that may stand for a number, e.g. `auto`; empty for a field of another type."""
        kinds = _alternatives(self.info.annotation)
        if not any(_plain(kind) in (int, float) for kind in kinds):
            return ()
        return tuple(word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind))

    @property
    def choices(self) -> tuple[Any, ...]:
        """The allowed values of a field with an enumeration; otherwise empty."""
        return get_args(self.annotation) if get_origin(self.annotation) is Literal else ()

    @property
    def rule(self) -> str | None:
        """The rule for a value, as the end of a sentence "... must be"; None if pydantic's message is used.

        >>> [field.rule for field in fields_of(type("R", (Strict,), {"__annotations__": {"n": int, "on": bool}}))]
        ['a whole number', 'true or false']
        """
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        if self.annotation is bool:
            return "true or false"
        if self.annotation in (int, float):
            words = "".join(f", or {word}" for word in self.words)
            return f"a {'whole ' if self.annotation is int else ''}number{self._range()}{words}"
        return None

    def allows(self, value: float) -> bool:
        """Return whether a number is within the bounds; nan is not."""
        checks: dict[type, Callable[[Any], bool]] = {
            Ge: lambda bound: value >= bound.ge,
            Gt: lambda bound: value > bound.gt,
            Le: lambda bound: value <= bound.le,
            Lt: lambda bound: value < bound.lt,
        }
        return value == value and all(checks[type(bound)](bound) for bound in self._bounds())

    def _range(self) -> str:
        """Return the bounds as text with a leading space."""
        ends = {type(bound): bound for bound in self._bounds()}
        low = f" from {_shown(ends[Ge].ge)}" if Ge in ends else f" above {_shown(ends[Gt].gt)}" if Gt in ends else ""
        high = f" to {_shown(ends[Le].le)}" if Le in ends else f" and below {_shown(ends[Lt].lt)}" if Lt in ends else ""
        return low + high

    def _bounds(self) -> Iterator[Any]:
        inner = [part for kind in _alternatives(self.info.annotation) for part in getattr(kind, "__metadata__", ())]
        rules = [rule for info in inner if isinstance(info, FieldInfo) for rule in info.metadata]
        return (rule for rule in (*self.info.metadata, *rules) if isinstance(rule, Ge | Gt | Le | Lt))


def fields_of(model: type[BaseModel]) -> tuple[Field, ...]:
    """Return the fields of a record, in their order."""
    return tuple(_field(model, key) for key in model.model_fields)


def validate(
    model: type[Model],
    values: Mapping[str, Any],
    where: str,
    error: type[Refused] = ConfigError,
    locate: Callable[[KeyPath, str], tuple[str, str]] | None = None,
) -> Model:
    """Return `values` as a checked record.

    Args:
        where: Name of the source of the values in messages.
        locate: Returns the faulty key and the place of its table, from its path and `where`.
    Raises: `error`, in one sentence: the place, the rule, the value, and the nearest valid name for an unknown one.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as failure:
        raise error(_sentence(model, failure, where, locate or _dotted)) from None


def _must_be(label: str, rule: str, got: object, choices: Sequence[object] = ()) -> str:
    """Return the sentence for a value that breaks a rule, with the nearest valid value."""
    close = nearest(got, map(str, choices)) if isinstance(got, str) else None
    shown = got if isinstance(got, str) and not choices else repr(got)
    return f"{label} must be {rule}, but got {shown}{f': did you mean {close!r}?' if close else '.'}"


def _sentence(
    model: type[BaseModel], failure: ValidationError, where: str, locate: Callable[[KeyPath, str], tuple[str, str]]
) -> str:
    """Return the sentence for the first error; an unknown key goes first, since it may cause the others."""
    errors = failure.errors(include_url=False)
    error = next((found for found in errors if found["type"] == "extra_forbidden"), errors[0])
    path, got = _to_field(model, error), error["input"]
    key, place = locate(path, where)
    table = _model_at(model, path[:-1])
    if error["type"] == "extra_forbidden":
        return unknown("key", key, table.model_fields, place)
    if error["type"] == "missing" and isinstance(path[-1], int):  # a list that is too short
        key, place = locate(path[:-1], where)
        return f"'{key}' in {place} must have at least {path[-1] + 1} values, but got {got!r}."
    if error["type"] == "missing":
        return f"Key '{key}' is missing in {place}."
    if error["type"] == "tuple_type" and _holds_records(table, path[-1]):
        return f"'{key}' in {place} must be a list of tables: write [[{key}]], with two brackets."
    if error["type"] == "tuple_type":
        return f"'{key}' in {place} must be a list, but got {got!r}: write {key} = [{got!r}]."
    field = _field(table, str(path[-1])) if path[-1] in table.model_fields else None
    if field is not None and field.rule is not None:
        return _must_be(f"'{key}' in {place}", field.rule, got if field.choices else repr(got), field.choices)
    rule = error["msg"][0].lower() + error["msg"][1:]
    return f"'{key}' in {place} is refused: {rule}, but got {got!r}."


def _to_field(model: type[BaseModel], error: Any) -> KeyPath:
    """Return the path of an error up to its field, without pydantic's names for the types of a union."""
    path: KeyPath = error["loc"]
    if error["type"] in ("extra_forbidden", "missing"):
        return path
    while len(path) > 1 and isinstance(path[-1], str) and path[-1] not in _model_at(model, path[:-1]).model_fields:
        path = path[:-1]
    return path


def _shown(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def _dotted(path: KeyPath, where: str) -> tuple[str, str]:
    return ".".join(map(str, path)) or "the record", where


def _field(model: type[BaseModel], key: str) -> Field:
    info = model.model_fields[key]
    return Field(model, key, info, next((rule for rule in info.metadata if isinstance(rule, Setting)), None))


def _model_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel]:
    """Return the record at a path inside `model`."""
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return model


def _holds_records(model: type[BaseModel], key: int | str) -> bool:
    return key in model.model_fields and _model_in(model.model_fields[str(key)].annotation) is not None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the record type inside an annotation such as `tuple[SiteRule, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_model_in(argument) for argument in get_args(annotation))
    return next((found for found in inner if found), None)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union without None; a type that is no union is the only one."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return tuple(kind for kind in kinds if kind is not type(None))


def _plain(annotation: Any) -> Any:
    """Return `X` for `Annotated[X, ...]`."""
    return get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
