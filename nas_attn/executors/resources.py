"""The resources of the trials: their number at the same time, and the cores and GPUs of each."""

from __future__ import annotations

import os
from dataclasses import dataclass

from nas_attn.config import Resources, n_cores
from nas_attn.errors import ConfigError

_TRIALS_PER_CORE = 8
"""Maximum number of trials per core; a larger number is refused as a mistake."""


@dataclass(frozen=True)
class Allocation:
    """The resources of a run's trials.

    Args:
        workers: Number of trials that run at the same time.
        cpus: Number of cores, and of torch threads, per trial.
        gpus: Number of GPUs per trial; a fraction shares one.
        device: torch's name of a trial's device.
    """

    workers: int
    cpus: int
    gpus: float
    device: str

    def __str__(self) -> str:
        trials = "1 trial" if self.workers == 1 else f"{self.workers} trials"
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        cores = "1 core" if self.cpus == 1 else f"{self.cpus} cores"
        return f"{trials} at a time, each on {cores}{gpus} ({self.device})"


def allocate(resources: Resources, *, n_cores: int, n_gpus: int) -> Allocation:
    """Return the allocation, by default one trial per GPU, or without GPUs one per core.

    Raises: ConfigError if a trial needs more than is available, or all trials together far more.
    """
    _refuse_absurd(resources, n_cores)
    device = resources.device
    if device == "auto":
        device = "cuda" if n_gpus and resources.gpus_per_trial != 0 else "cpu"
    gpus = _gpus(resources, device, n_gpus)
    if resources.executor == "local":
        if (resources.workers or 1) > 1:
            raise ConfigError(
                f"--executor local runs one trial at a time, but got --workers {resources.workers}: "
                "leave --workers out, or use --executor tune."
            )
        return Allocation(1, resources.cpus_per_trial or _pinned() or n_cores, gpus, device)
    if gpus:
        workers = resources.workers or max(1, n_trials_on(n_gpus, gpus))
    else:
        workers = resources.workers or (1 if device == "mps" else max(1, n_cores // (resources.cpus_per_trial or 1)))
    cpus = max(1, n_cores // workers)
    return Allocation(workers, resources.cpus_per_trial or min(cpus, _pinned() or cpus), gpus, device)


def n_trials_on(n_gpus: int, gpus: float) -> int:
    """Return how many trials these GPUs have room for, where a fraction of one never lies on two.

    >>> n_trials_on(4, 1), n_trials_on(4, 2), n_trials_on(4, 0.5), n_trials_on(4, 0.3), n_trials_on(1, 0.1)
    (4, 2, 8, 12, 10)
    """
    return int(n_gpus // gpus) if gpus >= 1 else n_gpus * int(1 / gpus + 1e-9)


def local_allocation(resources: Resources) -> Allocation:
    """Return the allocation on this machine. Raises: ConfigError if a trial needs more than it has."""
    import torch

    if resources.device == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device mps needs a Mac whose GPU torch can use, but none was found: use --device cpu.")
    return allocate(resources, n_cores=n_cores(), n_gpus=torch.cuda.device_count())


def _pinned() -> int | None:
    """Return the number of threads in `OMP_NUM_THREADS`, or None; torch is ten times as slow with more threads."""
    pinned = os.environ.get("OMP_NUM_THREADS", "")
    return int(pinned) if pinned.isdigit() and int(pinned) else None


def _refuse_absurd(resources: Resources, n_cores: int) -> None:
    wanted, workers = resources.cpus_per_trial, resources.workers
    if wanted is not None and wanted > n_cores:
        raise ConfigError(f"--cpus-per-trial must be at most the {n_cores} available cores, but got {wanted}.")
    if workers is not None and workers > _TRIALS_PER_CORE * n_cores:
        raise ConfigError(
            f"--workers must be at most {_TRIALS_PER_CORE} for each of the {n_cores} cores, but got {workers}: "
            "leave it out for one per core."
        )


def _gpus(resources: Resources, device: str, n_gpus: int) -> float:
    wanted = resources.gpus_per_trial
    if device != "cuda":
        if wanted:
            raise ConfigError(
                f"--gpus-per-trial needs --device cuda, but got {wanted:g} on '{device}'"
                + (": no GPU was found." if not n_gpus else ".")
            )
        return 0.0
    if not n_gpus:
        raise ConfigError("--device cuda needs a GPU that torch and Ray can see, but none was found: use --device cpu.")
    gpus = 1.0 if wanted is None else wanted
    if gpus > 1 and gpus != int(gpus):
        raise ConfigError(
            f"--gpus-per-trial must be a share of one GPU or a whole number of them, but got {gpus:g}: write "
            f"{int(gpus)} or {int(gpus) + 1}."
        )
    if gpus > n_gpus:
        raise ConfigError(f"--gpus-per-trial must be at most the {n_gpus} available GPUs, but got {gpus:g}.")
    return gpus
