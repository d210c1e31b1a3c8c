"""A Ray cluster for one run, which ends with the driver."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from nas_attn.config import Resources, n_cores
from nas_attn.errors import ConfigError, first_line
from nas_attn.executors.access import LOOPBACK, on_loopback, own_token, refuse_without_loopback, users_token
from nas_attn.executors.address import refuse_without_token, wrong_token
from nas_attn.executors.loss import StartWatch
from nas_attn.executors.resources import Allocation, allocate
from nas_attn.executors.temporary import temporary_folder
from nas_attn.executors.watchdog import watchdog

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_prestart_worker_first_driver": "0",  # Tune's actors do not use prestarted processes
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_MAX_PENDING_TRIALS_PG": "2",
    "TUNE_WARN_THRESHOLD_S": "10",
}

_OBJECT_STORE_BYTES = 100 * 2**20
"""Size of the object store beside the images: for contexts, results, weights and predictions on their way."""

_IMPORTS = ("ray.tune", "optuna", "optuna.storages", "nas_attn.study.ledger", "nas_attn.study.sampling")
"""Modules that the driver needs next, imported in a thread while Ray's processes start."""

_PRINTS = "print_to_stdstream"
"""Ray's own function that prints a message of its processes; no option of `ray.init` silences it."""

_STARTS_AUTOSCALER = "start_monitor"
"""Ray's own method that starts the process of its autoscaler; no option of `ray.init` leaves it out."""

log = logging.getLogger(__name__)


@contextmanager
def ray_session(resources: Resources, n_bytes: int = 0) -> Iterator[Allocation]:
    """Context manager: start Ray, or connect to the cluster at `resources.address`, and yield the allocation.

    A new session listens on the loopback address alone, and lets nobody in without its own random token; a cluster is
    joined with the user's token. Enter it in the main thread: Ray's processes end with the thread that started them. If
    Ray is already initialised, its cluster is used and left running.

    Args:
        n_bytes: Size of what every worker reads, for which a new session makes room in its object store.
    Raises: ConfigError if the cluster cannot be reached, or has too few resources for a trial.
    """
    _set_up()
    import ray

    imports = threading.Thread(target=_import_all, daemon=True)
    imports.start()
    with ExitStack() as stack:
        is_own = not ray.is_initialized() and resources.address is None
        if not ray.is_initialized():
            watch = stack.enter_context(watchdog())
            stack.enter_context(users_token() if resources.address else own_token())
            folder = None if resources.address else stack.enter_context(temporary_folder("ray"))
            stack.enter_context(messages_in_the_log())
            stack.callback(_shut_down)
            _start(resources, n_bytes, folder)
            watch()
        _hush()
        allocation = cluster_allocation(resources, n_cores() if is_own else None)
        imports.join()
        yield allocation


def cluster_allocation(resources: Resources, n_cores: int | None = None) -> Allocation:
    """Return the allocation on the cluster that this process has joined.

    Args:
        n_cores: Number of cores to share out; None takes those of the cluster.
    Raises: ConfigError if a trial needs more than there is.
    """
    import ray

    found = ray.cluster_resources()
    cores = int(found.get("CPU", 1)) if n_cores is None else n_cores
    return allocate(resources, n_cores=cores, n_gpus=int(found.get("GPU", 0)))


def is_running() -> bool:
    """Return whether this process has joined a Ray cluster already."""
    _set_up()
    import ray

    return bool(ray.is_initialized())


def refuse_closed_cluster(address: str) -> None:
    """Check that the cluster at an address lets this process in. Raises: ConfigError that says what is wrong."""
    _set_up()
    import ray

    if not ray.is_initialized():
        with users_token():
            refuse_without_token(address)


def _set_up() -> None:
    """Set the environment variables that Ray and Tune read when they are imported; the user's own values stay."""
    os.environ.update({name: os.environ.get(name, value) for name, value in _SETTINGS.items()})


def _start(resources: Resources, n_bytes: int, folder: Path | None) -> None:
    """Join the cluster at an address, or start a session of our own in a folder."""
    import ray
    from ray.exceptions import AuthenticationError

    if resources.address:
        try:
            ray.init(address=resources.address, log_to_driver=False, logging_level=logging.ERROR)
        except AuthenticationError:
            raise ConfigError(wrong_token(resources.address)) from None
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"--address must be that of a running Ray cluster, but {resources.address!r} is not: "
                f"{first_line(error)}."
            ) from error
        return
    assert folder is not None, "a session of our own has a folder"
    refuse_without_loopback()
    needed = (resources.workers or 1) * (resources.cpus_per_trial or 1)
    with _importable(), on_loopback(), without_autoscaler(), StartWatch(folder):
        ray.init(
            address="local",
            _temp_dir=str(folder),
            num_cpus=max(n_cores(), needed),
            object_store_memory=_OBJECT_STORE_BYTES + n_bytes + n_bytes // 8,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address=LOOPBACK,
        )


@contextmanager
def _importable() -> Iterator[None]:
    """Context manager: processes started inside import what this one does, also from a checkout or a test's folder."""
    before = os.environ.get("PYTHONPATH")
    root = Path(__file__).resolve().parents[2]
    folders = [folder for folder in (str(root), *map(os.path.abspath, sys.path)) if _is_own_folder(folder)]
    os.environ["PYTHONPATH"] = os.pathsep.join([*dict.fromkeys(folders), *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = before


def _is_own_folder(folder: str) -> bool:
    """Return whether a folder of the import path is neither of Python nor of installed packages."""
    is_installed = Path(folder).name in ("site-packages", "dist-packages") or folder.startswith(sys.base_prefix)
    return os.path.isdir(folder) and os.pathsep not in folder and not is_installed


def _hush() -> None:
    """Remove Ray's messages from the terminal; file handlers of its logger (the run's log) still receive them."""
    logger = logging.getLogger("ray")
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    for handler in list(logger.handlers):
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            logger.removeHandler(handler)


def _shut_down() -> None:
    """End Ray, while no garbage is collected.

    A collection in another thread, such as one that imports, may free what belongs to Ray: its destructor would ask the
    worker that is ending, and Ray's native code would then end this process.
    """
    import ray

    is_collected = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if is_collected:
            gc.enable()


@contextmanager
def messages_in_the_log() -> Iterator[None]:
    """Context manager: what Ray tells its driver, such as of a dead worker, goes to the log and not to the terminal.

    `log_to_driver=False` covers the output of workers alone; a thread of Ray's prints messages of its raylets.
    """
    from ray._private import worker

    with _replaced(worker, _PRINTS, _log_message):
        yield


@contextmanager
def without_autoscaler() -> Iterator[None]:
    """Context manager: a session that is started inside has no autoscaler, which adds nodes to a cluster.

    Its process does not end by SIGTERM, so that Ray would wait for it for a second at the end of the session.
    """
    from ray._private.node import Node

    with _replaced(Node, _STARTS_AUTOSCALER, lambda node: None):
        yield


@contextmanager
def _replaced(owner: object, name: str, function: Callable[..., None]) -> Iterator[None]:
    """Context manager: another function stands in the place of Ray's; a version of Ray without it is left as it is."""
    before = getattr(owner, name, None)
    if before is None:
        yield
        return
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _log_message(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    """Log a message in the place of the function of Ray that prints it."""
    for line in data["lines"]:
        log.info("Ray's %s: %s", data.get("pid"), str(line).rstrip())


def _import_all() -> None:
    for name in _IMPORTS:
        import_module(name)
