"""Tables, code blocks and docstrings as Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_SECTION = re.compile(r"(?P<name>Source|Departs|Args|Shape|Units|Cost|Raises):\s*(?P<text>.*)")


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a vertical bar in a cell is escaped."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def block(code: str, language: str = "text") -> str:
    """Return a fenced code block."""
    return f"```{language}\n{code.rstrip()}\n```"


def code(text: object) -> str:
    """Return a word in code style, or nothing for an empty one."""
    return f"`{text}`" if str(text) else ""


def plain(text: str) -> str:
    """Return a sentence with nothing in it that Markdown would take for emphasis; code in backticks stays."""
    parts = text.split("`")
    parts[::2] = [part.replace("*", "\\*").replace("_", "\\_").replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def value(stored: Any) -> str:
    """Return a value as a space file writes it."""
    if stored is None:
        return "auto"
    return str(stored).lower() if isinstance(stored, bool) else str(stored)


def toml(stored: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(stored, list | tuple):
        return "[" + ", ".join(toml(one) for one in stored) + "]"
    return f'"{value(stored)}"' if isinstance(stored, str) or stored is None else value(stored)


def sections(documented: Any) -> dict[str, str]:
    """Return the named paragraphs of a docstring (`Source`, `Departs`, ...), each in one line of Markdown."""
    found: dict[str, list[str]] = {}
    name = None
    for line in (inspect.getdoc(documented) or "").splitlines():
        match = _SECTION.match(line)
        if match:
            name = match["name"]
            found[name] = [match["text"]]
        elif not line.strip():
            name = None
        elif name is not None:
            found[name].append(line.strip())
    return {name: plain(" ".join(part for part in parts if part)) for name, parts in found.items()}


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def options_table(options: Sequence[Any], values: Callable[[Any], str]) -> str:
    """Return the table of a record's options; `values` describes the values of one."""
    if not options:
        return "It has none."
    rows = [(code(option.name), code(value(option.default)), values(option), plain(option.about)) for option in options]
    return table(("option", "default", "values", "meaning"), rows)
