"""The space file: its location, its keys, and the checks of their values."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from nas_attn.attention.catalog import attention_entry
from nas_attn.attention.options import check_options
from nas_attn.backbones.catalog import check_backbone
from nas_attn.config import MaxMacs, MaxParams, Table, table_model
from nas_attn.errors import SpaceError, nearest, unknown
from nas_attn.placement import Value
from nas_attn.space.patterns import position_of
from nas_attn.validation import KeyPath, Strict, validate

Wiring = Literal["gate", "residual", "concat", "addend", "concat_three"]
Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]

TABLES: Mapping[Table, type[Strict]] = {"data": table_model("data"), "recipe": table_model("recipe")}
"""The tables of a space file that state settings."""


class SiteRule(Strict):
    """One `[[sites]]` table: patterns of sites and the attentions to choose from.

    It has either `match` or `one_of`. `none` is always a choice.
    """

    match: Names | None = Field(
        default=None,
        description="Patterns of site names: '*' stays within a dot, '**' crosses dots. Shorthands: 'last', "
        "'every block', 'every block.branch' (or another kind of site), 'conv3x3', 'before_conv', each also after a "
        "stage, as in 'stage3.last' or 'stage*.last'. 'stage3.*' matches all sites of that stage. 'stem', 'stem.pool' "
        "and 'features' are the ends of every network; a '*' matches them only beside their word, as in 'stem*'.",
    )
    one_of: Annotated[tuple[str, ...], Field(strict=False, min_length=2)] | None = Field(
        default=None,
        description="In place of `match`: one pattern for each position in a block, e.g. 'every block.pre' and "
        "'every block.branch'. Each block gets the attention at one of them, and the search chooses which one. An arm "
        "'everywhere' uses the first.",
    )
    attentions: Names = Field(description="Attentions to choose from; 'none' is always a choice.")
    share: Literal["site", "stage", "all"] = Field(
        default="site",
        description="One decision per site (with `one_of`, per block), per stage, or for all matched sites.",
    )
    wiring: Wiring | Annotated[tuple[Wiring, ...], Field(strict=False, min_length=1)] = Field(
        default="gate",
        description="gate: A(x). residual: x + A(x). concat: conv1x1([x, A(x)]). At a block's shortcut, addend: "
        "shortcut + A(shortcut) + branch, and concat_three: conv1x1([branch, shortcut, A(shortcut)]). A list is "
        "searched.",
    )
    start: Literal["own", "identity"] = Field(
        default="own",
        description="own: as the attention's authors initialise it. identity: x + g * (A(x) - x) with a learned g that "
        "starts at 0, so that the network initially computes the same as without attention.",
    )

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns of `match` or `one_of`."""
        return self.match or self.one_of or ()

    @property
    def wirings(self) -> tuple[str, ...]:
        """The wirings to choose from, or the one that is stated."""
        return (self.wiring,) if isinstance(self.wiring, str) else self.wiring

    @property
    def positions(self) -> tuple[str, ...]:
        """The names of the positions of `one_of`: the last parts of the patterns if these differ, else the patterns."""
        names = tuple(position_of(pattern) for pattern in self.one_of or ())
        return names if len(set(names)) == len(names) else self.one_of or ()


class Limits(Strict):
    """Limits on the cost of a network; a placement over a limit is not trained in the search."""

    max_params: MaxParams = None
    max_macs: MaxMacs = None

    def tightened(self, max_params: int | None, max_macs: int | None) -> Limits:
        """Return the smaller limit of each kind."""
        pairs = ((self.max_params, max_params), (self.max_macs, max_macs))
        smaller = [min((limit for limit in pair if limit is not None), default=None) for pair in pairs]
        return Limits(max_params=smaller[0], max_macs=smaller[1])


class SpaceFile(Strict):
    """A search space: a backbone, its sites, and the choices at each site."""

    title: Annotated[str, Field(min_length=1)] = Field(description="Short description of the space.")
    backbone: str | dict[str, Any] | None = Field(
        default=None,
        description="A backbone's name, or a table with its name and options. Leave it out for a network of your own.",
    )
    sites: Annotated[tuple[SiteRule, ...], Field(strict=False, min_length=1)] = Field(
        description="Which sites may get attention, and which attentions."
    )
    attentions: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Values to search, by attention and option. A single value is fixed; an option that is left out "
        'keeps its default; "auto" stands for None.',
    )
    limits: Limits = Limits()
    data: dict[str, Any] = Field(
        default_factory=dict, description="Data settings for this space; the command line overrides them."
    )
    recipe: dict[str, Any] = Field(
        default_factory=dict, description="Training settings for this space; the command line overrides them."
    )


def read_space(record: Mapping[str, Any], where: str) -> SpaceFile:
    """Return the content of a space file, with every check that does not need the backbone's sites.

    Raises: SpaceError, in one sentence: the file, the place in it, the rule, the value, the nearest valid name.
    """
    _check_wirings(record.get("sites"), where)
    space = validate(SpaceFile, record, where, SpaceError, key_and_place)
    tables: dict[str, Any] = {name: _read_table(name, getattr(space, name), where) for name in TABLES}
    backbone = None if space.backbone is None else check_backbone(space.backbone, f"[backbone] of {where}")
    for number, rule in enumerate(space.sites, 1):
        _check_patterns(rule, place_of_rule(number, where))
        _check_attentions(rule, place_of_rule(number, where))
    used = {name for rule in space.sites for name in rule.attentions}
    attentions: dict[str, dict[str, Any]] = {}
    for name, options in space.attentions.items():
        place = f"[attentions.{name}] of {where}"
        attention_entry(name, place)
        if name not in used:
            raise SpaceError(
                f"Attention '{name}' in {place} has options, but no [[sites]] table lists it in `attentions`: "
                "add it there, or remove its options."
            )
        attentions[name] = {option: _checked_values(name, option, stated, place) for option, stated in options.items()}
    return space.model_copy(update={"backbone": backbone, "attentions": attentions, **tables})


def place_of_rule(number: int, where: str) -> str:
    """Return the name of the `number`-th `[[sites]]` table in messages, counted from 1."""
    return f"[[sites]] {number} of {where}"


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file. Raises: SpaceError that names the file and the faulty line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        reason = str(error)
        raise SpaceError(f"{shown(path)} must be TOML, but is not: {reason[0].lower()}{reason[1:]}.") from None
    except UnicodeDecodeError as error:
        raise SpaceError(f"{shown(path)} must be UTF-8 text, but byte {error.start} is not.") from None
    except OSError as error:
        raise SpaceError(f"{shown(path)} cannot be read: {error.strerror}.") from None


def available_spaces() -> dict[str, Path]:
    """Return the shipped spaces by name: those installed with the package, otherwise those of the checkout."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "search_spaces", here.parent / "search_spaces"):
        spaces = {path.stem: path for path in sorted(folder.glob("*.toml"))}
        if spaces:
            return spaces
    return {}


def find_space(name_or_path: str | Path) -> Path:
    """Return the path of a shipped space by its name, or `name_or_path` itself.

    Raises: SpaceError that names the nearest space, or the nearest file in that folder.
    """
    spaces = available_spaces()
    name, path = str(name_or_path), Path(name_or_path)
    if name in spaces:
        return spaces[name]
    if path.is_file():
        return path
    if path.is_dir():
        raise SpaceError(f"A space is a TOML file, but '{name}' is a folder: name one of its files.")
    siblings = {str(other): other for other in path.parent.glob("*.toml")} if len(path.parts) > 1 else {}
    if path.suffix == ".toml" and not path.parent.is_dir():
        raise SpaceError(f"A space file must exist, but there is no folder '{path.parent}' for '{name}'.")
    raise SpaceError(unknown("space", name, {**spaces, **siblings}))


def shown(path: Path) -> str:
    """Return a path for messages: relative to the working directory if it is inside."""
    full = path.resolve()
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(path)


def key_and_place(path: KeyPath, where: str) -> tuple[str, str]:
    """Return the faulty key, and the name of its table in messages."""
    if len(path) > 1 and path[0] == "sites" and isinstance(path[1], int):
        return ".".join(str(part) for part in path[2:3]) or "sites", place_of_rule(path[1] + 1, where)
    tables = [str(part) for part in path if not isinstance(part, int)]
    return tables[-1], f"[{'.'.join(tables[:-1])}] of {where}" if len(tables) > 1 else where


def _check_wirings(rules: object, where: str) -> None:
    """Refuse an unknown wiring, and an empty list: of a type with two forms, pydantic's message names neither."""
    stated = [rule.get("wiring", "gate") if isinstance(rule, Mapping) else "gate" for rule in _listed(rules)]
    for number, wiring in enumerate(stated, 1):
        key, words = f"'wiring' in {place_of_rule(number, where)}", _listed(wiring) or [wiring]
        if wiring in ([], ()):
            raise SpaceError(f"{key} must have at least one value, but its list is empty.")
        wrong = [word for word in words if word not in get_args(Wiring)]
        if wrong:
            close = nearest(wrong[0], get_args(Wiring)) if isinstance(wrong[0], str) else None
            hint = f": did you mean {close!r}?" if close else "."
            raise SpaceError(f"{key} must be one of {', '.join(get_args(Wiring))}, but got {wrong[0]!r}{hint}")


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _check_patterns(rule: SiteRule, place: str) -> None:
    """Refuse a table with both keys or neither, and a position that is listed twice."""
    if (rule.match is None) == (rule.one_of is None):
        found = "neither" if rule.match is None else "both"
        raise SpaceError(f"{place} must have either 'match' or 'one_of', but it has {found}.")
    _refuse_doubles("one_of", rule.one_of or (), place)
    _refuse_doubles("wiring", rule.wirings, place)


def _check_attentions(rule: SiteRule, place: str) -> None:
    """Refuse a name that is unknown or listed twice."""
    for name in rule.attentions:
        if name == "none":
            raise SpaceError(f"'none' is always a choice: leave it out of `attentions` in {place}.")
        attention_entry(name, place)
    _refuse_doubles("attentions", rule.attentions, place)


def _checked_values(name: str, option: str, stated: object, place: str) -> tuple[Value, ...]:
    """Return the values of one option. Raises: SpaceError for an invalid value."""
    values: list[Value] = []
    for value in stated if isinstance(stated, list | tuple) else [stated]:
        if not isinstance(value, int | float | bool | str | None):
            raise SpaceError(f"Option '{option}' in {place} must be one value or a list of values, but got {value!r}.")
        values.append("auto" if value is None else value)
        check_options(attention_entry(name), {option: values[-1]}, place)
    if not values:
        raise SpaceError(f"Option '{option}' in {place} must have at least one value, but its list is empty.")
    _refuse_doubles(option, values, place)
    return tuple(values)


def _refuse_doubles(key: str, values: Sequence[Value], place: str) -> None:
    doubles = [value for index, value in enumerate(values) if value in values[:index]]
    if doubles:
        raise SpaceError(f"'{key}' in {place} must not list a value twice, but lists {doubles[0]!r} twice.")


def _read_table(table: Table, stated: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the settings in a table of the file."""
    return validate(TABLES[table], stated, f"[{table}] of {where}", SpaceError).model_dump(exclude_none=True)
