"""Loads a file of weights into a plain network, strictly by the names of its state dict.

The keys and prefixes around the weights are those of anybody's training: see `weight_sets.py`.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nas_attn.backbones.inert_pickle import read_torch_file
from nas_attn.backbones.weight_sets import choose_weights, refuse_not_finite
from nas_attn.errors import FileError, first_line

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Auxiliary classifiers of GoogLeNet and Inception, which the catalogue's networks do not have."""
_COUNTER = "num_batches_tracked"


def load_weights(
    net: nn.Module, file: Path, *, num_classes: int, class_names: Sequence[str] = (), taken_out: Sequence[str] = ()
) -> list[str]:
    """Load a file into a plain network; return notes on weights that had to be adapted.

    If the number of classes differs, the classifier keeps
    its initial weights except for rows of classes with the same names; between one logit and two for two classes, a row
    is the difference of the two, and each of the two is half of the one. A first convolution for 3 channels is summed
    over them if the images have one channel.

    Departs: torchvision's pretrained GoogLeNet and Inception-v3 rescale the images inside the network; these do not.

    Args:
        num_classes: Number of logits of the network: one per class, or one for two classes.
        class_names: Names of the images' classes, if known.
        taken_out: Paths of modules that were removed from the network; their weights in the file are ignored.
    Raises: FileError if the file cannot be read, or with the first name or shape that differs, or the first tensor
    that is not finite.
    """
    wanted = net.state_dict()
    state, notes = choose_weights(_read(file), wanted, file)
    aside = (*(f"{path}." for path in taken_out), *(name for name in _AUXILIARY if not _has(net, name)))
    state = {key: value for key, value in state.items() if not key.startswith(aside)}
    refuse_not_finite(state, file)
    notes += _sum_channels(net, wanted, state, file)
    notes += _fit_classifier(net, wanted, state, file, num_classes, class_names)
    _refuse_other(wanted, state, file)
    fill(net, {**{key: wanted[key] for key in wanted if key.endswith(_COUNTER)}, **state})
    return notes


def fill(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load tensors strictly, with the version numbers of the network's modules: safetensors files have none."""
    versioned = OrderedDict(state)
    versioned._metadata = getattr(net.state_dict(), "_metadata", {})  # type: ignore[attr-defined]  # as torch does
    with torch.no_grad():
        net.load_state_dict(versioned)


def classifier_path(net: nn.Module, num_classes: int) -> str | None:
    """Return the path of the last linear layer or convolution with `num_classes` outputs, or None."""
    found = None
    for path, module in net.named_modules():
        if _n_outputs(module) == num_classes:
            found = path
    return found


def _n_outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) else None


def _read(file: Path) -> Any:
    """Return the content of a file; no code in it is executed."""
    if file.suffix != ".safetensors":
        return read_torch_file(file)
    try:
        return safetensors.torch.load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(f"The weights {file} cannot be read: {first_line(error)}.") from error


def _has(net: nn.Module, key: str) -> bool:
    return key.partition(".")[0] in dict(net.named_children())


def _sum_channels(net: nn.Module, wanted: Mapping[str, Tensor], state: dict[str, Tensor], file: Path) -> list[str]:
    """Sum the first convolution over its 3 channels for images of one channel; refuse any other difference."""
    path = next((path for path, module in net.named_modules() if isinstance(module, nn.Conv2d)), None)
    key = f"{path}.weight"
    if path is None or key not in state or state[key].ndim != 4:
        return []
    (n_out, n_given, *size), (n_wanted_out, n_wanted, *wanted_size) = state[key].shape, wanted[key].shape
    if n_given == n_wanted or (n_out, size) != (n_wanted_out, wanted_size):
        return []
    if (n_given, n_wanted) != (3, 1):
        raise FileError(
            f"The weights {file} are for images of {n_given} channels, but these have {n_wanted} ('{key}'): only 3 can "
            "be converted to 1, by a sum."
        )
    state[key] = state[key].sum(1, keepdim=True)
    return [f"The weights are for images of 3 channels: '{key}' is summed over them for images of one."]


def _fit_classifier(
    net: nn.Module,
    wanted: Mapping[str, Tensor],
    state: dict[str, Tensor],
    file: Path,
    num_classes: int,
    class_names: Sequence[str],
) -> list[str]:
    """Keep the classifier rows of matching classes; the other rows get the initial weights."""
    path = classifier_path(net, num_classes)
    keys = [key for key in (f"{path}.weight", f"{path}.bias") if key in wanted and key in state]
    n_rows = {state[key].shape[0] for key in keys}
    other = any(state[key].shape[1:] != wanted[key].shape[1:] for key in keys)
    if path is None or len(n_rows) != 1 or other:  # of another network: refused later
        return []
    n_given = n_rows.pop()
    ours = list(class_names) or [str(index) for index in range(num_classes)]
    theirs = _class_names(file) if class_names else []
    if len(theirs) != n_given and not _is_pair(theirs, n_given):  # without names only an equal number of classes fits
        theirs = ours if n_given in (num_classes, len(ours)) else []
    rows = _rows(ours, num_classes, theirs, n_given)
    for key in keys:
        fitted = wanted[key].clone()
        for row, parts in rows.items():
            fitted[row] = sum(share * state[key][given_row].to(fitted.dtype) for given_row, share in parts.items())
        state[key] = fitted
    if len(rows) == num_classes:
        return []
    kept = f"keeps the rows of {len(rows)} classes of the same name" if rows else "keeps its initial weights"
    n_theirs = len(theirs) or n_given
    return [f"The weights' {n_theirs} classes are not the images' {len(ours)}: the classifier '{path}' {kept}."]


def _rows(ours: list[str], n_ours: int, theirs: list[str], n_theirs: int) -> dict[int, dict[int, float]]:
    """Return the rows that another classifier determines, each as a weighted sum {index of its row: weight}.

    A single logit z for two classes is the difference of two logits, and these are then -z/2 and z/2.
    """
    known = {name: {index: 1.0} for index, name in enumerate(theirs)}
    if _is_pair(theirs, n_theirs):
        known = {theirs[0]: {0: -0.5}, theirs[1]: {0: 0.5}} if {*theirs} <= {*ours} else {}
    if not _is_pair(ours, n_ours):
        return {index: known[name] for index, name in enumerate(ours) if name in known}
    if not {*ours} <= {*known}:
        return {}
    second, first = known[ours[1]], known[ours[0]]
    return {0: {row: second.get(row, 0.0) - first.get(row, 0.0) for row in {*second, *first}}}


def _is_pair(names: list[str], n_logits: int) -> bool:
    return n_logits == 1 and len(names) == 2


def _class_names(file: Path) -> list[str]:
    """Return the class names in the model file (`.json`) beside the weights, if any."""
    try:
        content = json.loads(file.with_suffix(".json").read_bytes())
        names = content["class_names"] if content["weights"]["name"] == file.name else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _refuse_other(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], file: Path) -> None:
    """Refuse the first name or shape that differs, in the network's order; old files have no batch counters."""
    for key in [*wanted, *(key for key in state if key not in wanted)]:
        if key.endswith(_COUNTER) and key in wanted and key not in state:
            continue
        shapes = [tuple(found[key].shape) if key in found else "absent" for found in (wanted, state)]
        if shapes[0] != shapes[1]:
            raise FileError(
                f"The weights {file} do not fit the network: '{key}' must be {shapes[0]}, but is {shapes[1]}: "
                "take weights of this network, with its options."
            )
