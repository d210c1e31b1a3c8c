"""Runs a network once and records what flows through its modules, and counts parameters and multiply-adds."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas_attn.backbones.readers import Readers
from nas_attn.macs import counted_macs


@dataclass
class Passage:
    """Records the input and output of one module during a pass, by a pair of hooks.

    Args:
        clock: Counter of finished modules, shared by all passages of a network.
        copy_input: Whether to store a copy of the input.
        calls: Number of times the module ran.
        order: Rank of the module by the end of its last run.
        output: Its output.
        tensor, version: The output if it is a tensor, and torch's count of in-place changes to it at that time.
        source: The input if it is a tensor.
        input_copy: A copy of the input if it is one tensor and `copy_input` is set.
        is_alone: Whether the input is one tensor, passed by position.
        reads: Number of operators that had read the output when the module returned it; counted by `readers`.
    """

    clock: Iterator[int]
    copy_input: bool = False
    calls: int = 0
    order: int = -1
    output: object = None
    tensor: Tensor | None = None
    version: int = 0
    source: Tensor | None = None
    input_copy: Tensor | None = None
    is_alone: bool = False
    reads: int = 0
    readers: Readers | None = None

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Record the input."""
        if args and isinstance(args[0], Tensor):
            self.source = args[0]
        self.is_alone = len(args) == 1 and isinstance(args[0], Tensor)
        if self.copy_input and self.is_alone:
            self.input_copy = args[0].clone()

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Record the output."""
        self.calls += 1
        self.order = next(self.clock)
        self.output = output
        self.tensor = output if isinstance(output, Tensor) else None
        self.version = output._version if isinstance(output, Tensor) else 0
        if self.readers is not None and isinstance(output, Tensor):
            self.reads = self.readers.n_readers(output)

    @property
    def overwritten(self) -> bool:
        """Whether the output was modified in place after the module returned it."""
        return self.tensor is not None and self.tensor._version != self.version


def dry_pass(
    net: nn.Module, image: Tensor, paths: Iterable[str], copy_inputs_of: Collection[str] = ()
) -> dict[str, Passage]:
    """Run the network once without gradients; return the passage of each path."""
    with watched(net, paths, copy_inputs_of) as passages, torch.no_grad():
        net(image)
    return passages


@contextmanager
def watched(
    net: nn.Module, paths: Iterable[str], copy_inputs_of: Collection[str] = (), readers: Readers | None = None
) -> Iterator[dict[str, Passage]]:
    """Yield the passages of these paths, which record every pass of the network inside the context."""
    clock = itertools.count()
    passages = {path: Passage(clock, copy_input=path in copy_inputs_of, readers=readers) for path in paths}
    handles = []
    for path, passage in passages.items():
        module = net.get_submodule(path)
        handles.append(module.register_forward_pre_hook(passage.before))
        handles.append(module.register_forward_hook(passage.after))
    try:
        yield passages
    finally:
        for handle in handles:
            handle.remove()


def count_parameters(net: nn.Module) -> int:
    """Return the number of trainable parameters; a shared one counts once."""
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)


def forward_macs(net: nn.Module, images: Tensor) -> int:
    """Return the multiply-adds of the convolutions and matrix products of one pass over `images`."""
    return counted_macs(lambda: net(images))
