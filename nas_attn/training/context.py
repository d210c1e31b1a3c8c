"""The context of a run's trials, which every worker receives; cheap to import in the driver."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas_attn.attention.catalog import ATTENTIONS, register_attention
from nas_attn.attention.entry import Entry
from nas_attn.backbones.catalog import BACKBONES, register_backbone
from nas_attn.backbones.entry import Backbone
from nas_attn.backbones.own_network import OwnNetwork
from nas_attn.config import DataConfig, Recipe
from nas_attn.data.catalog import DATA, register_data
from nas_attn.data.entry import DataSource
from nas_attn.errors import ConfigError, unknown
from nas_attn.placement import Shape

if TYPE_CHECKING:
    from nas_attn.data.shared import LargeImages, SharedImages

Record = Entry | Backbone | DataSource
"""A record of a catalogue."""


@dataclass(frozen=True)
class TrialContext:
    """Everything that the trials of a run share.

    Args:
        backbone: Name and options as in a space file, or a network of the user's in memory.
        data: The images; None if a custom training reads its own.
        train: Custom training, as a callable or as `module:function`; None for the built-in one.
        device: torch's name of a trial's device.
        gpus: Number of GPUs per trial; a number below 1 is the share of a GPU's memory that a trial may use.
        n_threads: Number of torch threads; None keeps torch's default.
        class_names: Names of the images' classes; empty if they are not known.
        fingerprint: Digest of the images, as the driver read them; a process loads them again when it changes.
        timeout: Longest time of one training in seconds; None has no limit.
        checkpoint_seconds: Time between two checkpoints of a training; None saves none.
        show_output: Whether what a training prints is wanted at once.
        objectives: Names of the objectives that the training gives, the first one first; empty for the usual value.
        rungs: Epochs at which the scheduler reads the value of a search trial; None for every epoch.
        registered: Records that the driver's process registered; each worker registers them too.
        images: The images as the driver read them; None if each process reads them itself. The executor fills it in.
    """

    backbone: Mapping[str, Any] | OwnNetwork
    shape: Shape
    recipe: Recipe
    device: str = "cpu"
    data: DataConfig | None = None
    train: Callable[..., float] | str | None = None
    gpus: float = 0.0
    n_threads: int | None = None
    registered: tuple[Record, ...] = ()
    class_names: tuple[str, ...] = ()
    fingerprint: str | None = None
    images: SharedImages | LargeImages | None = None
    timeout: float | None = None
    checkpoint_seconds: float | None = None
    show_output: bool = False
    objectives: tuple[str, ...] = ()
    rungs: tuple[int, ...] | None = ()


def registered_here() -> tuple[Record, ...]:
    """Return the records that this process registered in the catalogues."""
    return (*ATTENTIONS.registered, *BACKBONES.registered, *DATA.registered)


def register_all(records: Iterable[Record]) -> None:
    """Register the records of another process in this one."""
    for record in records:
        if isinstance(record, Backbone):
            register_backbone(record)
        elif isinstance(record, DataSource):
            register_data(record)
        else:
            register_attention(record)


def load_train(path: str) -> Callable[..., float]:
    """Return the function with the path `module:function`; modules may be in the working folder.

    Raises: ConfigError if the path is malformed, the module cannot be imported, or there is no such function.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ConfigError(f"--train must be MODULE:FUNCTION, but got '{path}': write my_package.training:train.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"--train names the module '{module_name}', but it cannot be imported: {error}.") from error
    except (Exception, SystemExit) as error:  # code of the user, which runs at import and may raise anything
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"--train names the module '{module_name}', which must be importable, but it raised "
            f"{type(error).__name__}: {reason}."
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, found in vars(module).items() if callable(found) and not key.startswith("_")]
        raise ConfigError(unknown("function", name, known, f"module '{module_name}'"))
    chosen: Callable[..., float] = function
    return chosen
