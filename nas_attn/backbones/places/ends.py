"""Names the ends of a network: behind its first convolution, and the map that enters its global pooling."""

from __future__ import annotations

from nas_attn.backbones.sites import Place


def stem(module: str, pool: str | None = None) -> list[Place]:
    """Name the output of the first convolution with its norm and activation, and of a pooling right behind it.

    Args:
        module: Path of the module whose output is that of the first convolution with its norm and activation.
        pool: Path of the pooling; with a small stem an Identity stands there, and the place is left out.
    """
    places = [Place("stem", "output", module, "stem", spelled=True)]
    return places if pool is None else [*places, Place("stem.pool", "output", pool, "stem", spelled=True)]


def features(module: str, stage: str) -> Place:
    """Name the map that enters the global pooling, or the first linear layer.

    Where the scores of the classes are pooled, it is the map from which they are computed.
    """
    return Place("features", "output", module, stage, spelled=True)
