"""Runs a network once and records what flows through its modules, and counts parameters and multiply-adds."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas_attn.macs import counted_macs


@dataclass
class Passage:
    """What was seen at one module in a dry pass: a pair of hooks that keep it.

    Args:
        clock: Counts the modules that have ended, over the whole network.
        copy_input: Whether to keep the values of the input.
        calls: How often the module ran.
        order: Its rank among all modules by the end of its run.
        output: What it gave.
        tensor, version: The tensor that it gave, and how often that had been written over by then.
        source: The first tensor that it was given.
        given: A copy of the tensor that it was given, if it was one and copies are kept.
    """

    clock: Iterator[int]
    copy_input: bool = False
    calls: int = 0
    order: int = -1
    output: object = None
    tensor: Tensor | None = None
    version: int = 0
    source: Tensor | None = None
    given: Tensor | None = None

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """See what goes in."""
        if args and isinstance(args[0], Tensor):
            self.source = args[0]
        if self.copy_input and len(args) == 1 and isinstance(args[0], Tensor):
            self.given = args[0].clone()

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """See what comes out."""
        self.calls += 1
        self.order = next(self.clock)
        self.output = output
        self.tensor = output if isinstance(output, Tensor) else None
        self.version = output._version if isinstance(output, Tensor) else 0

    @property
    def overwritten(self) -> bool:
        """Tell whether the network wrote over the tensor later on."""
        return self.tensor is not None and self.tensor._version != self.version


def dry_pass(
    net: nn.Module, image: Tensor, paths: Iterable[str], copy_inputs_of: Collection[str] = ()
) -> dict[str, Passage]:
    """Run the network once without gradients, and return what was seen at each path."""
    with watched(net, paths, copy_inputs_of) as passages, torch.no_grad():
        net(image)
    return passages


@contextmanager
def watched(net: nn.Module, paths: Iterable[str], copy_inputs_of: Collection[str] = ()) -> Iterator[dict[str, Passage]]:
    """Yield what is seen at each path while the network runs inside."""
    clock = itertools.count()
    passages = {path: Passage(clock, copy_input=path in copy_inputs_of) for path in paths}
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
