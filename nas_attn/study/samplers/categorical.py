"""The parameters that samplers of placements propose."""

from __future__ import annotations

from collections.abc import Mapping

from optuna.distributions import BaseDistribution, CategoricalDistribution


def categorical(found: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    """Return the categorical parameters among them that have more than one value."""
    return {
        name: distribution
        for name, distribution in found.items()
        if isinstance(distribution, CategoricalDistribution) and not distribution.single()
    }
