"""Every attention runs on a CUDA device, with and without autocast: nothing that it makes lies elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
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


@pytest.fixture
def a_gpu_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast, which computes nothing here, believes that there is a GPU."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: True)


def faked(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    """Return a tensor without values, on a GPU that is not there."""
    fake = mode.from_tensor(tensor)
    with mode:
        return fake.to("cuda")


def on_gpu(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Move what a module registers, and that alone."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            part._parameters[name] = nn.Parameter(faked(parameter.data, mode))
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = faked(buffer, mode)
    return module


@pytest.mark.usefixtures("a_gpu_is_claimed")
@pytest.mark.parametrize("name", CASES)
def test_an_attention_lies_on_the_gpu_whole(name: str) -> None:
    case = CASES[name]
    mode = FakeTensorMode()
    module = on_gpu(case.fresh(), mode)
    inputs = [faked(x, mode) for x in case.inputs()]
    for precision in PRECISIONS:
        for training in (True, False):
            module.train(training)
            with mode, torch.autocast("cuda", dtype=precision or torch.float16, enabled=precision is not None):
                output = module(*inputs)
            assert output.device.type == "cuda"
            assert tuple(output.shape) == case.shape_out(2, case.map)
            assert output.dtype in (torch.float32, precision)


def test_a_tensor_that_is_left_behind_is_found() -> None:
    class LeavesBehind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1, 4, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale + torch.ones(1, 4, 1, 1)

    mode = FakeTensorMode()
    module, x = on_gpu(LeavesBehind(), mode), faked(torch.ones(2, 4, 3, 3), mode)
    with mode, pytest.raises(RuntimeError, match=r"found at least two devices, cuda:0 and cpu"):
        module(x)
