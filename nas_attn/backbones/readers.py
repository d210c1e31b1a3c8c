"""Records which operators read each tensor of a pass: what follows a convolution is observed, not guessed."""

from __future__ import annotations

from collections.abc import Collection, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakTensorKeyDictionary

_aten = torch.ops.aten


class Readers(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch types its hook for subclasses in part
    """Context that records the operators that read each tensor, in order.

    It sees the operators that functions, methods and modules consist of. An operator that returns a view is a reader.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operators: MutableMapping[Tensor, list[Any]] = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_iter((args, kwargs)):
            if isinstance(value, Tensor):
                self._operators.setdefault(value, []).append(func)
        return func(*args, **(kwargs or {}))

    def n_readers(self, tensor: Tensor, but: Collection[Any] = ()) -> int:
        """Return the number of operators that read a tensor, without those in `but`."""
        return sum(found not in but for found in self._operators.get(tensor, ()))

    def reads(self, tensor: Tensor, operators: Collection[Any]) -> bool:
        """Return whether one of these operators reads a tensor."""
        return any(found in operators for found in self._operators.get(tensor, ()))

    def only_relu(self, tensor: Tensor) -> bool:
        """Return whether the only reader is a ReLU, or the first one is a ReLU in place."""
        first, *others = self._operators.get(tensor, (None,))
        return first is _aten.relu_.default or (first is _aten.relu.default and not others)
