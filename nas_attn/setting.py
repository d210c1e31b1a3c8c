"""What a worker needs to know of a run; plain, and cheap to import in the driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nas_attn.config import DataConfig, Recipe


@dataclass(frozen=True)
class Setting:
    """What is the same for every trial of a run.

    Args:
        backbone: Name and options as a space gives them, or a function without arguments that makes a network.
        data: Which images; None when the user's own training brings its own.
        train: The user's own training, as a callable or as `module:function`; None takes ours.
        device: torch's name of the device that a trial sees.
        gpus: GPUs of a trial; below 1, a trial may take no more than that share of the memory of its GPU.
        n_threads: Threads that torch may use; None leaves torch's own choice.
    """

    backbone: Mapping[str, Any] | Callable[[], Any]
    num_classes: int
    in_channels: int
    image_size: int
    recipe: Recipe
    device: str = "cpu"
    data: DataConfig | None = None
    train: Callable[..., float] | str | None = None
    gpus: float = 0.0
    n_threads: int | None = None
