"""The names of the classes: those that can be written, and the two of one logit."""

from __future__ import annotations

from nas_attn.data.dataset import DataFacts
from nas_attn.errors import ConfigError, DataError
from nas_attn.placement import Shape


def refuse_unwritten_names(facts: DataFacts) -> None:
    """Refuse class names that no file can hold: the report would fail at the end. Raises: DataError."""
    for name in facts.class_names:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise DataError(
                f"A class must have a name that can be written as UTF-8, but {facts.name} has {name!r}: rename it."
            ) from None


def two_classes(shape: Shape, facts: DataFacts | None) -> tuple[str, ...]:
    """Return the names of the two classes of one logit. Raises: ConfigError if there are not two classes."""
    several = facts is not None and facts.task == "multi-label"
    if shape.num_classes != 2 or several:
        whose = f"{facts.name} has" if facts is not None else "--num-classes states"
        what = f"{shape.num_classes} {'independent labels' if several else 'classes'}"
        raise ConfigError(
            f"One logit needs two classes, but {whose} {what}: use --no-one-logit, or data with two classes."
        )
    return facts.class_names if facts is not None else ("0", "1")
