"""The most memory that a computation holds at once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(compute: Callable[[], object], held: Callable[[], Iterable[Tensor]], device: torch.device) -> int:
    """Return the most bytes that `compute` holds at one moment, with what is held before it begins.

    On CUDA that is the peak of torch's allocator. Elsewhere it is the sum over all tensors alive, noted at every
    operation: exact, free of the system's noise, and the same in every run.

    Args:
        held: Gives the tensors that exist already and count: weights, images, an optimiser's state.
    Cost: of noting, some ten microseconds an operation.
    Departs: what a kernel allocates for itself and frees again is seen on CUDA only; on the CPU it is mostly nothing,
        and some tenth where a convolution rearranges its weights.
    """
    if device.type != "cuda":
        with _LiveTensors(held()) as live:
            compute()
        peak: int = live.peak
        return peak
    gc.collect()  # what earlier computations left in rings of references must not be freed meanwhile
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    storages = {storage._cdata: storage.nbytes() for storage in (tensor.untyped_storage() for tensor in held())}
    others = torch.cuda.memory_allocated(device) - sum(storages.values())
    compute()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - others


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own class setup is untyped
    """Adds up the storages that are alive while it is entered, each once, and keeps the largest sum.

    A storage is known by its address in torch; views share one. It is struck off in the moment when it is freed.
    """

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._alive: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = {}
        for tensor in held:
            self._note(tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare torch the import of its compiler, which takes seconds, only to tell it that nothing is compiled."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and note what it gives."""
        given = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(given):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return given

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, n_bytes = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive[key] = (weakref.ref(storage, lambda _: self._strike(key)), n_bytes)
        self.now += n_bytes
        self.peak = max(self.peak, self.now)

    def _strike(self, key: int) -> None:
        _, n_bytes = self._alive.pop(key)
        self.now -= n_bytes
