"""How an attention sits in a network: what joins it to the maps that pass, and what holds it in a module's place."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nas_attn.backbones.modules import plain_attributes
from nas_attn.placement import Attention


class Insert(nn.Module):
    """One attention A, how it joins at its site, and how it starts.

    Wirings: `gate` y = A(x); `residual` y = x + A(x); `concat` y = conv1x1([x, A(x)]); `addend`, at a block's shortcut,
    y = shortcut + A(shortcut) + branch, which is `residual` there. With the start `identity` the site's tensor is
    x + g * (y - x) with a learned g that starts at 0; at a merge, x is the plain sum.

    The attention is the child that bears its name (`cbam`, or `cbam_` where a site below is called so); `concat` adds
    the convolution `join`, the start `identity` the parameter `share`. Sites whose names continue this one's hang below
    as further children, which `forward` never runs.

    Args:
        below: What sites whose names continue this one's are called behind it, as far as the next dot.

    Shape: what the attention takes -> what it gives; with a wiring, (N, C, H, W) -> the same.
    """

    def __init__(self, placed: Attention, attention: nn.Module, channels: int, below: Collection[str] = ()) -> None:
        super().__init__()
        self.attention_name = f"{placed.name}_" if placed.name in below else placed.name
        self.wiring, self.start = placed.wiring, placed.start
        self.add_module(self.attention_name, attention)
        if self.wiring == "concat":
            self.join = nn.Conv2d(2 * channels, channels, 1)
        if self.start == "identity":
            self.share = nn.Parameter(torch.zeros(()))

    @property
    def attention(self) -> nn.Module:
        """The attention module itself."""
        attention: nn.Module = getattr(self, self.attention_name)
        return attention

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """Return the site's new tensor; at a merge, `x` is the branch and the other one the shortcut."""
        attended: Tensor = self.attention(x, *others)
        if self.wiring == "concat":
            attended = self.join(torch.cat([x, attended], dim=1))  # (N, 2C, H, W) -> (N, C, H, W)
        elif self.wiring == "residual":  # addend resolves to this, at a shortcut
            attended = x + attended
        if self.start == "own":
            return attended
        plain = sum(others, x)
        return plain + self.share * (attended - plain)


class Tap:
    """A forward hook that hands a module's output through an insert; an object, so that copies and pickles follow it.

    Args:
        copies: Whether the network writes over what passes here: the insert then works on copies, since attention may
            need its input and its output for the gradient.
    """

    def __init__(self, insert: Insert, copies: bool) -> None:
        self.insert, self.copies = insert, copies
        self.handle: RemovableHandle | None = None  # unpickling it keeps later hooks from taking this one's number

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Return what the network shall see instead of `output`."""
        inserted: Tensor = self.insert(output.clone() if self.copies else output)
        return inserted.clone() if self.copies else inserted


class SkippedNorm(nn.Identity):
    """Passes on what it is given, in the place of a norm that an attention replaces; a forward may read its features.

    Shape: any -> the same.
    """

    def __init__(self, replaced: nn.Module) -> None:
        super().__init__()
        self.__dict__.update(plain_attributes(replaced))


class Held(nn.Module):
    """Runs an insert in the place of a module of the network; the insert's weights belong to the model's `attention`.

    Args:
        replaced: The module that stood here; a forward that reads its `in_channels`, say, finds them still.

    Shape: as the insert.
    """

    def __init__(self, insert: Insert, replaced: nn.Module) -> None:
        super().__init__()
        self.__dict__.update(plain_attributes(replaced))
        self._held = (insert,)  # in a tuple, it is no child: its weights have one name

    def keep(self, replaced: nn.Module) -> None:
        """Keep the parameters of the module that stood here, under their own names."""
        for name, parameter in replaced.named_parameters(recurse=False):
            self.register_parameter(name, parameter)

    def forward(self, *maps: Tensor) -> Tensor:
        """Return what the insert gives."""
        given: Tensor = self._held[0](*maps)
        return given
