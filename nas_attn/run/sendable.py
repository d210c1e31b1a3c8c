"""Whether a user's objects can be sent to workers, and which variable prevents it."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

from nas_attn.errors import ConfigError, in_one_line
from nas_attn.executors.catalog import EXECUTORS
from nas_attn.user_code.source_code import closure_of, defaults_of, names_in_code

_DEEPEST = 6


def refuse_unsendable(what: str, source: Any, executor: str, fix: str) -> None:
    """Refuse what cannot be pickled for the workers of an executor.

    Args:
        what: What it is, for the sentence, such as `The training`.
        fix: What to do, without a full stop.
    Raises: ConfigError that names the variable.
    """
    reason = _reason(source, executor)
    if reason is not None:
        found = _culprit(source, executor)
        named = f"{', in '.join(reversed(found))}: " if found else ""
        raise ConfigError(
            f"{what} must be pickled for the workers of executor '{executor}', but cannot be ({named}{reason[:200]}): "
            f"{fix}, or use executor='local'."
        )


def _reason(source: Any, executor: str) -> str | None:
    """Return why an object cannot be sent, or None if it can."""
    try:
        EXECUTORS[executor].send(source)
    except Exception as error:  # pickling runs code of the user, which may raise anything
        return in_one_line(error)
    return None


def _culprit(source: Any, executor: str) -> list[str]:
    """Return the names of the variables on the way to what cannot be sent, the outermost first."""
    path: list[str] = []
    while len(path) < _DEEPEST:
        inner = next(((name, part) for name, part in _named_parts(source) if _reason(part, executor)), None)
        if inner is None:
            return path
        path.append(f"{inner[0]} ({type(inner[1]).__name__})")
        source = inner[1]
    return path


def _named_parts(source: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a callable consists of, each with its name: arguments, closure, defaults, state and globals."""
    if isinstance(source, functools.partial):
        yield "the function", source.func
        yield from ((f"argument {index + 1}", value) for index, value in enumerate(source.args))
        yield from ((f"argument {name!r}", value) for name, value in source.keywords.items())
    elif isinstance(source, MethodType):
        yield "the function", source.__func__
        yield f"the {type(source.__self__).__name__} that it is bound to", source.__self__
    elif isinstance(source, FunctionType):
        yield from ((f"closure {name!r}", value) for name, value in closure_of(source))
        yield from ((f"default {name!r}", value) for name, value in defaults_of(source))
        names = names_in_code(source.__code__)
        yield from ((f"global {name!r}", source.__globals__[name]) for name in names if name in source.__globals__)
    elif hasattr(source, "__dict__") and not isinstance(source, type | ModuleType):
        yield from ((f"attribute {name!r}", value) for name, value in vars(source).items())
    elif isinstance(source, Mapping):
        yield from ((f"item {name!r}", value) for name, value in source.items())
    elif isinstance(source, list | tuple | set | frozenset | deque):
        yield from ((f"item {index}", value) for index, value in enumerate(source))
