"""Which operators read a tensor while a network runs: what lies behind a convolution is seen, not guessed."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakTensorKeyDictionary

_aten = torch.ops.aten


class Readers(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch types its hook for subclasses in part
    """Keeps, while it is entered, the operators that read each tensor, in their order.

    It sees what functions, methods and modules come down to; one that makes a view of a tensor counts as its reader.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operators: MutableMapping[Tensor, list[Any]] = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_iter((args, kwargs)):
            if isinstance(value, Tensor):
                self._operators.setdefault(value, []).append(func)
        return func(*args, **(kwargs or {}))

    def n_readers(self, tensor: Tensor) -> int:
        """Count the operators that read a tensor."""
        return len(self._operators.get(tensor, ()))

    def only_relu(self, tensor: Tensor) -> bool:
        """Tell whether a ReLU alone reads a tensor, or writes over it before anything else does."""
        first, *others = self._operators.get(tensor, (None,))
        return first is _aten.relu_.default or (first is _aten.relu.default and not others)
