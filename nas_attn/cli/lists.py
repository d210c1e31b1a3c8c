"""The output of `nas-attn spaces`, `nas-attn attentions`, `nas-attn published` and `nas-attn schema`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas_attn.attention.catalog import ATTENTIONS, attention_entry
from nas_attn.attention.departures import departures
from nas_attn.attention.entry import SHAPE_KEEPING, Context, Entry, Option
from nas_attn.attention.options import resolve_options
from nas_attn.config import DataConfig
from nas_attn.errors import ConfigError, unknown
from nas_attn.placement import Value
from nas_attn.run.default_shape import at_default_shape
from nas_attn.space.file import available_spaces
from nas_attn.space.fit import Cost, entry_cost
from nas_attn.space.published import Published, available_published, load_published
from nas_attn.space.schema import space_schema
from nas_attn.space.search_space import SearchSpace

CHANNELS, CONTEXT = 64, Context(num_classes=10, height=14, width=14)
"""The input at which the lists count the cost of an attention."""

WIDE = 160
"""Columns of a terminal from which on a list shows all facts of an attention."""

SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = {"space": space_schema}


def print_spaces() -> None:
    """Print the shipped spaces with their number of placements and their range of parameters, for their default data.

    Raises: SpaceError if one of their files is invalid.
    """
    spaces = [at_default_shape(SearchSpace.load(name)) for name in sorted(available_spaces())]
    table = _table()
    table.add_column("space", no_wrap=True)
    table.add_column("description")
    table.add_column("backbone", no_wrap=True)
    table.add_column("placements", justify="right", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    for space in spaces:
        table.add_row(*map(Text, _row(space)))
    console = console_of(200)
    console.print(table)
    usual = DataConfig().name
    console.print(
        f"\nPlacements: the distinct ones, as --dry-run counts them, on {usual} or the data that the space names, "
        "enlarged where the backbone needs it. Other data have other maps, on which other options may coincide."
    )
    console.print("Parameters: of the cheapest and the dearest network within the space's limits.")
    console.print("Search one with: nas-attn search --space NAME")


def print_attentions(*, as_json: bool = False) -> None:
    """Print the attentions that a space can use, and the installed ones that cannot be loaded with the reason."""
    if as_json:
        print(json.dumps([_attention(entry) for entry in ATTENTIONS.loadable()], indent=2, ensure_ascii=False))
        return
    console = console_of(600)
    is_wide = console.width >= WIDE
    table = _table()
    table.add_column("attention", no_wrap=True)
    table.add_column("description")
    if is_wide:
        table.add_column("options")
        table.add_column("kinds of site", no_wrap=True)
    table.add_column(f"parameters, C={CHANNELS}" if is_wide else "parameters", justify="right", no_wrap=True)
    if is_wide:
        table.add_column("source")
    for entry in ATTENTIONS.loadable():
        table.add_row(*map(Text, _row_of(entry) if is_wide else (entry.name, entry.summary, _parameters(entry))))
    console.print(table)
    if is_wide:
        keeping = f"shape-keeping: {', '.join(SHAPE_KEEPING)}. "
        console.print(f"\n{keeping}Parameters: with the options shown, for 10 classes.")
    else:
        console.print(f"\nParameters: with default options, at {CHANNELS} channels, for 10 classes.")
        console.print(f"Options, kinds of site and sources: in a terminal of {WIDE} columns, or one in full as below.")
    for problem in ATTENTIONS.problems().values():
        console.print(Text(f"Not available: {problem}"))
    console.print("Show one in full with: nas-attn attentions NAME")


def print_attention(name: str, *, as_json: bool = False) -> None:
    """Print one attention in full. Raises: SpaceError that names the nearest one."""
    entry = attention_entry(name)
    if as_json:
        print(json.dumps([_attention(entry)], indent=2, ensure_ascii=False))
        return
    console = console_of(120)
    _print_facts(console, f"{entry.name}: {entry.summary}", _facts(entry))
    if entry.options:
        options = _table(title="\nOptions", title_justify="left", title_style="bold")
        for column in ("option", "default", "values", "description"):
            options.add_column(column)
        for option in entry.options:
            options.add_row(*map(Text, (option.name, _shown(option.default), value_range(option), option.about)))
        console.print(options)


def print_publications(*, as_json: bool = False) -> None:
    """Print the published networks. Raises: SpaceError if one of their files is invalid."""
    networks = [load_published(name) for name in available_published()]
    if as_json:
        print(json.dumps([_publication(network) for network in networks], indent=2, ensure_ascii=False))
        return
    table = _table()
    table.add_column("network", no_wrap=True)
    table.add_column("backbone", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("published", justify="right", no_wrap=True)
    table.add_column("description")
    table.add_column("departs")
    for network in networks:
        published = "" if network.published_parameters is None else f"{network.published_parameters:,}"
        row = (network.name, network.backbone["name"], f"{network.n_parameters:,}", published, network.title)
        table.add_row(*map(Text, (*row, network.departs or "")))
    console = console_of(500)
    console.print(table)
    console.print(
        "\nParameters: trainable ones, as built here; published: as in the paper or its authors' code, where known; "
        "departs: how it differs from its source, or the source's code from its text."
    )
    console.print("Show one in full with: nas-attn published NAME")


def print_publication(name: str, *, as_json: bool = False) -> None:
    """Print one published network in full. Raises: SpaceError that names the nearest one."""
    network = load_published(name)
    if as_json:
        print(json.dumps([_publication(network)], indent=2, ensure_ascii=False))
        return
    console = console_of(120)
    _print_facts(console, f"{network.name}: {network.title}", _published_facts(network))
    placed = _table(title="\nPlacement", title_justify="left", title_style="bold")
    placed.add_column("attention", no_wrap=True)
    placed.add_column("sites")
    for patterns, attention in network.sites:
        placed.add_row(Text(str(attention)), Text(", ".join(patterns)))
    console.print(placed)


def print_schema(record: str) -> None:
    """Print the JSON schema of one kind of file. Raises: ConfigError that names the nearest kind."""
    if record not in SCHEMAS:
        raise ConfigError(unknown("schema", record, SCHEMAS))
    print(json.dumps(SCHEMAS[record](), indent=2, ensure_ascii=False))


def _print_facts(console: Console, title: str, facts: Sequence[tuple[str, str]]) -> None:
    """Print a title, and below it a table of names and values."""
    console.print(Text(title), soft_wrap=True)
    table = _table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in facts:
        table.add_row(Text(name), Text(value))
    console.print(table)


def _row_of(entry: Entry) -> tuple[str, ...]:
    """Return the cells of one attention in a wide list."""
    options = ", ".join(f"{option.name}={_shown(option.default)}" for option in entry.options)
    others = [kind for kind in entry.kinds if kind not in SHAPE_KEEPING]
    kinds = ", ".join(["shape-keeping", *others] if entry.keeps_shape else others)
    return entry.name, entry.summary, options, kinds, _parameters(entry), entry.source


def _parameters(entry: Entry) -> str:
    """Return the parameters of an attention with its default options."""
    cost = _cost(entry)
    return "does not fit" if cost is None else f"{cost.n_parameters:,}"


def _attention(entry: Entry) -> dict[str, Any]:
    """Return an attention as `--json` lists it; the cost is that of its defaults in the lists."""
    cost = _cost(entry)
    return {
        "name": entry.name,
        "summary": entry.summary,
        "formula": entry.formula,
        "source": entry.source,
        "departs": departures(entry),
        "kinds": list(entry.kinds),
        "smallest_map": entry.smallest_map,
        "options": [
            {
                "name": option.name,
                "type": option.type,
                "default": option.default,
                "values": value_range(option),
                "about": option.about,
            }
            for option in entry.options
        ],
        "exceptions": dict(entry.exceptions),
        "parameters": None if cost is None else cost.n_parameters,
        "macs": None if cost is None else cost.n_macs,
        "measured_with": {
            "channels": CHANNELS,
            "height": CONTEXT.height,
            "width": CONTEXT.width,
            "classes": CONTEXT.num_classes,
        },
    }


def _publication(network: Published) -> dict[str, Any]:
    """Return a published network as `--json` lists it."""
    return {
        "name": network.name,
        "backbone": network.backbone["name"],
        "parameters": network.n_parameters,
        "published_parameters": network.published_parameters,
        "source": network.source,
        "note": network.note,
        "departs": network.departs,
    }


def _published_facts(network: Published) -> list[tuple[str, str]]:
    """Return the facts about a published network by name, without its title."""
    cost, size = network.cost(), network.image_size
    options = [f"{key}={value}" for key, value in network.backbone.items() if key != "name"]
    facts = [
        ("source", network.source),
        ("backbone", f"{network.backbone['name']} ({', '.join(options)})" if options else network.backbone["name"]),
        ("input", f"{network.in_channels} channels, {size}x{size}, {network.table.output}"),
        ("cost", f"{cost.n_parameters:,} parameters, {cost.n_macs:,} multiply-adds"),
    ]
    if network.published_parameters is not None:
        facts.append(("published", f"{network.published_parameters:,} parameters"))
    for name, text in (("departs", network.departs), ("note", network.note)):
        if text is not None:
            facts.append((name, text))
    return facts


def _row(space: SearchSpace) -> tuple[str, str, str, str, str]:
    """Return the cells of one space."""
    low, high = space.bound.parameter_range()
    high = min(high, space.limits.max_params or high)
    return (
        space.name,
        space.title,
        str(space.backbone["name"]),
        _count(space.bound.n_placements),
        f"{low:,} to {high:,}",
    )


def _count(number: int) -> str:
    """Return a count as text: in full below a billion, otherwise with a power of ten."""
    return f"{number:,}" if number < 10**9 else f"{number:.1e}".replace("e+", " x 10^").replace("^0", "^")


def _table(**style: Any) -> Table:
    return Table(box=None, pad_edge=False, **({"header_style": "bold"} | style))


def console_of(pipe_width: int) -> Console:
    """Return a console; in a pipe it is wide enough for one row per line."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = pipe_width
    return console


def _facts(entry: Entry) -> list[tuple[str, str]]:
    """Return the facts about an attention by name, without its options."""
    cost = _cost(entry)
    facts = [
        ("formula", entry.formula),
        ("source", entry.source),
        ("departs", departures(entry) or "nothing is stated"),
        ("kinds of site", ", ".join(entry.kinds)),
        ("smallest map", f"{entry.smallest_map}x{entry.smallest_map}"),
        ("class", entry.cls if isinstance(entry.cls, str) else f"{entry.cls.__module__}:{entry.cls.__qualname__}"),
    ]
    if cost is not None:
        size = f"{CHANNELS} channels, {CONTEXT.height}x{CONTEXT.width}"
        facts.append(("cost", f"{cost.n_parameters:,} parameters, {cost.n_macs:,} multiply-adds ({size}, defaults)"))
    notes = {
        "computes auxiliary logits for the training loss": entry.auxiliary,
        "initially computes the same as the network without it": entry.identity_start,
        "equals the plain network: choosing it places nothing": entry.neutral,
    }
    true = [note for note, holds in notes.items() if holds]
    facts += [("notes", "; ".join(true))] if true else []
    return facts + [(f"no {check.replace('_', ' ')}", reason) for check, reason in entry.exceptions.items()]


def _cost(entry: Entry) -> Cost | None:
    """Return the cost of an attention with its defaults, or None if they do not fit the number of channels."""
    if entry.fits(CHANNELS, {option.name: option.default for option in entry.options}, CONTEXT):
        return None
    return entry_cost(entry, CHANNELS, resolve_options(entry, CHANNELS, {}, CONTEXT), CONTEXT)


def value_range(option: Option) -> str:
    """Return the values of an option as text."""
    if option.type == "bool":
        return "true, false"
    if option.choices:
        values = ", ".join(map(str, option.choices))
    else:
        noun = "odd " if option.odd else "whole " if option.type == "int" else ""
        low = "" if option.low is None else f"{option.low:g}"
        values = f"{noun}{low} to {option.high:g}" if option.high is not None else f"{noun}from {low}"
    return f"{values}, auto" if option.optional else values


def _shown(value: Value) -> str:
    """Return a value as it is written in a space file."""
    return "auto" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
