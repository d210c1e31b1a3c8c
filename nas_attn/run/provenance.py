"""The provenance of a result: everything that changes it, in plain JSON."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_attn.config import DataConfig
from nas_attn.config.images import OF_READING
from nas_attn.run.given import OF_A_SEARCH
from nas_attn.run.identity import CONTENTS, with_state
from nas_attn.run.request import Request
from nas_attn.study.storage.addresses import without_password

_LEFT_OUT = ("notes", "mean", "std", "task", "rendering")
_PACKAGES = ("nas_attn", "torch", "torchvision", "timm", "optuna", "ray", "numpy", "scikit-learn")


def describe_run(request: Request, begun: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the content of `config.json`: everything that changes a result, and its provenance.

    Args:
        begun: `config.json` of the run that is continued; None for a new one.
    """
    settings = request.settings
    data: dict[str, Any] | None = None
    if settings.data is not None and request.facts is not None:
        facts = {name: value for name, value in vars(request.facts).items() if name not in _LEFT_OUT}
        data = {**_stated(settings.data), "facts": facts}
    given = request.given
    left_out = {*OF_A_SEARCH} if given else None
    return {
        "space": {"name": settings.space.name, **settings.space.to_dict(), **_own_backbone(request, begun)},
        "weights": request.weights,
        "data": data if data is not None else vars(request.shape),
        "task": request.facts.task if request.facts is not None else None,
        "train": request.train_name,
        CONTENTS: with_state(begun or {}, request.contents),
        "recipe": settings.recipe.model_dump(),
        "objectives": [objective.to_dict() for objective in request.objectives] or None,
        "seed": settings.engine.seed,
        "engine": settings.engine.model_dump(exclude=left_out),
        "budget": settings.budget.model_dump(exclude=left_out),
        "arms": {label: placement.to_dict() for label, placement in request.arms.items()},
        "resources": settings.resources.model_dump(),
        "sites": request.bound.table.to_dict(),
        "searched_sites": list(given.searched) if given else _searched(request),
        **({"retrained": given.identity, "source": given.origin} if given else {}),
        "versions": versions(),
        "commit": _git_commit(),
        "command": without_password(shlex.join([*_program(), *sys.argv[1:]])),
    }


def _stated(data: DataConfig) -> dict[str, Any]:
    """Return the settings of the data; those of how files are read only where they differ from the default.

    Runs from before these settings have none; what they change is in the fingerprint.
    """
    stated = data.model_dump(exclude={"root", "download", "strict"})
    defaults = DataConfig().model_dump(include=set(OF_READING))
    return {name: value for name, value in stated.items() if name not in defaults or value != defaults[name]}


def _own_backbone(request: Request, begun: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a network in memory is, as the version that began the run recorded it; empty for another one."""
    network = request.settings.choice.network
    if network is None:
        return {}
    is_former = begun is not None and CONTENTS not in begun
    return {"backbone": network.former_identity(request.shape) if is_former else network.identity(request.shape)}


def _searched(request: Request) -> list[str]:
    return [site.name for decision in request.bound.decisions for site in decision.sites]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _program() -> list[str]:
    """Return the arguments that start this program again."""
    name = Path(sys.argv[0]).name
    if name == "__main__.py":  # python -m nas_attn
        return ["python", "-m", "nas_attn"]
    return ["python", name] if name.endswith(".py") else [name]


def _git_commit() -> str | None:
    """Return the commit of the working folder, or None outside a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
