"""The first passes of a network as it is: in evaluation, in training, and backward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas_attn.backbones.passes import Passage
from nas_attn.backbones.survey.additions import adding_modules
from nas_attn.backbones.survey.effects import unlearned
from nas_attn.backbones.survey.swaps import Sighting, sight
from nas_attn.backbones.user_network import as_before, check_output, run
from nas_attn.errors import SpaceError

_SAME = ("ViewBackward0", "ReshapeAliasBackward0", "UnsafeViewBackward0", "SqueezeBackward1", "UnsqueezeBackward0")
"""Steps of the gradient that only change the shape."""
_SQUASHING = {"SoftmaxBackward0": "softmax", "SigmoidBackward0": "a sigmoid"}
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class FirstPasses:
    """What the first passes of a network show.

    Args:
        sightings: In evaluation and, if the network can be trained, in training.
        passages: Of all modules, in evaluation.
        trained: Of all modules, in training; empty if the network cannot be trained.
        adding: Paths of the modules whose own forward adds two maps.
        unlearned: Modules whose output gets no gradient, with the reason.
        untrainable: Why the network cannot be trained, if it cannot.
        squashed: A sentence on a network that does not return logits; empty for others.
    """

    sightings: Sequence[Sighting]
    passages: Mapping[str, Passage]
    trained: Mapping[str, Passage]
    adding: frozenset[str]
    unlearned: Mapping[str, str]
    untrainable: str | None
    squashed: str


def first_passes(net: nn.Module, images: Tensor, paths: Sequence[str], num_classes: int, name: str) -> FirstPasses:
    """Run the network in both modes and leave it in evaluation.

    Raises: SpaceError if it does not accept the images in evaluation, returns something else than logits, or creates
    parameters or buffers in its first pass.
    """
    names = set(net.state_dict())
    with as_before(net), adding_modules(net, paths) as adding:
        evaluated, passages = sight(net.eval(), images, paths)
    check_output(name, evaluated.output, num_classes, training=False)
    late = sorted(set(net.state_dict()) - names)
    if late:
        raise SpaceError(
            f"The network {name} creates '{late[0]}' in its first pass, so a file could not fill it: register it in "
            "__init__, or run the network once before."
        )
    try:
        with as_before(net):
            trained, in_training = sight(net.train(), images, paths)
        check_output(name, trained.output, num_classes, training=True)
        lost, function = _backward(net, images)
    except SpaceError as error:
        return FirstPasses([evaluated], passages, {}, frozenset(adding), {}, str(error), "")
    finally:
        net.eval()
    squashed = _squashed(name, function or _of_probabilities(evaluated.output)) if num_classes else ""
    return FirstPasses([evaluated, trained], passages, in_training, frozenset(adding), lost, None, squashed)


def _backward(net: nn.Module, images: Tensor) -> tuple[dict[str, str], str]:
    """Run forward and backward; return the modules without a gradient, and the function at the end, if it squashes.

    Raises: SpaceError if the network does not run with gradients.
    """
    ends: list[str] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        ends.append(_last_function(output))

    handle = net.register_forward_hook(note)
    try:
        lost = unlearned(net, images)
    finally:
        handle.remove()
    if lost is None:
        with as_before(net):
            run(net.train(), images, gradients=True)
    return lost or {}, ends[-1] if ends else ""


def _last_function(output: object) -> str:
    """Return the squashing function that made an output, in words; empty for another one."""
    step = output.grad_fn if isinstance(output, Tensor) else None
    while step is not None and (step.name() in _SAME or _adds_mark(step)):
        step = step.next_functions[0][0]
    return "" if step is None else _SQUASHING.get(step.name(), "")


def _adds_mark(step: Any) -> bool:
    """Return whether a step of the gradient adds the scalar by which `unlearned` marks the output of a module."""
    added = step.next_functions[1][0] if step.name() == "AddBackward0" else None
    return added is not None and added.name() == "torch::autograd::AccumulateGrad" and added.variable.ndim == 0


def _of_probabilities(output: object) -> str:
    """Return "softmax in evaluation" if the rows of an output are probabilities; otherwise an empty string."""
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[1] < 2:
        return ""
    rows = output.float()
    is_sum = bool((rows >= 0).all()) and torch.allclose(rows.sum(1), torch.ones(len(rows)), atol=_TOLERANCE)
    return "softmax in evaluation" if is_sum else ""


def _squashed(name: str, function: str) -> str:
    if not function:
        return ""
    return (
        f"'{name}' ends in {function}, but is trained and read as if it returned logits: the function is applied "
        "twice, which slows training and distorts the probabilities, so leave it out of the network."
    )
