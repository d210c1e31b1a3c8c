"""Every attention runs on a CUDA device, with and without autocast: nothing that it makes lies elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from fake_gpu import claimed_gpu, faked, on_gpu
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.entry import SHAPE_KEEPING, Entry
from nas_attn.testing.cases import Case, cases_of

PRECISIONS = (None, torch.bfloat16, torch.float16)


def cases_by_kind(entry: Entry) -> dict[str, Case]:
    """The entry at each kind of site; those that keep the shape are one."""
    apart = {"output" if kind in SHAPE_KEEPING else kind: kind for kind in reversed(entry.kinds)}
    return {name: cases_of(replace(entry, kinds=(kind,)))[0] for name, kind in apart.items()}


CASES = {f"{name}-{kind}": case for name, entry in ATTENTIONS.items() for kind, case in cases_by_kind(entry).items()}


@pytest.fixture(scope="module")
def gpu() -> Iterator[FakeTensorMode]:
    with claimed_gpu() as mode:
        yield mode


@pytest.mark.parametrize("name", CASES)
def test_an_attention_lies_on_the_gpu_whole(name: str, gpu: FakeTensorMode) -> None:
    case = CASES[name]
    module = on_gpu(case.fresh(), gpu)
    inputs = [faked(x, gpu) for x in case.inputs()]
    for precision in PRECISIONS:
        for training in (True, False):
            module.train(training)
            with gpu, torch.autocast("cuda", dtype=precision or torch.float16, enabled=precision is not None):
                output = module(*inputs)
            assert output.device.type == "cuda"
            assert tuple(output.shape) == case.shape_out(2, case.map)
            assert output.dtype in (torch.float32, precision)


def test_a_tensor_that_is_left_behind_is_found(gpu: FakeTensorMode) -> None:
    class LeavesBehind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1, 4, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale + torch.ones(1, 4, 1, 1)

    module, x = on_gpu(LeavesBehind(), gpu), faked(torch.ones(2, 4, 3, 3), gpu)
    with gpu, pytest.raises(RuntimeError, match=r"found at least two devices, cuda:0 and cpu"):
        module(x)
