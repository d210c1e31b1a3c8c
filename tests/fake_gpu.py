"""A GPU that is not there: tensors without values on `cuda`, which check devices, shapes and dtypes as a real one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def claimed_gpu() -> Iterator[FakeTensorMode]:
    """Autocast, which computes nothing here, believes that there is a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        patch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: True)
        yield FakeTensorMode()


def faked(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    """Return a tensor without values, of the same strides, on the GPU."""
    with mode:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")


def on_gpu(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Move what a module registers, and that alone: a tensor that it keeps as an attribute stays behind."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            part._parameters[name] = nn.Parameter(faked(parameter.data, mode), parameter.requires_grad)
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = faked(buffer, mode)
    return module
