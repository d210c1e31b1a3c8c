"""Everything that the built-in training changes from epoch to epoch, to store it and to continue from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nas_attn.training.keeper import CannotContinue
from nas_attn.training.state import generator_states, restore_generators


@dataclass
class LoopState:
    """The state of a training after an epoch.

    Args:
        generator: Draws the order of the images and the augmentation.
        device: That of the training.
        epoch: Number of finished epochs; with it the position in the schedule.
        loss: Mean loss of the last epoch.
        seconds, seconds_evaluating: Time of each epoch, and of its evaluation.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    device: torch.device
    epoch: int = 0
    loss: float = math.nan
    seconds: list[float] = field(default_factory=list)
    seconds_evaluating: list[float] = field(default_factory=list)

    def take(self) -> dict[str, Any]:
        """Return the state, which shares its tensors with the training."""
        return {
            "model": self.model.state_dict(),
            "buffers": _unsaved_buffers(self.model),
            "optimizer": self.optimizer.state_dict(),
            "order": self.generator.get_state(),
            "generators": generator_states(self.device),
            "epoch": self.epoch,
            "loss": self.loss,
            "seconds": list(self.seconds),
            "seconds_evaluating": list(self.seconds_evaluating),
        }

    def restore(self, stored: Mapping[str, Any]) -> None:
        """Continue from a stored state.

        Raises: CannotContinue if it does not fit the network, as after an update of a package.
        """
        try:
            self.model.load_state_dict(stored["model"])
            own = _unsaved_buffers(self.model)
            for name, buffer in stored["buffers"].items():
                own[name].copy_(buffer)
            self.optimizer.load_state_dict(stored["optimizer"])
            self.generator.set_state(stored["order"])
            restore_generators(stored["generators"], self.device)
            self.epoch, self.loss = int(stored["epoch"]), float(stored["loss"])
            self.seconds, self.seconds_evaluating = list(stored["seconds"]), list(stored["seconds_evaluating"])
        except Exception as error:  # the network and its loading are code of others
            raise CannotContinue(f"{type(error).__name__}: {error}") from error


def _unsaved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that the state dict leaves out."""
    stored = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name not in stored}
