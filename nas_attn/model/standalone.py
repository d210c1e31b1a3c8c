"""What a network that is written as one Python file needs beside its layers; its source is a part of that file."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from nas_attn.backbones.modules import put_module
from nas_attn.model.insert import Held, InputTap, Joined, SkippedNorm, Tap


class Network(nn.Module):
    """A backbone and the attention that is placed in it; weights have the names `backbone.*` and `attention.*`.

    Args:
        placed: The attention by the name of its site; `tap` and `hold` have connected it to the backbone.

    Shape: (N, channels, H, W) -> (N, logits).
    """

    def __init__(self, backbone: nn.Module, placed: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.attention = nn.Module()
        for site in sorted(placed, key=len):  # a name precedes those that extend it
            node = self.attention
            *path, last = site.split(".")
            for part in path:
                if part not in node._modules:
                    node.add_module(part, nn.Module())
                node = node.get_submodule(part)
            node.add_module(last, placed[site])

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.backbone(images)
        return logits


def open_block(net: nn.Module, path: str, opened: type[nn.Module], **openings: nn.Module) -> None:
    """Let a residual block run the forward of `opened`, which calls a module at each place for attention."""
    block = net.get_submodule(path)
    block.__class__ = opened
    block.add_module("attention_openings", nn.ModuleDict(openings))


def tap(net: nn.Module, path: str, joined: Joined, *, copies: bool = False) -> None:
    """Pass the output of a module through attention.

    Args:
        copies: Whether the network modifies that output in place later.
    """
    net.get_submodule(path).register_forward_hook(Tap(joined, copies))


def tap_input(net: nn.Module, path: str, joined: Joined) -> None:
    """Pass the input of a module through attention."""
    net.get_submodule(path).register_forward_pre_hook(InputTap(joined))


def hold(net: nn.Module, path: str, joined: Joined) -> None:
    """Put attention in place of a module; an attention that takes over a convolution uses its weights."""
    replaced = net.get_submodule(path)
    held = Held(joined, replaced)
    take_over = getattr(joined.attention, "take_over", None)
    if take_over is not None:
        held.keep(replaced)
        take_over(held)
    put_module(net, path, held)


def skip_norm(net: nn.Module, path: str) -> None:
    """Put an identity in place of a norm that attention replaces."""
    put_module(net, path, SkippedNorm(net.get_submodule(path)))
