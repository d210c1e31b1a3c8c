"""Random numbers that depend on a seed and the name of a part alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, part: str) -> Iterator[None]:
    """Seed the CPU's random numbers by `seed` and the name of a part, and put the global generator back afterwards.

    Each part of a model is made inside one of these, so that its initial weights depend on nothing else in the model.
    """
    state = torch.get_rng_state()
    digest = hashlib.sha256(f"{seed}/{part}".encode()).digest()
    torch.default_generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    try:
        yield
    finally:
        torch.set_rng_state(state)
