"""Where a result comes from: everything that changes it, in plain JSON."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from nas_attn.run.request import Request

_NOT_KEPT = ("notes", "mean", "std", "task")
_PACKAGES = ("nas_attn", "torch", "torchvision", "timm", "optuna", "ray", "numpy", "scikit-learn")


def describe_run(request: Request) -> dict[str, Any]:
    """Return `config.json`: everything that changes a result, and where it comes from."""
    settings = request.settings
    data: dict[str, Any] | None = None
    if settings.data is not None and request.facts is not None:
        facts = {name: value for name, value in vars(request.facts).items() if name not in _NOT_KEPT}
        data = {**settings.data.model_dump(exclude={"root", "download", "strict"}), "facts": facts}
    return {
        "space": {"name": settings.space.name, **settings.space.to_dict()},
        "weights": request.weights,
        "data": data if data is not None else vars(request.shape),
        "task": request.facts.task if request.facts is not None else None,
        "train": request.train_name,
        "recipe": settings.recipe.model_dump(),
        "seed": settings.engine.seed,
        "engine": settings.engine.model_dump(),
        "budget": settings.budget.model_dump(),
        "arms": {label: placement.to_dict() for label, placement in request.arms.items()},
        "resources": settings.resources.model_dump(),
        "sites": request.bound.table.to_dict(),
        "versions": versions(),
        "commit": _git_commit(),
        "command": shlex.join([*_program(), *sys.argv[1:]]),
    }


def versions() -> dict[str, str]:
    """Return the versions of what computes, Python's included."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _program() -> list[str]:
    """Return the words that start this program again."""
    name = Path(sys.argv[0]).name
    if name == "__main__.py":  # python -m nas_attn
        return ["python", "-m", "nas_attn"]
    return ["python", name] if name.endswith(".py") else [name]


def _git_commit() -> str | None:
    """Return the commit of the folder that the command runs in, or None outside a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
