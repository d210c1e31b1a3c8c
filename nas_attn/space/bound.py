"""A search space bound to the sites of one backbone: every placement, its key and its cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

from nas_attn.errors import SpaceError, in_one_line, unknown
from nas_attn.placement import NONE, Attention, Placement, SiteTable, Value
from nas_attn.space.decision import Decision
from nas_attn.space.file import Limits
from nas_attn.space.fit import Cost, as_searched, cost_at, resolve_at, resolve_placement

if TYPE_CHECKING:
    from nas_attn.space.search_space import SearchSpace


class Suggests(Protocol):
    """The interface of a trial that a space needs; all of Optuna's trials have it."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Return one of `choices`."""
        ...


@dataclass(frozen=True)
class BoundSpace:
    """A space over the sites of one backbone at one input shape; it is checked, and every cost is known.

    Args:
        limits: The smaller of the file's limits and the user's.
        decisions: One per site, or per group of sites that shares a decision.
    """

    space: SearchSpace
    table: SiteTable
    limits: Limits
    decisions: tuple[Decision, ...]

    @cached_property
    def choices(self) -> dict[str, tuple[Value, ...]]:
        """The parameters and their values: `<group>.attention` and `<group>.<attention>.<option>`.

        Public contract: names, values and order are the same at every call and in every version. An option with a
        single value is not a parameter. "auto" stands for None.
        """
        return {name: values for decision in self.decisions for name, values in decision.choices.items()}

    @cached_property
    def conditions(self) -> dict[str, tuple[str, frozenset[Value]]]:
        """Parameter -> the parameter that decides whether it has an effect, and the values for which it has."""
        return {name: found for decision in self.decisions for name, found in decision.conditions.items()}

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
            chosen.update(decision.placed(params).attentions)
        return Placement(chosen)

    def resolve(self, placement: Placement) -> Placement:
        """Return the placement with every attention resolved at its site, so that equal models have equal keys.

        Raises: SpaceError if a site is unknown, or an attention does not fit.
        """
        return resolve_placement(self.table, placement)

    def params(self, placement: Placement) -> dict[str, Value] | None:
        """Return flat parameters of this placement, or None if the space does not contain it."""
        try:
            resolved = self.resolve(placement).attentions
        except SpaceError:
            return None
        rest = {name: as_searched(self.table.site(name), attention) for name, attention in resolved.items()}
        params: dict[str, Value] = {}
        for decision in self.decisions:
            placed = tuple((site.name, rest.pop(site.name)) for site in decision.sites if site.name in rest)
            if placed not in decision.distinct:
                return None
            params |= decision.params(decision.distinct[placed])
        return None if rest else params

    def suggest(self, trial: Suggests, *, prefix: str = "") -> Placement:
        """Return the placement that a trial suggests; every call suggests every parameter.

        Args:
            prefix: What the parameters' names begin with.
        Raises: SpaceError if the trial's study has other values for a parameter.
        """
        suggested = {name: self._suggested(trial, prefix + name, values) for name, values in self.choices.items()}
        return self.placement(suggested)

    def _suggested(self, trial: Suggests, name: str, values: tuple[Value, ...]) -> Value:
        try:
            value: Value = trial.suggest_categorical(name, values)
        except (ValueError, KeyError) as error:  # what Optuna's trials raise for other choices, and finished ones
            raise SpaceError(
                f"A trial must have the choices of the space, but this one does not have those of {name!r} in "
                f"{self.space.where} ({in_one_line(error)[:200]}): it is of another space or an earlier form of this "
                "one. Use a new study, or a prefix of its own for each space in a trial."
            ) from error
        if value not in values:
            raise SpaceError(
                f"A trial must have the choices of the space, but this one has {value!r} for {name!r} in "
                f"{self.space.where}, which allows {', '.join(map(repr, values))}: it is of another space or an "
                "earlier form of this one. Use a new study, or a prefix of its own for each space in a trial."
            )
        return value

    def everywhere(self, name: str) -> Placement:
        """Return the placement with one attention in every decision that includes it.

        Its options are those nearest to the defaults.

        Raises: SpaceError that names the nearest attention of the space.
        """
        return self._with(name, self.decisions)

    def in_last_stage(self, name: str) -> Placement:
        """Return the placement with one attention in the last stage only, with the options nearest to the defaults.

        It is empty if a decision shares the last stage with another one.

        Raises: SpaceError that names the nearest attention of the space.
        """
        return self._with(name, self._in_last_stage(name))

    def priors(self) -> list[tuple[str, Placement]]:
        """Return the placements to try first with their labels; each is distinct and within the limits.

        The order is: no attention, each attention everywhere, each attention in the last stage only. The last is left
        out if a decision shares the last stage with another one.
        """
        labelled = [("none", NONE)]
        labelled += [(f"{name} everywhere", self.everywhere(name)) for name in self.attentions]
        labelled += [(f"{name} in the last stage", self.in_last_stage(name)) for name in self.attentions]
        first: dict[str, tuple[str, Placement]] = {}
        for label, placement in labelled:
            if self.check(placement) is None:
                first.setdefault(placement.key, (label, placement))
        return list(first.values())

    def cost(self, placement: Placement) -> Cost:
        """Return parameters and multiply-adds of the network with this placement.

        Raises: SpaceError if a site is unknown, or an attention does not fit.
        """
        n_parameters, n_macs = self.table.n_parameters, self.table.n_macs
        for place in placement.attentions.items():
            cost = self._costs.get(place) or self._cost_at(*place)
            n_parameters += cost.n_parameters
            n_macs += cost.n_macs
        return Cost(n_parameters, n_macs)

    def check(self, placement: Placement) -> str | None:
        """Return the sentence for the limit that the placement exceeds, or None."""
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
        """Number of distinct placements, including those over a limit."""
        return math.prod(len(decision.distinct) for decision in self.decisions)

    def cheapest(self) -> Placement:
        """Return the placement with the fewest parameters, then the fewest multiply-adds."""
        return self._extreme(sign=1)

    def dearest(self) -> Placement:
        """Return the placement with the most parameters, then the most multiply-adds.

        It ignores the limits, because an arm over a limit is trained too.
        """
        return self._extreme(sign=-1)

    def parameter_range(self) -> tuple[int, int]:
        """Return the number of parameters of the cheapest and of the dearest network."""
        return self.cost(self.cheapest()).n_parameters, self.cost(self.dearest()).n_parameters

    def enumerate(self) -> Iterator[Placement]:
        """Yield every distinct placement once, including those over a limit; the first has no attention."""
        for parts in product(*(decision.distinct for decision in self.decisions)):
            yield Placement({site: attention for part in parts for site, attention in part})

    @cached_property
    def _costs(self) -> dict[tuple[str, Attention], Cost]:
        """The cost that each attention of the space adds at its site."""
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
        """Return the cheapest (1) or dearest (-1) placement; costs add up, so each decision is independent."""
        chosen: dict[str, Attention] = {}
        for decision in self.decisions:
            choices = decision.placed_choices.values()
            best = min(choices, key=lambda part: (sign * part.cost.n_parameters, sign * part.cost.n_macs))
            chosen.update(best.attentions)
        return Placement(chosen)

    def _with(self, name: str, decisions: tuple[Decision, ...]) -> Placement:
        """Return the placement with one attention in these decisions, with options nearest to its defaults."""
        if name not in self.attentions:
            raise SpaceError(unknown("attention", name, self.attentions, self.space.where))
        chosen: dict[str, Attention] = {}
        for decision in decisions:
            chosen.update(decision.placed_choices[decision.default_choice(name)].attentions)
        return Placement(chosen)

    def _in_last_stage(self, name: str) -> tuple[Decision, ...]:
        """Return the decisions on `name` in the last stage; empty if one of them covers another stage too."""
        order = {site.name: index for index, site in enumerate(self.table.every_site)}
        last = max((site for decision in self.decisions for site in decision.sites), key=lambda site: order[site.name])
        reaching = [d for d in self.decisions if name in d.attentions and last.stage in {s.stage for s in d.sites}]
        return tuple(reaching) if all(len({s.stage for s in d.sites}) == 1 for d in reaching) else ()
