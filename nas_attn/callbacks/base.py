"""The base class of callbacks, and the caller that no callback can stop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from nas_attn.errors import ConfigError, in_one_line, unknown
from nas_attn.records import RunRecord, TrialRecord

HOOKS = ("on_run_begin", "on_trial_end", "on_run_end", "close")

log = logging.getLogger(__name__)


class Callback:
    """Base class of callbacks; every method does nothing, so that one overrides what one needs.

    All are called by the driver, one at a time, and hold up the search while they run. What one raises is noted, and
    the search goes on.
    """

    def on_run_begin(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Take the run's folder and the content of its `config.json`; also called when a run is continued."""

    def on_trial_end(self, record: TrialRecord) -> None:
        """Take the row of a trial that ended in this session: complete, pruned or failed, of every stage."""

    def on_run_end(self, run: RunRecord) -> None:
        """Take the content of the folder of a run that is finished."""

    def close(self) -> None:
        """Release what was opened; called at the end of a session, however it ends."""


class Callbacks:
    """Calls several callbacks; one that raises is noted once per method, and never ends the run.

    Args:
        callbacks: Objects with any of a `Callback`'s methods, or functions, which stand for `on_trial_end`.
        note: Takes the sentence on a callback that raised.
    """

    def __init__(self, callbacks: Iterable[Any], note: Callable[[str], object]) -> None:
        self._callbacks, self._note = tuple(callbacks), note
        self._noted: set[tuple[int, str]] = set()

    def call(self, hook: str, *arguments: Any) -> None:
        """Call one method of every callback that has it."""
        for index, callback in enumerate(self._callbacks):
            method = getattr(callback, hook, callback if hook == "on_trial_end" and is_function(callback) else None)
            if method is None:
                continue
            try:
                method(*arguments)
            except (Exception, SystemExit) as error:  # code of the user, which may raise anything
                if (index, hook) not in self._noted:
                    log.info("The callback %s raised", _name(callback), exc_info=error)
                    self._noted.add((index, hook))
                    reason = f"{type(error).__name__}: {in_one_line(error)[:200]}"
                    self._note(f"The callback {_name(callback)} raised in {hook} ({reason}); the search goes on.")


def is_function(callback: Any) -> bool:
    """Return whether a callback is a function, without a callback's methods."""
    return callable(callback) and not any(hasattr(callback, hook) for hook in HOOKS)


def check_callback(callback: Any) -> Any:
    """Return a callback. Raises: ConfigError if it is none."""
    if isinstance(callback, type) or not (callable(callback) or any(hasattr(callback, hook) for hook in HOOKS)):
        raise ConfigError(
            f"A callback is a function of a trial's row or an object with any of {', '.join(HOOKS)}, but got "
            f"{callback.__name__ + ', a class: call it' if isinstance(callback, type) else type(callback).__name__}."
        )
    return callback


def load_callback(path: str) -> Any:
    """Return the callback that the factory at a path `module:factory` makes. Raises: ConfigError."""
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ConfigError(f"--callback must be MODULE:FACTORY, but got '{path}': write nas_attn.callbacks:TensorBoard.")
    try:
        module = import_module(module_name)
    except Exception as error:  # code of the user, which runs at import and may raise anything
        reason = f"{type(error).__name__}: {in_one_line(error)}"
        raise ConfigError(
            f"--callback names the module '{module_name}', which must be importable ({reason})."
        ) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [key for key, found in vars(module).items() if callable(found) and not key.startswith("_")]
        raise ConfigError(unknown("factory", name, known, f"module '{module_name}'"))
    try:
        return check_callback(factory())
    except ConfigError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {in_one_line(error)}"
        raise ConfigError(
            f"--callback {path} must return a callback when called without arguments ({reason})."
        ) from error


def needed(module: str, extra: str) -> Any:
    """Return an optional package. Raises: ConfigError that names the extra which installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"This callback needs the package {module.partition('.')[0]}, which cannot be imported "
            f'({in_one_line(error)}): pip install "nas_attn[{extra}]".'
        ) from error


def facts_of(record: TrialRecord) -> dict[str, Any]:
    """Return what a tracker stores of a trial beside its values: strings and numbers by name."""
    found = {
        "stage": record.stage,
        "state": record.state,
        "placement": str(record.placement),
        "key": record.key,
        "seed": record.seed,
        "epochs": record.epochs,
        "label": record.label,
        "n_parameters": record.n_parameters,
        "n_macs": record.n_macs,
        "reason": record.reason,
        **record.params,
    }
    return {name: value for name, value in found.items() if value is not None}


def _name(callback: Any) -> str:
    return str(getattr(callback, "__name__", type(callback).__name__))
