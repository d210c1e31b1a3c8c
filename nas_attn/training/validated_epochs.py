"""The epochs after which the built-in training measures the validation value."""

from __future__ import annotations

from collections.abc import Iterable

POINTS = 10
"""Number of points, about, of the curve of a training whose validation is expensive."""

MOST_SHARE = 0.05
"""Greatest cost of a validation, as a share of an epoch, at which every epoch is validated."""

FORWARD_SHARE = 1 / 3
"""Cost of an image in a forward pass, as a share of its cost in training, whose backward pass takes two thirds."""


def validated_epochs(epochs: int, *, n_train: int, n_val: int, rungs: Iterable[int] | None = ()) -> frozenset[int]:
    """Return the epochs that are validated: all of them, or about ten and those that a scheduler reads.

    The rule depends on numbers of images alone, and never on measured times, so that every machine measures the same
    epochs. The last epoch is always among them, and so is the one before the last tenth.

    Args:
        epochs: Length of the schedule.
        n_train, n_val: Number of images of an epoch, and of a validation.
        rungs: Epochs at which a scheduler reads the value; None for every epoch.

    >>> sorted(validated_epochs(25, n_train=179, n_val=180, rungs=(8,)))
    [1, 3, 5, 7, 8, 9, 11, 13, 15, 17, 19, 21, 23, 25]
    >>> len(validated_epochs(25, n_train=1_000, n_val=100))
    25
    """
    if rungs is None or FORWARD_SHARE * n_val <= MOST_SHARE * n_train:
        return frozenset(range(1, epochs + 1))
    step = max(1, round(epochs / POINTS))
    return frozenset(range(epochs, 0, -step)) | {rung for rung in rungs if 1 <= rung <= epochs}
