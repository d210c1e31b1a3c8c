"""Finds the modules whose own forward adds two maps: only these can be residual blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_ADDING = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)


class _Additions(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch types its hook for subclasses in part
    """Context that records the innermost running module of each addition of two maps."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running: list[str] = []
        self.adding: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _ADDING and self.running and all(isinstance(arg, Tensor) and arg.ndim > 2 for arg in args[:2]):
            self.adding.add(self.running[-1])
        return func(*args, **(kwargs or {}))

    def enter(self, path: str, module: nn.Module, args: Any) -> None:
        """Record that a module begins to run."""
        self.running.append(path)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """Record that a module has run."""
        if self.running:
            self.running.pop()


@contextmanager
def adding_modules(net: nn.Module, paths: Iterable[str]) -> Iterator[set[str]]:
    """Yield the set of those modules at `paths` that add two maps themselves in a pass inside the context."""
    seen = _Additions()
    handles = []
    for path in paths:
        module = net.get_submodule(path)
        handles.append(module.register_forward_pre_hook(partial(seen.enter, path), prepend=True))
        handles.append(module.register_forward_hook(seen.leave, always_call=True))
    try:
        with seen:
            yield seen.adding
    finally:
        for handle in handles:
            handle.remove()
