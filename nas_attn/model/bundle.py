"""Collects the source of classes and functions of this package, with all that they use, into one Python file."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from nas_attn.errors import FileError

PACKAGE = "nas_attn."
ALLOWED = ("torch", "torchvision")
"""Libraries that the file may import, beside Python's own."""

INSTEAD = {"nas_attn.attention.fused": "nas_attn.attention.plain"}
"""Modules whose definitions are replaced by those of another module with the same names."""

CHECKS = ("require_fit",)
"""Functions whose calls are left out: they check options that are already checked."""

_DEFINITIONS = (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
_IGNORED = re.compile(r"[ \t]*#[ \t]*type: ignore.*$", re.MULTILINE)


@dataclass(frozen=True)
class _Module:
    """One module of this package, parsed.

    Args:
        definitions: Name -> the statement that defines it.
        imported: Name -> (module, name there), or (module, "") for a module itself.
    """

    lines: list[str]
    definitions: Mapping[str, ast.stmt]
    imported: Mapping[str, tuple[str, str]]


class Bundle:
    """Collects the source of definitions, each after those that it uses, and the imports that they need.

    `parts` has the source by (module, name), `imports` the imported names by module, `modules` the imported modules,
    each as it is written.
    """

    def __init__(self) -> None:
        self.parts: dict[tuple[str, str], str] = {}
        self.imports: dict[str, set[str]] = {}
        self.modules: set[str] = set()

    def add(self, module: str, name: str) -> None:
        """Add a definition of this package, and all that it uses.

        Raises: FileError if that needs a library which the file may not import, or two definitions have one name.
        """
        module = INSTEAD.get(module, module)
        if (module, name) in self.parts:
            return
        other = next((one for one, taken in self.parts if taken == name), None)
        if other is not None:
            raise FileError(f"One Python file cannot define '{name}' twice, but {other} and {module} both do.")
        parsed = _parsed(module)
        node = parsed.definitions[name]
        self.parts[module, name] = ""  # a function may call itself
        needed, annotated = _names(node)
        for used in sorted(needed):
            self._resolve(module, used)
        for used in sorted(annotated - needed):
            if not _is_class(module, used):  # annotations are not evaluated
                self._resolve(module, used)
        del self.parts[module, name]
        self.parts[module, name] = _source(parsed, node)

    def add_import(self, module: str, name: str = "", alias: str = "") -> None:
        """Add the import of a library's name, or of the library itself.

        Raises: FileError if the file may not import it.
        """
        root = module.partition(".")[0]
        if root not in ALLOWED and root not in sys.stdlib_module_names:
            raise FileError(f"A Python file may use {' and '.join(ALLOWED)} alone, but this network needs {root}.")
        written = (name or module) + (f" as {alias}" if alias not in ("", name or module) else "")
        if name:
            self.imports.setdefault(module, set()).add(written)
        else:
            self.modules.add(written)

    def header(self) -> str:
        """Return the import statements: Python's own first."""
        lines = [f"import {module}" for module in self.modules]
        lines += [f"from {module} import {', '.join(sorted(names))}" for module, names in self.imports.items()]
        groups: dict[bool, list[str]] = {True: [], False: []}
        for line in sorted(lines, key=lambda line: (line.startswith("from"), line)):
            groups[line.split()[1].partition(".")[0] in sys.stdlib_module_names].append(line)
        return "\n\n".join("\n".join(group) for group in groups.values() if group)

    def body(self) -> str:
        """Return the definitions; lines of constants stay together."""
        text, was_constant = "", False
        for source in self.parts.values():
            constant = not source.startswith(("class ", "def ", "@"))
            text += ("\n" if constant and was_constant else "\n\n\n") + source
            was_constant = constant
        return text.strip("\n")

    def _resolve(self, module: str, name: str) -> None:
        """Add what a name means in a module; a name that is local there, or Python's own, needs nothing."""
        parsed = _parsed(module)
        if name in parsed.definitions:
            self.add(module, name)
        elif name in parsed.imported:
            source, original = parsed.imported[name]
            if f"{source}.".startswith(PACKAGE):
                assert original == name, f"{module} imports {source}.{original} as {name}"
                self.add(source, name)
            else:
                self.add_import(source, original, name)


@cache
def _parsed(module: str) -> _Module:
    """Return a module of this package, parsed."""
    text = inspect.getsource(importlib.import_module(module))
    definitions: dict[str, ast.stmt] = {}
    imported: dict[str, tuple[str, str]] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
            imported |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            imported |= {alias.asname or alias.name.partition(".")[0]: (alias.name, "") for alias in node.names}
        elif isinstance(node, _DEFINITIONS):
            definitions |= dict.fromkeys(_defined(node), node)
    return _Module(text.splitlines(), definitions, imported)


def _defined(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    for target in targets:
        yield from (inner.id for inner in ast.walk(target) if isinstance(inner, ast.Name))


def _names(node: ast.stmt) -> tuple[set[str], set[str]]:
    """Return the names that a definition uses when it runs, and those in its annotations."""
    left_out = set(map(id, _checks(node)))
    running: set[str] = set()
    annotated: set[str] = set()

    def visit(part: ast.AST, into: set[str]) -> None:
        if id(part) in left_out:
            return
        if isinstance(part, ast.Name) and not hasattr(builtins, part.id):
            into.add(part.id)
        for key, value in ast.iter_fields(part):
            inner = annotated if key in ("annotation", "returns") else into
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child, inner)

    visit(node, running)
    return running, annotated


def _checks(node: ast.stmt) -> list[ast.Expr]:
    """Return the statements of a definition that only check options."""
    return [
        part
        for part in ast.walk(node)
        if isinstance(part, ast.Expr)
        and isinstance(part.value, ast.Call)
        and isinstance(part.value.func, ast.Name)
        and part.value.func.id in CHECKS
    ]


def _source(parsed: _Module, node: ast.stmt) -> str:
    """Return the source of a definition without the calls that only check options."""
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    assert node.end_lineno is not None, "a parsed statement has an end"
    dropped = {line for check in _checks(node) for line in range(check.lineno, (check.end_lineno or 0) + 1)}
    lines = [parsed.lines[number - 1] for number in range(first, node.end_lineno + 1) if number not in dropped]
    return _IGNORED.sub("", "\n".join(lines))


def _is_class(module: str, name: str) -> bool:
    """Return whether a name of a module is a class of this package."""
    parsed = _parsed(module)
    if name in parsed.imported:
        source, original = parsed.imported[name]
        return f"{source}.".startswith(PACKAGE) and _is_class(INSTEAD.get(source, source), original)
    return isinstance(parsed.definitions.get(name), ast.ClassDef)
