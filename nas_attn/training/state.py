"""The state of a training as bytes, and back: plain data and tensors, loaded without executing anything."""

from __future__ import annotations

import io
import random
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.device, torch.dtype, torch.Size)


def plain_copy(value: Any, where: str = "state") -> Any:
    """Return a copy of a state that shares no memory with it, with its tensors on the CPU.

    Numbers of numpy become those of Python; dicts, lists and tuples stay what they are.

    Args:
        where: Name of the state in messages.
    Raises: TypeError, in one sentence, for anything but numbers, text, None, tensors, arrays, lists, tuples and dicts.
    """
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in _PLAIN:
        return value
    if type(value) is np.ndarray and value.dtype.kind in "biufc":
        return value.copy()
    if type(value) in (list, tuple):
        return type(value)(plain_copy(part, f"{where}[{index}]") for index, part in enumerate(value))
    if type(value) in (dict, OrderedDict):
        return _copied_dict(value, where)
    raise TypeError(
        f"A checkpoint must be made of numbers, text, None, tensors, arrays, lists, tuples and dicts, but {where} is a "
        f"{type(value).__name__}: store its state_dict() or its numbers."
    )


def _copied_dict(value: dict[Any, Any], where: str) -> dict[Any, Any]:
    for key in value:
        plain_copy(key, f"a key of {where}")
    found = type(value)((key, plain_copy(part, f"{where}[{key!r}]")) for key, part in value.items())
    if hasattr(value, "_metadata"):  # the versions of modules in a state dict of torch
        found._metadata = value._metadata  # type: ignore[attr-defined]
    return found


def encode(content: Mapping[str, Any]) -> bytes:
    """Return plain data and tensors as bytes."""
    file = io.BytesIO()
    torch.save(dict(content), file)
    return file.getvalue()


def decode(content: bytes) -> Any:
    """Return what `encode` was given, with its tensors on the CPU; nothing in it is executed or imported.

    Raises: whatever torch raises for bytes that are damaged, or that a newer version wrote.
    """
    with torch.serialization.safe_globals(_array_parts()):
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def generator_states(device: torch.device) -> dict[str, Any]:
    """Return the states of the global random generators: of torch on the CPU and on `device`, numpy and Python."""
    return {
        "torch": torch.get_rng_state(),
        "device": _device_state(device),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def restore_generators(states: Mapping[str, Any], device: torch.device) -> None:
    """Set the global random generators to stored states."""
    torch.set_rng_state(states["torch"])
    if states["device"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["device"], device)
    if states["device"] is not None and device.type == "mps":
        torch.mps.set_rng_state(states["device"])
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])


@contextmanager
def other_generators_kept() -> Iterator[None]:
    """Context manager: restore the states of numpy's and Python's global generators."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _device_state(device: torch.device) -> Tensor | None:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else None


def _array_parts() -> list[Any]:
    """Return what a pickled numpy array of numbers names: these functions and classes only make arrays."""
    kinds = {type(np.dtype(name)) for name in (*"?bBhHiIlLqQefdgFDG",)}
    make = np.zeros(1).__reduce__()[0]  # a private function of numpy, whose place differs between its versions
    return [make, np.ndarray, np.dtype, *kinds]
