"""The decisions of a space: each chooses one attention with its options for all sites of a group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

from nas_attn.attention.catalog import attention_entry
from nas_attn.attention.options import resolve_options
from nas_attn.errors import SpaceError, unknown
from nas_attn.placement import Attention, Site, SiteTable, Value
from nas_attn.space.file import SiteRule, place_of_rule
from nas_attn.space.fit import Cost, as_searched, cost_at, is_neutral, misfit, no_merge, refuse_few_logits, resolve_at
from nas_attn.space.matching import Group, Share, group_sites

Choice = tuple[Value, ...]
"""An attention's name, its position and its wiring if these are searched, then the value of each searched option."""

NO_ATTENTION: Choice = ("none",)


@dataclass(frozen=True)
class PlacedChoice:
    """The resolved attentions of one choice by site, and the cost that they add to the network."""

    attentions: tuple[tuple[str, Attention], ...]
    cost: Cost


@dataclass(frozen=True)
class Decision:
    """One decision of a space, shared by all `sites`.

    Args:
        name: Name of the site, or of the group of sites that shares the decision.
        searched: Attention -> its options with more than one value, in the order of the file.
        placed_choices: Every choice, in the order of its values; several may build the same network.
        positions: Positions in a block of which one gets the attention; empty if all sites get it.
        wirings: Attention -> its wirings, if these are searched; the lists are the same.
    """

    name: str
    sites: tuple[Site, ...]
    searched: Mapping[str, Mapping[str, tuple[Value, ...]]]
    placed_choices: Mapping[Choice, PlacedChoice]
    positions: tuple[str, ...] = ()
    wirings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def attentions(self) -> tuple[str, ...]:
        """The attentions to choose from, without `none`."""
        return tuple(self.searched)

    @cached_property
    def choices(self) -> dict[str, tuple[Value, ...]]:
        """The parameters of this decision with their values."""
        found: dict[str, tuple[Value, ...]] = {f"{self.name}.attention": ("none", *self.searched)}
        if self.positions:
            found[f"{self.name}.position"] = self.positions
        if self.wirings:
            found[f"{self.name}.wiring"] = next(iter(self.wirings.values()))
        for attention, options in self.searched.items():
            found |= {f"{self.name}.{attention}.{option}": values for option, values in options.items()}
        return found

    @cached_property
    def distinct(self) -> dict[tuple[tuple[str, Attention], ...], Choice]:
        """The distinct placements of the choices, each with the first choice that makes it."""
        found: dict[tuple[tuple[str, Attention], ...], Choice] = {}
        for choice, placed in self.placed_choices.items():
            found.setdefault(placed.attentions, choice)
        return found

    @cached_property
    def _keys(self) -> dict[Value, tuple[str, ...]]:
        """The parameters that have an effect for each attention, in the order of a choice."""
        keys: dict[Value, tuple[str, ...]] = {"none": ()}
        for name, options in self.searched.items():
            position = (f"{self.name}.position",) if self.positions else ()
            wiring = (f"{self.name}.wiring",) if name in self.wirings else ()
            keys[name] = (*position, *wiring, *(f"{self.name}.{name}.{option}" for option in options))
        return keys

    @cached_property
    def conditions(self) -> dict[str, tuple[str, frozenset[Value]]]:
        """Parameter -> the parameter that decides whether it has an effect, and the values for which it has."""
        needed: dict[str, set[Value]] = {}
        for attention, keys in self._keys.items():
            for key in keys:
                needed.setdefault(key, set()).add(attention)
        return {key: (f"{self.name}.attention", frozenset(attentions)) for key, attentions in needed.items()}

    def placed(self, params: Mapping[str, Value]) -> PlacedChoice:
        """Return the placed choice of flat parameters; other parameters are ignored.

        Raises: SpaceError that names the parameter that is missing or has an unknown value.
        """
        try:
            attention = params[f"{self.name}.attention"]
            return self.placed_choices[(attention, *[params[key] for key in self._keys[attention]])]
        except (KeyError, TypeError):
            raise SpaceError(self._reason(params)) from None

    def params(self, choice: Choice) -> dict[str, Value]:
        """Return flat parameters of `choice`; those without effect have their first value."""
        chosen = dict(zip(self._keys[choice[0]], choice[1:], strict=True))
        chosen[f"{self.name}.attention"] = choice[0]
        return {name: chosen.get(name, values[0]) for name, values in self.choices.items()}

    def default_choice(self, attention: str) -> Choice:
        """Return the choice nearest to the attention's defaults, at the first position, as a gate if it may be one.

        It is `NO_ATTENTION` if the decision does not include the attention.
        """
        if attention not in self.searched:
            return NO_ATTENTION
        entry = attention_entry(attention)
        defaults = {option.name: option.default for option in entry.options}
        decided = resolve_options(entry, self.sites[0].channels, {})  # with numbers in place of "auto"
        nearby = [
            _nearest_value(defaults[option], decided.get(option), values)
            for option, values in self.searched[attention].items()
        ]
        wirings = self.wirings.get(attention, ())
        wiring = ("gate",) if "gate" in wirings else wirings[:1]
        return (attention, *self.positions[:1], *wiring, *nearby)

    def _reason(self, params: Mapping[str, Value]) -> str:
        """Return the sentence for a parameter that is missing or has an unknown value."""
        attention = params.get(f"{self.name}.attention")
        keys = self._keys.get(attention, ()) if isinstance(attention, str) else ()
        for key in (f"{self.name}.attention", *keys):
            if key not in params:
                return f"Parameter '{key}' is missing: set it to one of {_listed(self.choices[key])}."
            if params[key] not in self.choices[key]:
                return unknown(f"value of parameter '{key}'", str(params[key]), [str(v) for v in self.choices[key]])
        raise AssertionError(f"every combination of known values must be a choice, but {dict(params)} is none")


def make_decisions(
    rules: Sequence[SiteRule],
    options: Mapping[str, Mapping[str, tuple[Value, ...]]],
    table: SiteTable,
    where: str,
    listing: str | None = None,
) -> tuple[Decision, ...]:
    """Return the decisions of a space over the sites of one backbone: in the order of the file, then of the data flow.

    Args:
        options: Attention -> its options with the values to choose from.
        where: Name of the file in messages.
        listing: Command that lists the sites, for messages.

    Raises: SpaceError that names the file, the `[[sites]]` table and the misfit.
    """
    decisions = tuple(_decide(group, options, table, where) for group in group_sites(rules, table, where, listing))
    _refuse_one_addition_twice(decisions, table, where)
    return decisions


def _decide(
    group: Group, options: Mapping[str, Mapping[str, tuple[Value, ...]]], table: SiteTable, where: str
) -> Decision:
    """Return one decision with all its choices. Raises: SpaceError if one does not fit one of its sites."""
    placed_choices = {NO_ATTENTION: PlacedChoice((), Cost(0, 0))}
    searched: dict[str, dict[str, tuple[Value, ...]]] = {}
    wirings: dict[str, tuple[str, ...]] = {}
    for share in group.shares:
        for attention in share.rule.attentions:
            values = options.get(attention, {})
            searched[attention] = {option: listed for option, listed in values.items() if len(listed) > 1}
            wirings |= {attention: share.rule.wirings} if len(share.rule.wirings) > 1 else {}
            for choice, placed in _choices_of(share, attention, values, table, place_of_rule(share.number, where)):
                placed_choices[choice] = placed
    return Decision(group.name, group.sites, searched, placed_choices, group.positions, wirings)


def _choices_of(
    share: Share, attention: str, values: Mapping[str, tuple[Value, ...]], table: SiteTable, place: str
) -> Iterator[tuple[Choice, PlacedChoice]]:
    """Yield the choices of one attention. Raises: SpaceError if one does not fit one of its sites."""
    several = len(share.rule.wirings) > 1
    for (position, sites), wiring in product(share.by_position.items(), share.rule.wirings):
        for combination in product(*values.values()):
            chosen = dict(zip(values, combination, strict=True))
            written = {option: _none_for_auto(value) for option, value in chosen.items()}
            wired = Attention(attention, written, wiring, share.rule.start)
            searched = [chosen[option] for option, listed in values.items() if len(listed) > 1]
            yield (attention, *position, *([wiring] if several else []), *searched), _place(sites, wired, table, place)


def _refuse_one_addition_twice(decisions: Sequence[Decision], table: SiteTable, where: str) -> None:
    """Refuse a block's addition that one decision may replace, and another one too, by `concat_three`."""
    merges = {site.module: (site.name, number) for number, d in enumerate(decisions) for site in d.sites
              if site.kind == "merge"}  # fmt: skip
    for number, decision in enumerate(decisions):
        three = {
            name
            for placed in decision.placed_choices.values()
            for name, attention in placed.attentions
            if attention.wiring == "concat_three"
        }
        for site in decision.sites:
            merge, other = merges.get(site.module, ("", number))
            if site.name in three and other != number:
                raise SpaceError(
                    f"Wiring 'concat_three' at site '{site.name}' of {where} replaces the addition of its block, but "
                    f"site '{merge}' is searched too: leave one of them out."
                )


def _none_for_auto(value: Value) -> Value:
    """Return None for "auto": TOML has no None."""
    return None if value == "auto" else value


def _place(sites: Sequence[Site], attention: Attention, table: SiteTable, place: str) -> PlacedChoice:
    """Return `attention` at all `sites`, with its cost. Raises: SpaceError if it does not fit one of them."""
    placed = []
    total = Cost(0, 0)
    for site in sites:
        reason = misfit(site, attention) or no_merge(table, site, attention)
        if reason:
            raise SpaceError(f"In {place}: {reason}")
        if is_neutral(attention):
            continue
        resolved = as_searched(site, resolve_at(site, attention))
        refuse_few_logits(resolved, table.num_classes, f"In {place}")
        placed.append((site.name, resolved))
        total += cost_at(site, resolved, table.num_classes)
    return PlacedChoice(tuple(placed), total)


def _nearest_value(default: Value, decided: Value, values: tuple[Value, ...]) -> Value:
    """Return the default if it is among the values, otherwise the nearest number, otherwise the first value."""
    wanted = "auto" if default is None else default
    if wanted in values:
        return wanted
    target = decided if default is None else default
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if not numbers or not isinstance(target, int | float):
        return values[0]
    return min(numbers, key=lambda number: abs(number - target))


def _listed(values: Sequence[Value], most: int = 12) -> str:
    """Return values as a comma-separated list, shortened after `most`."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(str(value) for value in values[:most]) + more
