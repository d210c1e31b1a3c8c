"""Grad-CAM: which places of the last map speak for a class; computed by captum."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas_attn.errors import ConfigError
from nas_attn.model.build import AttentionModel


@dataclass(frozen=True)
class LastMap:
    """Where the last map with more than one pixel is, before it is pooled or flattened.

    Args:
        path: Path of a module in the network.
        is_input: Whether the map is that module's input; otherwise its output.
        size: Height and width.
    """

    path: str
    is_input: bool
    size: tuple[int, int]

    def __str__(self) -> str:
        return f"{'input' if self.is_input else 'output'} of {self.path}, {self.size[0]}x{self.size[1]}"


def check_captum() -> None:
    """Refuse Grad-CAM without its package. Raises: ConfigError with the command that installs it."""
    if importlib.util.find_spec("captum") is None:
        raise ConfigError("Grad-CAM needs the package captum, which is missing: pip install 'nas_attn[maps]'.")


def grad_cam(model: AttentionModel, inputs: Tensor, classes: Sequence[int], at: LastMap, *, n_classes: int) -> Tensor:
    """Return how much each place of a map speaks for a class of each image.

    The map's channels, weighted by the mean gradient of the class's logit by each channel, are added, and what is
    negative is set to 0. A single logit for two classes is that of the second, and its negative that of the first.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, arXiv:1610.02391.

    Args:
        model: In evaluation mode.
        classes: One per image.
        at: As `last_map` returns it.
        n_classes: Number of classes, or of labels.

    Shape: inputs (N, C, H, W) -> the map's size (N, h, w).
    Raises: ConfigError if captum is missing.
    """
    check_captum()
    from captum.attr import LayerGradCam

    def logits(images: Tensor) -> Tensor:
        found: Tensor = model(images)
        return torch.cat([-found, found], 1) if found.shape[1] < n_classes else found

    with torch.inference_mode(False), torch.enable_grad():
        images = inputs.detach().clone()
        target = torch.tensor(classes, device=inputs.device)
        method = LayerGradCam(logits, model.backbone.get_submodule(at.path))
        found: Tensor = method.attribute(images, target, attribute_to_layer_input=at.is_input, relu_attributions=True)
    return found.detach()[:, 0]


def last_map(model: AttentionModel, inputs: Tensor) -> LastMap:
    """Return the last map of more than one pixel that a module of the backbone takes or returns, found by one pass.

    It holds the attention of all sites but `head`. In the networks of the catalogue with that site it has the site's
    size, and is what the pooling takes.

    Args:
        inputs: Images; the first is used.
    Raises: ConfigError if no module takes or returns such a map.
    """
    seen: list[LastMap] = []
    handles = []
    for path, module in model.backbone.named_modules():
        if path:
            handles.append(module.register_forward_pre_hook(_spy(seen, path, is_input=True)))
            handles.append(module.register_forward_hook(_spy(seen, path, is_input=False)))
    try:
        with torch.no_grad():
            model(inputs[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise ConfigError("Grad-CAM needs a map of more than one pixel, but no module of the network has one.")
    return seen[-1]


def _spy(seen: list[LastMap], path: str, *, is_input: bool) -> Callable[..., None]:
    """Return a hook that notes the map that a module takes or returns."""

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> None:
        tensor = (inputs[0] if inputs else None) if is_input else output
        if isinstance(tensor, Tensor) and tensor.ndim == 4 and tensor.shape[2] * tensor.shape[3] > 1:
            seen.append(LastMap(path, is_input, (tensor.shape[2], tensor.shape[3])))

    return note
