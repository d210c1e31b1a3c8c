"""The environment of the report's templates: where they lie, their rules, and the filters that all of them have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nas_attn.report import words


def environment(filters: Mapping[str, Callable[..., Any]], **options: Any) -> Environment:
    """Return an environment of the templates beside this file; an unknown name in a template is an error.

    Args:
        filters: Those of these templates, beside the common ones.
        options: Further options of jinja2's environment.
    """
    found = Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    found.filters |= {
        "minus": words.minus,
        "quoted": words.quoted,
        "short": words.short,
        "duration": words.duration,
        "milliseconds": words.milliseconds,
        "listed": words.listed,
        "runs": words.runs_of,
        **filters,
    }
    return found
