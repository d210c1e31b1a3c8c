"""What the code of a function is, by content: robust against comments, layout, line numbers and its place in a file."""

from __future__ import annotations

import ast
import dis
import hashlib
import linecache
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

Code = Mapping[str, str]
"""Digests of one function: `tree` of its syntax tree if its source is known, and `bytecode` with Python's version."""


def code_of(function: FunctionType) -> dict[str, str]:
    """Return the digests of a function's code.

    The syntax tree has no comments, docstrings and positions, and is the same in every version of Python; it is taken
    only if the source, compiled again, is the code in memory. The bytecode always exists.
    """
    code = function.__code__
    found = {"bytecode": f"{_version()} {_digest(_code_in_words(code))}"}
    tree = _tree_of(code, function.__globals__)
    return found if tree is None else {"tree": tree, **found}


def same_code(was: Code, now: Code) -> bool | None:
    """Return whether two functions have the same code; None if they cannot be compared.

    That is so if Python's version differs and the source of one of them is not known.
    """
    if "tree" in was and was.get("tree") == now.get("tree"):
        return True
    before, after = str(was.get("bytecode", "")), str(now.get("bytecode", ""))
    if before.partition(" ")[0] == after.partition(" ")[0]:
        return before == after
    return False if "tree" in was and "tree" in now else None


def names_in_code(code: CodeType) -> list[str]:
    """Return the names of globals and attributes that a code reads, also in the functions inside it, without repeats.

    Names that it assigns as globals are left out: they are its state.
    """
    found: dict[str, None] = {}
    stored: set[str] = set()
    for part in _with_nested(code):
        found.update(dict.fromkeys(part.co_names))
        stored |= {str(step.argval) for step in dis.get_instructions(part) if step.opname == "STORE_GLOBAL"}
    return [name for name in found if name not in stored]


def defaults_of(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the defaults of a function's parameters by name."""
    code, values = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    yield from zip(names[len(names) - len(values) :], values, strict=True)
    yield from (function.__kwdefaults__ or {}).items()


def closure_of(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the values that a function closes over by name; one without a value yet is left out."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:
            continue
        yield name, value


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _with_nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _with_nested(const)


def _code_in_words(code: CodeType) -> str:
    """Return all that a code does, without its place, as text; a constant that nothing loads is a docstring."""
    used = {step.arg for step in dis.get_instructions(code) if step.opcode in dis.hasconst}
    consts = [_const_in_words(const) if index in used else "-" for index, const in enumerate(code.co_consts)]
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return repr((code.co_code.hex(), code.co_exceptiontable.hex(), consts, counts, names))


def _const_in_words(const: Any) -> str:
    if isinstance(const, CodeType):
        return _code_in_words(const)
    if isinstance(const, tuple):
        return f"({', '.join(map(_const_in_words, const))})"
    if isinstance(const, frozenset):
        return f"frozenset({sorted(map(_const_in_words, const))})"
    return f"{type(const).__name__} {const!r}"


def _tree_of(code: CodeType, namespace: Mapping[str, Any]) -> str | None:
    """Return the digest of a code's syntax tree, or None if its source is not known or not this code's."""
    text = "".join(linecache.getlines(code.co_filename, dict(namespace)))
    found = _functions_in(text).get((code.co_firstlineno, code.co_name)) if text else None
    if found is None:
        return None
    compiled, tree = found
    return _digest(tree) if _code_in_words(compiled) == _code_in_words(code) else None


@lru_cache(maxsize=16)
def _functions_in(text: str) -> Mapping[tuple[int, str], tuple[CodeType, str]]:
    """Return code and syntax tree of every function of a source by first line and name, where these are unique."""
    try:
        module = ast.parse(text)
        compiled = compile(text, "<source>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a notebook's magic words, a cut-off file
        return {}
    codes: dict[tuple[int, str], list[CodeType]] = {}
    for part in _with_nested(compiled):
        codes.setdefault((part.co_firstlineno, part.co_name), []).append(part)
    trees: dict[tuple[int, str], list[str]] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            trees.setdefault(_place(node), []).append(ast.dump(_plain(node)))
    return {
        place: (codes[place][0], found[0])
        for place, found in trees.items()
        if len(found) == len(codes.get(place, ())) == 1
    }


def _place(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> tuple[int, str]:
    """Return the first line and the name of a function's code."""
    if isinstance(node, ast.Lambda):
        return node.lineno, "<lambda>"
    return min([node.lineno, *(one.lineno for one in node.decorator_list)]), node.name


def _plain(node: Any) -> Any:
    """Return a syntax tree without the docstrings in it; the tree itself is changed."""
    inner: Any
    for inner in ast.walk(node):
        body = getattr(inner, "body", None)
        is_scope = isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if is_scope and isinstance(body, list) and _is_text(body[0]):
            inner.body = [ast.Pass(), *body[1:]]
    return node


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
