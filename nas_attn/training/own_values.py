"""The values of a training of a user's own: one number, or numbers by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nas_attn.errors import TrialFailed
from nas_attn.training.ends import as_number
from nas_attn.training.values import METRICS, finite_value


def own_values(
    returned: Any, names: tuple[str, ...], usual: str, predictions: tuple[Any, Any] | None
) -> tuple[float, dict[str, float]]:
    """Return what a custom training returned: the value of the trial, and the further objectives by name.

    Args:
        returned: One number, which is the first objective, or numbers by name.
        names: The objectives that the training gives, the first one first; empty for the usual value.
        usual: Name of the usual value, for a training that returns numbers by name.
        predictions: Probabilities and true classes or labels that it recorded; what it did not return is computed from
            them, where they have it.
    Raises: TypeError or TrialFailed, in one sentence.
    """
    first = names[0] if names else usual
    if isinstance(returned, Mapping):
        found = {
            str(name): as_number(value, f"The value '{name}' that the training returned")
            for name, value in returned.items()
        }
        if not names and first not in found and len(found) == 1:
            first = next(iter(found))
    else:
        found = {first: as_number(returned, "The value that the training returned")}
    for name in names or (first,):
        if name not in found and predictions is not None and name in METRICS:
            found[name] = METRICS[name](*map(np.asarray, predictions))
        if name not in found:
            raise TrialFailed(
                "objective",
                f"A training must return each objective that is no property of the network, but '{name}' is missing "
                f"in what it returned ({', '.join(found) or 'nothing'}): return {{'{name}': ...}} with the others"
                + (", or call run.record_predictions." if name in METRICS else "."),
            )
    return found[first], {name: finite_value(name, value) for name, value in found.items() if name != first}
