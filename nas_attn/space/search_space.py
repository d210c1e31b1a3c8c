"""A search space, and the same space bound to the sites of one backbone: every placement, its key and its cost."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Protocol

from nas_attn.backbones.site_table import site_table
from nas_attn.errors import SpaceError, unknown
from nas_attn.placement import NONE, Attention, Placement, SiteTable, Value
from nas_attn.space.decision import Decision, make_decisions
from nas_attn.space.file import Limits, SiteRule, SpaceFile, available_spaces, find_space, read_space, read_toml, shown
from nas_attn.space.fit import Cost, cost_at, resolve_at, resolve_placement
from nas_attn.space.schema import space_schema

__all__ = ["BoundSpace", "Cost", "SearchSpace", "available_spaces", "space_schema"]

N_CLASSES = 10
"""Classes where neither data nor caller say how many."""


class Suggests(Protocol):
    """What a trial must offer; Optuna's trials of every kind do."""

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


@dataclass(frozen=True)
class SearchSpace:
    """What may be placed where: a space file, read and checked.

    Make one with `load` or `from_dict`. The methods that need the backbone's sites bind the space on first use, to the
    shape that it was loaded with.

    Args:
        name: The file's name without its ending.
        file: The file's content.
        where: How sentences name the file.
        num_classes, in_channels, image_size: The shape that `bound` is bound to; None takes 10 classes, or one logit
            where the recipe says so, and `[data].image_size`, else the backbone's default.
        table: Sites of a network of the user's own, in place of a backbone's.
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
        """Read a shipped space by its name, or a TOML file by its path.

        Raises: SpaceError, in one sentence: the file, the place in it, and the nearest valid word.
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
        """Read what a space file holds, or what `to_dict` wrote. Raises: SpaceError as `load` does."""
        return cls(name, read_space(record, where), where, num_classes, in_channels, image_size, table)

    @property
    def title(self) -> str:
        """What the space is, in a few words."""
        return self.file.title

    @property
    def backbone(self) -> dict[str, Any]:
        """The backbone's name and options; empty for a space over a network of the user's own."""
        return dict(self.file.backbone) if isinstance(self.file.backbone, Mapping) else {}

    @property
    def sites(self) -> tuple[SiteRule, ...]:
        """The `[[sites]]` tables."""
        return self.file.sites

    @property
    def attentions(self) -> dict[str, dict[str, tuple[Value, ...]]]:
        """Every attention of the space, in the order of the file, with the values of the options that it gives."""
        names = dict.fromkeys(name for rule in self.sites for name in rule.attentions)
        return {name: dict(self.file.attentions.get(name, {})) for name in names}

    @property
    def limits(self) -> Limits:
        """What a placement may cost."""
        return self.file.limits

    @property
    def data(self) -> dict[str, Any]:
        """The settings of `[data]` that the file gives."""
        return dict(self.file.data)

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings of `[recipe]` that the file gives."""
        return dict(self.file.recipe)

    @property
    def n_logits(self) -> int:
        """How many logits the network gives where nothing else is said: one for two classes, else one a class."""
        usual = 1 if self.recipe.get("one_logit") else N_CLASSES
        return usual if self.num_classes is None else self.num_classes

    @property
    def digest(self) -> str:
        """SHA-256 of everything but the title."""
        content = {key: value for key, value in self.to_dict().items() if key != "title"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the content as plain JSON values; `from_dict` reads it."""
        record: dict[str, Any] = self.file.model_dump(mode="json", exclude_none=True)
        return {key: value for key, value in record.items() if value != {}}

    def bind(self, table: SiteTable, *, max_params: int | None = None, max_macs: int | None = None) -> BoundSpace:
        """Return this space over the sites of one backbone at one input shape.

        Args:
            max_params, max_macs: Limits that apply beside those of the file.

        Raises: SpaceError that names the file, the place, and what does not fit.
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
        """The space over the sites of its own backbone, at the shape that it was loaded with."""
        if self.table is not None:
            return self.bind(self.table)
        if not self.backbone:
            raise SpaceError(
                f"{self.where} names no backbone: add [backbone], or pass the sites of your network as table."
            )
        size = self.image_size or self.data.get("image_size")
        table = site_table(self.backbone, num_classes=self.n_logits, in_channels=self.in_channels, image_size=size)
        return self.bind(table)

    def suggest(self, trial: Suggests) -> Placement:
        """Return the placement that an Optuna trial suggests; only calls `trial.suggest_categorical`."""
        return self.bound.suggest(trial)

    def tune_space(self) -> dict[str, Any]:
        """Return the parameters as `ray.tune.choice` objects, for `param_space` of a `tune.Tuner`."""
        from ray import tune

        return {name: tune.choice(list(values)) for name, values in self.bound.choices.items()}

    def placement(self, config: Mapping[str, Any]) -> Placement:
        """Return the placement of a sampled configuration; keys that are not the space's are ignored."""
        return self.bound.placement(config)

    def check(self, placement: Placement) -> str | None:
        """Return which limit a placement breaks, with numbers, or None."""
        return self.bound.check(placement)


@dataclass(frozen=True)
class BoundSpace:
    """A space over the sites of one backbone at one input shape: everything is checked, every cost is known.

    Args:
        limits: Those of the file, tightened by the user's.
        decisions: One for each site or group of sites that shares a choice.
    """

    space: SearchSpace
    table: SiteTable
    limits: Limits
    decisions: tuple[Decision, ...]

    @cached_property
    def choices(self) -> dict[str, tuple[Value, ...]]:
        """The parameters and their values: `<group>.attention` and `<group>.<attention>.<option>`.

        A public contract: names, values and order are the same at every call and in every version. An option with a
        single value is no parameter. "auto" stands for None.
        """
        return {name: values for decision in self.decisions for name, values in decision.choices.items()}

    @property
    def attentions(self) -> tuple[str, ...]:
        """The attentions of the space, in the order of the file."""
        return tuple(self.space.attentions)

    def placement(self, params: Mapping[str, Value]) -> Placement:
        """Return the resolved placement of flat parameters; other keys are ignored.

        Raises: SpaceError that names a parameter that is missing or has an unknown value.
        """
        chosen: dict[str, Attention] = {}
        for decision in self.decisions:
            chosen.update(decision.fragment(params).attentions)
        return Placement(chosen)

    def resolve(self, placement: Placement) -> Placement:
        """Return the placement with every attention resolved at its site: equal models have equal keys.

        Raises: SpaceError if a site is unknown, or an attention does not fit.
        """
        return resolve_placement(self.table, placement)

    def params(self, placement: Placement) -> dict[str, Value] | None:
        """Return flat parameters that give this placement, or None if it does not lie in the space."""
        try:
            rest = dict(self.resolve(placement).attentions)
        except SpaceError:
            return None
        params: dict[str, Value] = {}
        for decision in self.decisions:
            placed = tuple((site.name, rest.pop(site.name)) for site in decision.sites if site.name in rest)
            if placed not in decision.distinct:
                return None
            params |= decision.params(decision.distinct[placed])
        return None if rest else params

    def suggest(self, trial: Suggests) -> Placement:
        """Return the placement that a trial suggests; every parameter is suggested every time."""
        return self.placement({name: trial.suggest_categorical(name, values) for name, values in self.choices.items()})

    def everywhere(self, name: str) -> Placement:
        """Return the placement with one attention wherever it is a choice, its options nearest to their defaults.

        Raises: SpaceError that names the nearest attention of the space.
        """
        return self._with(name, self.decisions)

    def priors(self) -> list[tuple[str, Placement]]:
        """Return the placements to try first, each with its label, without doubles and without those over a limit.

        First no attention, then each attention everywhere, then each in the last stage only, where sharing allows it.
        """
        labelled = [("none", NONE)]
        labelled += [(f"{name} everywhere", self.everywhere(name)) for name in self.attentions]
        for name in self.attentions:
            last = self._in_last_stage(name)
            labelled += [(f"{name} in the last stage", self._with(name, last))] if last else []
        first: dict[str, tuple[str, Placement]] = {}
        for label, placement in labelled:
            if self.check(placement) is None:
                first.setdefault(placement.key, (label, placement))
        return list(first.values())

    def cost(self, placement: Placement) -> Cost:
        """Return parameters and multiply-adds of the network with this placement, by closed forms.

        Raises: SpaceError if a site is unknown, or an attention does not fit.
        """
        n_parameters, n_macs = self.table.n_parameters, self.table.n_macs
        for place in placement.attentions.items():
            cost = self._costs.get(place) or self._cost_at(*place)
            n_parameters += cost.n_parameters
            n_macs += cost.n_macs
        return Cost(n_parameters, n_macs)

    def check(self, placement: Placement) -> str | None:
        """Return which limit the placement breaks, with numbers, or None."""
        cost = self.cost(placement)
        for unit, value, name, limit in (
            ("parameters", cost.n_parameters, "max_params", self.limits.max_params),
            ("multiply-adds", cost.n_macs, "max_macs", self.limits.max_macs),
        ):
            if limit is not None and value > limit:
                return f"{unit} <= {name} must hold, but the network has {value:,} {unit}, and {name} is {limit:,}."
        return None

    @cached_property
    def n_placements(self) -> int:
        """Count of distinct placements, those over a limit included."""
        return math.prod(len(decision.distinct) for decision in self.decisions)

    def cheapest(self) -> Placement:
        """Return the placement with the fewest parameters; among equals, that with the fewest multiply-adds."""
        return self._extreme(sign=1)

    def dearest(self) -> Placement:
        """Return the placement with the most parameters; among equals, that with the most multiply-adds.

        Limits are not looked at, since an arm over a limit is trained too.
        """
        return self._extreme(sign=-1)

    def parameter_range(self) -> tuple[int, int]:
        """Return the parameters of the cheapest and of the dearest network."""
        return self.cost(self.cheapest()).n_parameters, self.cost(self.dearest()).n_parameters

    def enumerate(self) -> Iterator[Placement]:
        """Yield every distinct placement once, those over a limit included; the first has no attention."""
        for parts in product(*(decision.distinct for decision in self.decisions)):
            yield Placement({site: attention for part in parts for site, attention in part})

    @cached_property
    def _costs(self) -> dict[tuple[str, Attention], Cost]:
        """What each attention of the space adds at its site."""
        return {
            place: self._cost_at(*place)
            for decision in self.decisions
            for placed in decision.distinct
            for place in placed
        }

    def _cost_at(self, name: str, attention: Attention) -> Cost:
        site = self.table.site(name)
        return cost_at(site, resolve_at(site, attention), self.table.num_classes)

    def _extreme(self, sign: int) -> Placement:
        """Return the cheapest (1) or dearest (-1) placement: costs add up, so each decision stands alone."""
        chosen: dict[str, Attention] = {}
        for decision in self.decisions:
            fragments = decision.fragments.values()
            best = min(fragments, key=lambda part: (sign * part.cost.n_parameters, sign * part.cost.n_macs))
            chosen.update(best.attentions)
        return Placement(chosen)

    def _with(self, name: str, decisions: tuple[Decision, ...]) -> Placement:
        """Return the placement with one attention, its options nearest to their defaults, in these decisions."""
        if name not in self.attentions:
            raise SpaceError(unknown("attention", name, self.attentions, self.space.where))
        chosen: dict[str, Attention] = {}
        for decision in decisions:
            chosen.update(decision.fragments[decision.usual(name)].attentions)
        return Placement(chosen)

    def _in_last_stage(self, name: str) -> tuple[Decision, ...]:
        """Return the decisions on `name` in the last stage; none if one of them also decides on another stage."""
        order = {site.name: index for index, site in enumerate(self.table.sites)}
        last = max((site for decision in self.decisions for site in decision.sites), key=lambda site: order[site.name])
        reaching = [d for d in self.decisions if name in d.attentions and last.stage in {s.stage for s in d.sites}]
        return tuple(reaching) if all(len({s.stage for s in d.sites}) == 1 for d in reaching) else ()
