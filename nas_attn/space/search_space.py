"""A search space: a space file, read and checked, and bound to the sites of its backbone on first use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nas_attn.backbones.site_table import site_table
from nas_attn.errors import SpaceError
from nas_attn.placement import Placement, SiteTable, Value
from nas_attn.space.bound import BoundSpace, Suggests
from nas_attn.space.decision import make_decisions
from nas_attn.space.file import Limits, SiteRule, SpaceFile, find_space, read_space, read_toml, shown

N_CLASSES = 10
"""Number of classes if neither the data nor the caller states it."""


@dataclass(frozen=True)
class SearchSpace:
    """A search space: the content of a space file, checked.

    Create it by `load` or `from_dict`. The methods that need the backbone's sites bind the space on first use, to the
    shape that it was loaded with.

    Args:
        name: Name of the file without its suffix.
        file: Content of the file.
        where: Name of the file in messages.
        num_classes, in_channels, image_size: Shape that `bound` is bound to. None means 10 classes (one logit if the
            recipe sets `one_logit`), and `[data].image_size`, otherwise the backbone's default size.
        table: Sites of a user's own network, which replace those of a backbone.
    """

    name: str
    file: SpaceFile
    where: str
    num_classes: int | None = None
    in_channels: int = 3
    image_size: int | None = None
    table: SiteTable | None = None

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        num_classes: int | None = None,
        in_channels: int = 3,
        image_size: int | None = None,
        table: SiteTable | None = None,
    ) -> SearchSpace:
        """Return a shipped space by its name, or the space of a TOML file by its path.

        Raises: SpaceError, in one sentence: the file, the place in it, and the nearest valid name.
        """
        path = find_space(name_or_path)
        where = shown(path)
        return cls(path.stem, read_space(read_toml(path), where), where, num_classes, in_channels, image_size, table)

    @classmethod
    def from_dict(
        cls,
        record: Mapping[str, Any],
        where: str = "the space",
        *,
        name: str = "space",
        num_classes: int | None = None,
        in_channels: int = 3,
        image_size: int | None = None,
        table: SiteTable | None = None,
    ) -> SearchSpace:
        """Return the space of a space file's content, or of the output of `to_dict`. Raises: SpaceError, as `load`."""
        return cls(name, read_space(record, where), where, num_classes, in_channels, image_size, table)

    @property
    def title(self) -> str:
        """Short description of the space."""
        return self.file.title

    @property
    def backbone(self) -> dict[str, Any]:
        """The backbone's name and options; empty for a space over a user's own network."""
        return dict(self.file.backbone) if isinstance(self.file.backbone, Mapping) else {}

    @property
    def sites(self) -> tuple[SiteRule, ...]:
        """The `[[sites]]` tables."""
        return self.file.sites

    @property
    def attentions(self) -> dict[str, dict[str, tuple[Value, ...]]]:
        """Every attention of the space, in the order of the file, with the values of its options."""
        names = dict.fromkeys(name for rule in self.sites for name in rule.attentions)
        return {name: dict(self.file.attentions.get(name, {})) for name in names}

    @property
    def limits(self) -> Limits:
        """Limits on the cost of a network."""
        return self.file.limits

    @property
    def data(self) -> dict[str, Any]:
        """The settings of `[data]` that the file states."""
        return dict(self.file.data)

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings of `[recipe]` that the file states."""
        return dict(self.file.recipe)

    @property
    def n_logits(self) -> int:
        """Number of logits of the network by default: one if the recipe sets `one_logit`, otherwise one per class."""
        usual = 1 if self.recipe.get("one_logit") else N_CLASSES
        return usual if self.num_classes is None else self.num_classes

    @property
    def digest(self) -> str:
        """SHA-256 of the content without the title."""
        content = {key: value for key, value in self.to_dict().items() if key != "title"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the content as plain JSON values; `from_dict` reads it."""
        record: dict[str, Any] = self.file.model_dump(mode="json", exclude_none=True)
        return {key: value for key, value in record.items() if value != {}}

    def bind(self, table: SiteTable, *, max_params: int | None = None, max_macs: int | None = None) -> BoundSpace:
        """Return this space over the sites of one backbone at one input shape.

        Args:
            max_params, max_macs: Limits in addition to those of the file.

        Raises: SpaceError that names the file, the place and the misfit.
        """
        options = {
            name: {key: tuple(values) for key, values in found.items()} for name, found in self.attentions.items()
        }
        listing = f"nas-attn sites {self.where}" if self.backbone and self.where.endswith(".toml") else table.listing
        decisions = make_decisions(self.sites, options, table, self.where, listing)
        bound = BoundSpace(self, table, self.limits.tightened(max_params, max_macs), decisions)
        reason = bound.check(bound.cheapest())
        if reason:
            raise SpaceError(f"No placement of {self.where} meets the limits, not even the cheapest: {reason}")
        return bound

    @cached_property
    def bound(self) -> BoundSpace:
        """This space over the sites of its own backbone, at the shape that it was loaded with."""
        if self.table is not None:
            return self.bind(self.table)
        if not self.backbone:
            raise SpaceError(
                f"{self.where} names no backbone: add [backbone], or pass the sites of your network as table."
            )
        size = self.image_size or self.data.get("image_size")
        table = site_table(self.backbone, num_classes=self.n_logits, in_channels=self.in_channels, image_size=size)
        return self.bind(table)

    def suggest(self, trial: Suggests, *, prefix: str = "") -> Placement:
        """Return the placement that an Optuna trial suggests; it only calls `trial.suggest_categorical`.

        Args:
            prefix: What the parameters' names begin with, so that two spaces fit into one trial.
        Raises: SpaceError if the trial has values of another space, or of an earlier form of this one.
        """
        return self.bound.suggest(trial, prefix=prefix)

    def tune_space(self, *, prefix: str = "") -> dict[str, Any]:
        """Return the parameters as `ray.tune.choice` objects, for `param_space` of a `tune.Tuner`.

        Args:
            prefix: What the parameters' names begin with, as for `placement`.
        """
        from ray import tune

        return {f"{prefix}{name}": tune.choice(list(values)) for name, values in self.bound.choices.items()}

    def placement(self, config: Mapping[str, Any], *, prefix: str = "") -> Placement:
        """Return the placement of a sampled configuration; other keys are ignored.

        Args:
            prefix: What the parameters' names begin with, as in `tune_space`.
        Raises: SpaceError that names a parameter that is missing or has an unknown value.
        """
        own = {name.removeprefix(prefix): value for name, value in config.items() if name.startswith(prefix)}
        return self.bound.placement(own)

    def check(self, placement: Placement) -> str | None:
        """Return the sentence for the limit that the placement exceeds, or None."""
        return self.bound.check(placement)
