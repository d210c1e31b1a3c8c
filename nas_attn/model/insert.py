"""Connects an attention to a network: `Insert` around it, `Tap` on a module's output, `Held` in a module's place."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nas_attn.backbones.modules import plain_attributes
from nas_attn.placement import Attention

JOINED = {"concat": 2, "concat_three": 3}
"""Wirings that end in a 1x1 convolution -> the number of tensors that it joins."""


class Joined(nn.Module):
    """An attention A with its wiring and its start.

    Wirings: `gate` y = A(x); `residual` y = x + A(x); `concat` y = conv1x1([x, A(x)]); `concat_three`, in place of a
    residual addition, y = conv1x1([branch, shortcut, A(shortcut)]). With the start `identity` the site's tensor is
    x + g * (y - x) with a learned g that starts at 0; at a merge, x is the plain sum.

    The attention is a child with a name of its own; `concat` and `concat_three` add the convolution `join`, the start
    `identity` the parameter `share`.

    Shape: as the attention; with a wiring other than `gate`, (N, C, H, W) -> the same.
    """

    def __init__(
        self, name: str, attention: nn.Module, channels: int, *, wiring: str = "gate", start: str = "own"
    ) -> None:
        super().__init__()
        self.attention_name, self.wiring, self.start = name, wiring, start
        self.add_module(name, attention)
        if wiring in JOINED:
            self.join = nn.Conv2d(JOINED[wiring] * channels, channels, 1)
        if start == "identity":
            self.share = nn.Parameter(torch.zeros(()))

    @property
    def attention(self) -> nn.Module:
        """The attention module itself."""
        attention: nn.Module = getattr(self, self.attention_name)
        return attention

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """Return the site's new tensor; at a merge, `x` is the branch and the other one the shortcut."""
        if self.wiring == "concat_three":
            attended: Tensor = self.join(torch.cat([x, *others, self.attention(*others)], dim=1))  # 3C -> C channels
        else:
            attended = self.attention(x, *others)
        if self.wiring == "concat":
            attended = self.join(torch.cat([x, attended], dim=1))  # (N, 2C, H, W) -> (N, C, H, W)
        elif self.wiring == "residual":  # addend resolves to this, at a shortcut
            attended = x + attended
        if self.start == "own":
            return attended
        plain = sum(others, x)
        return plain + self.share * (attended - plain)


class Insert(Joined):
    """One attention of a placement, joined to the network at its site.

    The wiring `addend`, at a block's shortcut, y = shortcut + A(shortcut) + branch, is `residual` there. The attention
    has its own name as a child (`cbam`, or `cbam_` if a site below has that name). The inserts of sites whose names
    extend this site's are further children, which `forward` never runs.

    Args:
        below: Next parts of the names of sites that extend this site's name.

    Shape: as the attention; with a wiring other than `gate`, (N, C, H, W) -> the same.
    """

    def __init__(self, placed: Attention, attention: nn.Module, channels: int, below: Collection[str] = ()) -> None:
        name = f"{placed.name}_" if placed.name in below else placed.name
        super().__init__(name, attention, channels, wiring=placed.wiring, start=placed.start)


class Tap:
    """A forward hook that passes a module's output through an insert; an object, so that it is copied and pickled.

    Args:
        copies: Whether the network modifies the output in place later: the insert then works on copies, since its
            gradient may need its input and its output.
    """

    def __init__(self, insert: nn.Module, copies: bool) -> None:
        self.insert, self.copies = insert, copies
        self.handle: RemovableHandle | None = None  # unpickling it keeps later hooks from reusing its id

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Return the new output."""
        inserted: Tensor = self.insert(output.clone() if self.copies else output)
        return inserted.clone() if self.copies else inserted


class InputTap:
    """A forward hook that passes a module's input through an insert; an object, so that it is copied and pickled."""

    def __init__(self, insert: nn.Module) -> None:
        self.insert = insert
        self.handle: RemovableHandle | None = None  # unpickling it keeps later hooks from reusing its id

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the new input."""
        first, *others = args
        return (self.insert(first), *others)


class SkippedNorm(nn.Identity):
    """Identity in place of a norm that an attention replaces, with the norm's attributes: a forward may read them.

    Shape: any -> the same.
    """

    def __init__(self, replaced: nn.Module) -> None:
        super().__init__()
        self.__dict__.update(plain_attributes(replaced))


class Held(nn.Module):
    """Run an insert in place of a module of the network; the insert itself is a child of the model's `attention`.

    Args:
        replaced: The replaced module; its attributes are kept, since a forward may read its `in_channels`, for example.

    Shape: as the insert.
    """

    def __init__(self, insert: Joined, replaced: nn.Module) -> None:
        super().__init__()
        self.__dict__.update(plain_attributes(replaced))
        self._held = (insert,)  # in a tuple it is no child, so that its weights have one name

    @property
    def held(self) -> Joined:
        """The insert."""
        return self._held[0]

    def keep(self, replaced: nn.Module) -> None:
        """Keep the parameters of the replaced module under their own names."""
        for name, parameter in replaced.named_parameters(recurse=False):
            self.register_parameter(name, parameter)

    def forward(self, *maps: Tensor) -> Tensor:
        """Return the output of the insert."""
        output: Tensor = self._held[0](*maps)
        return output
