"""The placement of a run that does not search: what it is, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nas_attn.placement import Placement

SEED_STEP = 30_000
"""Distance of the seed from that of the placement's own run: no stage of the two uses a seed of the other."""

OF_A_SEARCH = {
    "space": "the network is that of the file",
    "trials": "nothing is searched",
    "top": "nothing is searched",
    "sampler": "nothing is searched",
    "sampler_option": "nothing is searched",
    "scheduler": "nothing is searched",
    "scheduler_option": "nothing is searched",
    "priors": "nothing is searched",
    "screen": "nothing is searched",
    "max_params": "nothing is searched",
    "max_macs": "nothing is searched",
    "max_latency": "it limits what is tried, and nothing is searched",
    "controls": "there is no space to draw them from",
    "ablate": "there is no space to take decisions from",
    "retrain_epochs": "every training is a retraining, and epochs is its length",
}
"""Settings of a search that a retraining does not have, each with the reason."""


@dataclass(frozen=True)
class Given:
    """A placement that a run retrains as it is.

    Args:
        placement: Resolved at the sites of this run's network.
        file: Where it was read.
        arm: Its label in its own run; None if it comes from no run.
        about: What it is, in one sentence without a full stop.
        same_images: Whether its own run trained and tested it on the images of this one.
        searched: The sites that its own run searched, as far as they are known.
    """

    placement: Placement
    file: str
    arm: str | None
    about: str
    same_images: bool
    searched: tuple[str, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        """What tells a run of this placement from any other, in plain JSON."""
        return {"placement": self.placement.to_dict()}

    @property
    def origin(self) -> dict[str, Any]:
        """Where it comes from, in plain JSON."""
        return {"file": self.file, "arm": self.arm, "same_images": self.same_images}
