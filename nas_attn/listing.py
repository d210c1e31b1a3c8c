"""What `nas-attn spaces` and `nas-attn schema` print."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas_attn.errors import ConfigError, unknown
from nas_attn.space import SearchSpace, available_spaces, space_schema

SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = {"space": space_schema}


def print_spaces() -> None:
    """Print the spaces that `--space` takes by name: how many placements, and from how many parameters to how many.

    Raises: SpaceError if a file of them is broken.
    """
    spaces = [SearchSpace.load(name) for name in sorted(available_spaces())]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("space", no_wrap=True)
    table.add_column("what it is")
    table.add_column("backbone", no_wrap=True)
    table.add_column("placements", justify="right", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    for space in spaces:
        table.add_row(*map(Text, _row(space)))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a pipe gets one line for each space
    console.print(table)
    if spaces:
        sites = spaces[0].bound.table
        shape = f"{sites.num_classes} classes and {sites.in_channels} channels"
        console.print(f"\nParameters: of the cheapest and the dearest network within the space's limits, for {shape}.")
    console.print("Search one with: nas-attn search --space NAME")


def print_schema(record: str) -> None:
    """Print the JSON schema of one kind of file. Raises: ConfigError that names the nearest kind."""
    if record not in SCHEMAS:
        raise ConfigError(unknown("schema", record, SCHEMAS))
    print(json.dumps(SCHEMAS[record](), indent=2, ensure_ascii=False))


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
    """Return a count as people read it: in full below a billion, else as a power of ten."""
    return f"{number:,}" if number < 10**9 else f"{number:.1e}".replace("e+", " x 10^").replace("^0", "^")
