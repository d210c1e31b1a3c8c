"""The state of this process that its other code relies on: recorded, and restored after a search or a training.

No library is imported here: the state of one that is loaded is recorded; one that is loaded in between is set to its
own defaults where a search changes them.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from nas_attn.user_code.training_thread import TrainingThread

resource: Any
try:
    import resource
except ImportError:  # Windows
    resource = None

Restore = Callable[[], object]

OUR_LOGGERS = ("nas_attn", "ray", "optuna", "alembic")
"""Loggers whose level or handlers a search changes; what stands below them by name belongs to them."""

_SOON = 0.1
"""Seconds until an alarm that was due during a training; two alarms that differ by less are the same."""

_OUR_VARIABLES = ("RAY_", "TUNE_", "PYTHONPATH")


@contextmanager
def left_as_it_was() -> Iterator[None]:
    """Context manager: at its end the process is as at its beginning, however it ends.

    Covered are the environment, the working folder, the import path, signal handlers, hooks, loggers, warnings filters,
    random numbers, torch's and matplotlib's settings, Optuna's verbosity and Tune's registry. Outside the main thread
    only what a search itself changes is restored, since other threads may change the rest meanwhile.

    Searches in other threads of the process wait for each other: they would change the same state.
    """
    with _one_at_a_time():
        yield from _restored()


def _restored() -> Iterator[None]:
    recorders = [*_OF_A_SEARCH]
    if threading.current_thread() is threading.main_thread():
        recorders += _OF_THE_PROCESS
    with ExitStack() as stack:
        for record in recorders:
            stack.callback(record())
        yield


class _Turn:
    """Whose turn it is to search in this process; a search inside a training of the same thread has it already."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def forget(self) -> None:
        """Forget, in a process that was forked, the threads that it does not have."""
        self.lock = threading.RLock()


_TURN = _Turn()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_TURN.forget)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    lock = _TURN.lock
    if not lock.acquire(blocking=False):
        warnings.warn("Another search runs in this process: this one waits for its end.", RuntimeWarning, stacklevel=6)
        lock.acquire()
    try:
        yield
    finally:
        with suppress(RuntimeError):  # in a process that was forked meanwhile
            lock.release()


@contextmanager
def training_left_as_it_was() -> Iterator[None]:
    """Context manager: what one training changes does not reach the next one in this process."""
    recorders, thread = [_torch_modes, _random_numbers], threading.current_thread()
    if thread is threading.main_thread() or isinstance(thread, TrainingThread):
        recorders += [_folder, _warnings, _disabled_logs, _environment, _signals, _alarm, _limits, _hooks]
    with ExitStack() as stack:
        for record in recorders:
            stack.callback(record())
        yield


@contextmanager
def loggers_left_as_they_were(*names: str) -> Iterator[None]:
    """Context manager: restore level, handlers, filters and propagation of these loggers and of those below them."""
    restore = _loggers(*names)
    try:
        yield
    finally:
        restore()


def _variables() -> Restore:
    """Record the environment variables that a search sets."""
    return _environment_of(lambda name: name.startswith(_OUR_VARIABLES))


def _environment() -> Restore:
    return _environment_of(lambda name: True)


def _environment_of(covers: Callable[[str], bool]) -> Restore:
    before = {name: value for name, value in os.environ.items() if covers(name)}

    def restore() -> None:
        for name in [name for name in os.environ if covers(name) and name not in before]:
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value

    return restore


def _our_loggers() -> Restore:
    return _loggers(*OUR_LOGGERS)


def _every_logger() -> Restore:
    return _loggers("")


def _loggers(*names: str) -> Restore:
    """Record the loggers with these names and below them; the empty name stands for all."""
    known = {"": logging.getLogger()} | {
        name: found for name, found in logging.root.manager.loggerDict.items() if isinstance(found, logging.Logger)
    }
    before = [
        (found, found.level, found.propagate, found.disabled, [*found.handlers], [*found.filters])
        for name, found in known.items()
        if any(not top or name == top or name.startswith(f"{top}.") for top in names)
    ]

    def restore() -> None:
        for found, level, propagate, disabled, handlers, filters in before:
            if found.level != level:
                found.setLevel(level)
            found.propagate, found.disabled = propagate, disabled
            found.handlers[:], found.filters[:] = handlers, filters

    return restore


def _disabled_logs() -> Restore:
    before = logging.root.manager.disable
    return lambda: logging.disable(before) if logging.root.manager.disable != before else None


def _optuna_verbosity() -> Restore:
    """Record Optuna's verbosity; one that is loaded in between gets its own default."""
    optuna = sys.modules.get("optuna")
    before = optuna.logging.get_verbosity() if optuna is not None else logging.INFO

    def restore() -> None:
        loaded = sys.modules.get("optuna")
        if loaded is not None and loaded.logging.get_verbosity() != before:
            loaded.logging.set_verbosity(before)

    return restore


def _tune_registry() -> Restore:
    """Record what Ray and Tune hold for their next session.

    Tune leaves a hook for each trainable with parameters, which sends them when Ray starts again: one that cannot be
    pickled would fail every later session of the process.
    """
    hooks, names = [*_start_hooks()], _trainables()

    def restore() -> None:
        found = _start_hooks()
        found[:] = [hook for hook in found if hook in hooks or not _sends_parameters(hook)]
        registry = sys.modules.get("ray.tune.registry")
        if registry is not None:
            known = registry._global_registry
            for category, key in _trainables() - names:
                known._to_flush.pop((category, key), None)
                with suppress(Exception):  # Ray's own, if its session ends at this moment
                    known.unregister(category, key)
                known._registered.discard((category, key))

    return restore


def _start_hooks() -> list[Any]:
    """Return what Ray calls when it starts: its own list."""
    worker = sys.modules.get("ray._private.worker")
    found: list[Any] = getattr(worker, "_post_init_hooks", [])
    return found


def _sends_parameters(hook: Any) -> bool:
    return type(getattr(hook, "__self__", None)).__name__ == "_ParameterRegistry"


def _trainables() -> set[tuple[str, str]]:
    """Return category and name of all that Tune has registered, sent or not."""
    known = getattr(sys.modules.get("ray.tune.registry"), "_global_registry", None)
    return {*getattr(known, "_registered", ()), *getattr(known, "_to_flush", ())}


def _signals() -> Restore:
    # A function is installed again in any case: native code, such as Ray's, may have reset it unseen by Python.
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def restore() -> None:
        for number, handler in before.items():
            if callable(handler) or (handler is not None and signal.getsignal(number) is not handler):
                with suppress(OSError, ValueError):
                    signal.signal(number, handler)

    return restore


def _alarm() -> Restore:
    """Record whether a signal comes after a time; one that a training asked for would end the process later."""
    if not hasattr(signal, "setitimer"):
        return lambda: None
    (left, interval), begun = signal.getitimer(signal.ITIMER_REAL), time.monotonic()

    def restore() -> None:
        due = max(_SOON, left - (time.monotonic() - begun)) if left else 0.0
        if abs(signal.getitimer(signal.ITIMER_REAL)[0] - due) > _SOON:
            signal.setitimer(signal.ITIMER_REAL, due, interval)

    return restore


def _limits() -> Restore:
    """Record the limits of the process on files, memory and time, as far as they can be raised again."""
    if resource is None:
        return lambda: None
    kinds = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
    before = {kind: resource.getrlimit(kind) for kind in kinds}

    def restore() -> None:
        for kind, limits in before.items():
            if resource.getrlimit(kind) != limits:
                with suppress(OSError, ValueError):
                    resource.setrlimit(kind, limits)

    return restore


def _folder() -> Restore:
    try:
        before = os.getcwd()
    except OSError:  # it was removed
        return lambda: None

    def restore() -> None:
        with suppress(OSError):
            os.chdir(before)

    return restore


def _hooks() -> Restore:
    """Record the import path, the hooks for errors, the recursion limit and the fault handler."""
    path, hooks = [*sys.path], (sys.excepthook, sys.unraisablehook, threading.excepthook)
    limit, is_handled = sys.getrecursionlimit(), faulthandler.is_enabled()

    def restore() -> None:
        if sys.path != path:
            sys.path[:] = path
        sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
        sys.setrecursionlimit(limit)
        if faulthandler.is_enabled() and not is_handled:
            faulthandler.disable()

    return restore


def _warnings() -> Restore:
    filters, show = [*warnings.filters], warnings.showwarning

    def restore() -> None:
        if [*warnings.filters] != filters:
            with suppress(AttributeError, TypeError):
                warnings.filters[:] = filters  # type: ignore[index]  # a list, whatever the stubs say
                warnings._filters_mutated()  # type: ignore[attr-defined]
        warnings.showwarning = show

    return restore


def _random_numbers() -> Restore:
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    state, legacy = random.getstate(), numpy.random.get_state() if numpy else None
    of_torch = torch.get_rng_state() if torch else None
    on_gpus = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else None

    def restore() -> None:
        random.setstate(state)
        if numpy is not None:
            numpy.random.set_state(legacy)
        if torch is not None:
            torch.set_rng_state(of_torch)
        if torch is not None and on_gpus is not None:
            torch.cuda.set_rng_state_all(on_gpus)

    return restore


def _torch_threads() -> Restore:
    torch = sys.modules.get("torch")
    if torch is None:
        return lambda: None
    before = torch.get_num_threads()
    return lambda: torch.set_num_threads(before) if torch.get_num_threads() != before else None


def _torch_modes() -> Restore:
    """Record torch's modes: gradients, inference, default type, deterministic and cuDNN's flags, precision."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return lambda: None
    flags = [(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")]
    before = [(holder, name, getattr(holder, name)) for holder, name in flags]
    precision, dtype, is_graded = torch.get_float32_matmul_precision(), torch.get_default_dtype(), _gradients(torch)
    deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    anomaly = (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled())

    def restore() -> None:
        if torch.is_inference_mode_enabled() and not is_graded[1]:
            torch.autograd.grad_mode.inference_mode(False).__enter__()
        torch.set_grad_enabled(is_graded[0])
        torch.set_default_dtype(dtype)
        if torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(deterministic, warn_only=only_warns)
        torch.autograd.set_detect_anomaly(*anomaly)
        for holder, name, value in before:
            if getattr(holder, name) != value:
                setattr(holder, name, value)

    return restore


def _gradients(torch: Any) -> tuple[bool, bool]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def _matplotlib() -> Restore:
    matplotlib = sys.modules.get("matplotlib")
    if matplotlib is None or not hasattr(matplotlib, "rcParams"):
        return lambda: None
    before = dict.copy(matplotlib.rcParams)  # as it is: reading the backend would choose one

    def restore() -> None:
        if dict.copy(matplotlib.rcParams) != before:
            dict.clear(matplotlib.rcParams)
            dict.update(matplotlib.rcParams, before)

    return restore


_OF_A_SEARCH: tuple[Callable[[], Restore], ...] = (
    _variables,
    _our_loggers,
    _optuna_verbosity,
    _tune_registry,
    _torch_threads,
)
_OF_THE_PROCESS: tuple[Callable[[], Restore], ...] = (
    _environment,
    _every_logger,
    _disabled_logs,
    _signals,
    _folder,
    _hooks,
    _warnings,
    _random_numbers,
    _torch_modes,
    _matplotlib,
)
