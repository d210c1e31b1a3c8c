"""What an attention's docstring says beyond its record, read from the source of its class: no torch is loaded."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nas_attn.attention.entry import Entry

_SECTION = re.compile(r"(?P<name>[A-Z][a-z]+): (?P<text>.*)")


def departures(entry: Entry) -> str | None:
    """Return how an attention departs from its source, in one line, or None if its class does not say it.

    >>> from nas_attn.attention.catalog import ATTENTIONS
    >>> departures(ATTENTIONS["daf"])
    'none.'
    """
    lines: list[str] = []
    inside = False
    for line in _documented(entry.cls).splitlines():
        section = _SECTION.match(line)
        if section:
            inside = section["name"] == "Departs"
            lines += [section["text"]] if inside else []
        elif not line.strip():
            inside = False
        elif inside:
            lines.append(line.strip())
    return " ".join(lines) or None


def _documented(cls: str | type[Any]) -> str:
    """Return the docstring of a class, or an empty string if there is none."""
    return _read(cls) if isinstance(cls, str) else inspect.getdoc(cls) or ""


@cache
def _read(place: str) -> str:
    """Return the docstring of `module:name` from the module's source."""
    module, _, name = place.partition(":")
    try:
        found = find_spec(module)
        source = Path(found.origin).read_text(encoding="utf-8") if found and found.origin else ""
        nodes = ast.parse(source).body
    except (ImportError, OSError, ValueError, SyntaxError):  # a plug-in may be of any kind
        return ""
    classes = (node for node in nodes if isinstance(node, ast.ClassDef) and node.name == name)
    return next((ast.get_docstring(node) or "" for node in classes), "")
