"""Finds the channels, the image size and the number of classes of a network by running a copy of it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from nas_attn.backbones.catalog import check_shape
from nas_attn.backbones.user_network import (
    N_IMAGES,
    as_before,
    copy_network,
    evaluating,
    random_images,
    run,
)
from nas_attn.errors import SpaceError
from nas_attn.placement import Shape

SMALL, LARGE = (32, 28, 64, 96, 128, 224), (224, 32, 64, 96, 128, 160, 192, 256, 299, 384)
"""Image sizes to try: the first of a network whose first convolution has a stride of 1, and of any other."""


def found_shape(net: nn.Module, *, num_classes: int | None, in_channels: int | None, image_size: int | None) -> Shape:
    """Return the shape of a network's images and logits; what is None is found.

    The channels are those of the first convolution, the image size that of timm's record of the network, if it has
    one, and otherwise the first of `SMALL` or `LARGE` that it accepts, and the number of classes that of its logits, or
    0 if it returns something else.

    Raises: SpaceError if no such images are accepted.
    """
    stated = (num_classes, in_channels, image_size)
    filled = dict(
        zip(("num_classes", "in_channels", "image_size"), (1 if n is None else n for n in stated), strict=True)
    )
    checked = check_shape({"import": ""}, **filled)
    if None not in stated:
        return checked
    trial = copy_network(net)
    refused: SpaceError | None = None
    for shape in _shapes(trial, in_channels, image_size):
        try:
            with as_before(trial), evaluating(trial):
                output = run(trial, random_images(trial, shape))
        except SpaceError as error:
            refused = refused or error
            continue
        return Shape(_n_logits(output) if num_classes is None else num_classes, shape.in_channels, shape.image_size)
    assert refused is not None, "at least one shape is tried"
    raise SpaceError(
        f"{str(refused).removesuffix('.')}: state in_channels and image_size, or wrap the network in a module whose "
        "input is a batch of images."
    ) from refused


def _shapes(net: nn.Module, in_channels: int | None, image_size: int | None) -> Iterator[Shape]:
    """Yield the shapes to try, with any number of classes."""
    first = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    cfg = getattr(net, "pretrained_cfg", None)  # of timm's networks
    record = cfg.get("input_size", ()) if isinstance(cfg, dict) else ()
    channels = [3, 1] if first is None else [first.in_channels, 3, 1]
    sizes = [*record[-1:], *(LARGE if first is not None and max(first.stride) > 1 else SMALL)]
    for size in dict.fromkeys(sizes if image_size is None else [image_size]):
        for n_channels in dict.fromkeys(channels if in_channels is None else [in_channels]):
            yield Shape(1, n_channels, size)


def _n_logits(output: object) -> int:
    """Return the number of logits per image; 0 for an output that is no row of them."""
    is_row = isinstance(output, Tensor) and output.ndim == 2 and len(output) == N_IMAGES
    return output.shape[1] if is_row and isinstance(output, Tensor) else 0
