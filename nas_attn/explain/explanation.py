"""What one network looks at in a few images: the weights of its attentions, and Grad-CAM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas_attn.attention.weighing.record import Weights
from nas_attn.errors import ConfigError
from nas_attn.explain.grad_cam import LastMap, check_captum, grad_cam, last_map
from nas_attn.explain.watching import watch
from nas_attn.model.build import AttentionModel
from nas_attn.model.preprocess import Preprocess
from nas_attn.placement import Attention


@dataclass(frozen=True, eq=False)
class Explanation:
    """What one network looks at in N images; all tensors are on the CPU.

    Args:
        pictures: The images as they were seen, between 0 and 1.
        predicted: The class, or label, with the highest logit, for each image.
        classes: The class whose Grad-CAM is computed, for each image.
        class_names: Names of the classes.
        probabilities: Of each class; None if the meaning of the logits is not known.
        attentions: The attention of each site, in the order of the data flow.
        weights: What it weighed, by site.
        cams: Grad-CAM at the last map.
        last_map: Where that map is.

    Shape: pictures (N, C, H, W), probabilities (N, K), cams (N, h, w).
    """

    pictures: Tensor
    predicted: tuple[int, ...]
    classes: tuple[int, ...]
    class_names: tuple[str, ...]
    probabilities: Tensor | None
    attentions: Mapping[str, Attention]
    weights: Mapping[str, Weights]
    cams: Tensor
    last_map: LastMap

    def __len__(self) -> int:
        return len(self.predicted)


def explain(model: AttentionModel, inputs: Tensor, *, classes: Sequence[int] | None = None) -> Explanation:
    """Return what a network looks at in a few images: the weights of its attentions, and Grad-CAM.

    Grad-CAM is computed at the last map before the pooling, with the attention that is placed there.

    Args:
        model: In evaluation mode, such as `load_model` returns it.
        inputs: As the network takes them: what `model.preprocess` returns.
        classes: The class, or label, of each image whose Grad-CAM is computed; None takes the predicted one.

    Shape: inputs (N, C, H, W), N >= 1.
    Raises: ConfigError in train mode, without the package captum, for another number of classes than images, or for a
        class that the network does not have.
    """
    check_captum()
    with watch(model) as weights, torch.no_grad():
        logits = model(inputs)
    names = _class_names(model, logits)
    best = (logits[:, 0] > 0).long() if logits.shape[1] == 1 and len(names) == 2 else logits.argmax(1)
    predicted = tuple(best.tolist())
    wanted = predicted if classes is None else tuple(classes)
    if len(wanted) != len(inputs):
        raise ConfigError(f"One class per image is needed, but got {len(wanted)} for {len(inputs)} images.")
    if not all(0 <= number < len(names) for number in wanted):
        raise ConfigError(f"Classes must lie in 0 to {len(names) - 1}, but got {sorted(set(wanted))}.")
    place = last_map(model, inputs)
    return Explanation(
        pictures=_pictures(model, inputs),
        predicted=predicted,
        classes=wanted,
        class_names=names,
        probabilities=None if model.probabilities is None else model.probabilities(logits).cpu(),
        attentions={site: model.placement[site] for site in weights},
        weights={site: each.each(Tensor.cpu) for site, each in weights.items()},
        cams=grad_cam(model, inputs, wanted, place, n_classes=len(names)).cpu(),
        last_map=place,
    )


def _class_names(model: AttentionModel, logits: Tensor) -> tuple[str, ...]:
    """Return the names of the classes, or numbers; a single logit of unknown meaning tells two classes apart."""
    return model.class_names or tuple(map(str, range(max(logits.shape[1], 2))))


def _pictures(model: AttentionModel, inputs: Tensor) -> Tensor:
    """Return images of 0 to 1: without the model's normalisation, or else each stretched over its own range."""
    inputs = inputs.detach().float().cpu()
    if isinstance(model.preprocess, Preprocess):
        mean, std = (torch.tensor(values)[:, None, None] for values in (model.preprocess.mean, model.preprocess.std))
        return (inputs * std + mean).clamp(0, 1)
    low, high = inputs.amin((1, 2, 3), keepdim=True), inputs.amax((1, 2, 3), keepdim=True)
    return (inputs - low) / (high - low).clamp(min=1e-12)
