"""The plain operations compute what the fused ones do, value and gradient, in both memory formats."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nas_attn.attention import fused, plain

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(2, 6, 5, 4, generator=GENERATOR, dtype=torch.float64)
ROW, COLUMN, CHANNEL = (torch.rand(shape, dtype=torch.float64) for shape in ((2, 6, 5, 1), (2, 6, 1, 4), (2, 6, 1, 1)))
LAYERS = [torch.randn(shape, generator=GENERATOR, dtype=torch.float64) for shape in ((3, 6), (3,), (6, 3), (6,))]

CASES: dict[str, Callable[[object, Tensor], object]] = {
    "pool over pixels": lambda ops, x: ops.pool(x, ops.PIXELS),
    "pool over every axis": lambda ops, x: ops.pool(x, ops.ROWS, ops.COLUMNS, ops.CHANNELS),
    "scale": lambda ops, x: ops.scale(x, ROW, COLUMN, CHANNEL),
    "scale again": lambda ops, x: ops.scale_again(ops.scale(x, CHANNEL), ROW, x, CHANNEL),
    "scale by sum": lambda ops, x: ops.scale_by_sum(x, ROW, COLUMN),
    "scale by bottleneck": lambda ops, x: ops.scale_by_bottleneck(x, LAYERS, sigmoid=False),
    "scale by bottleneck and sigmoid": lambda ops, x: ops.scale_by_bottleneck(x, LAYERS, sigmoid=True),
    "norm over pixels": lambda ops, x: ops.norm_over_pixels(x, 1e-5),
    "stack planes": lambda ops, x: ops.stack_planes(x[:, :1], x[:, 1:2]),
    "in order": lambda ops, x: ops.in_order(x.transpose(1, 2)),
    "sum over rows": lambda ops, x: ops.sum_over(x, ops.ROWS),
    "channels last": lambda ops, x: x * ops.is_channels_last(x),
}


def outcome(ops: object, case: Callable, memory_format: torch.memory_format) -> tuple[list[Tensor], Tensor]:
    x = X.clone(memory_format=memory_format).requires_grad_()
    found = case(ops, x)
    parts = [found] if isinstance(found, Tensor) else list(found)
    sum((part * part).sum() for part in parts).backward()
    return parts, x.grad


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "last"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_plain_operation_equals_the_fused_one(case: Callable, memory_format: torch.memory_format) -> None:
    for found, expected in zip(outcome(plain, case, memory_format), outcome(fused, case, memory_format), strict=True):
        torch.testing.assert_close(found, expected)


def test_every_operation_that_an_attention_imports_is_there() -> None:
    public = {
        name
        for node in ast.parse(inspect.getsource(fused)).body
        for name in [getattr(node, "name", "_")]
        if name[0] != "_"
    }
    assert public <= set(dir(plain))
    assert {
        name for name in public if inspect.signature(getattr(plain, name)) != inspect.signature(getattr(fused, name))
    } == set()
