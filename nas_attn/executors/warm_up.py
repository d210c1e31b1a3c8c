"""What a Ray worker imports as soon as it lives, while the driver still gets ready."""

from __future__ import annotations

import contextlib
import importlib


def warm_up() -> None:
    """Import what every trial needs; a failure is left to the trial that meets it, which can report it."""
    with contextlib.suppress(Exception):
        for name in ("nas_attn.evaluate", "nas_attn.executors.worker", "torchvision"):
            importlib.import_module(name)
