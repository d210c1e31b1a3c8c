"""The decisions of a space: each chooses one attention with its options for all sites of a group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from nas_attn.attention.catalog import attention_entry
from nas_attn.attention.options import resolve_options
from nas_attn.errors import SpaceError, unknown
from nas_attn.placement import KINDS, Attention, Site, SiteTable, Value
from nas_attn.space.file import SiteRule, place_of_rule
from nas_attn.space.fit import Cost, cost_at, is_neutral, misfit, refuse_few_logits, resolve_at
from nas_attn.space.patterns import block_names, covered, no_match

Choice = tuple[Value, ...]
"""An attention's name, its position if that is searched, then the value of each searched option."""

MatchedSite = tuple[Site, str]
"""A site, and the pattern that matches it."""

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
    """

    name: str
    sites: tuple[Site, ...]
    searched: Mapping[str, Mapping[str, tuple[Value, ...]]]
    placed_choices: Mapping[Choice, PlacedChoice]
    positions: tuple[str, ...] = ()

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
            keys[name] = (*position, *(f"{self.name}.{name}.{option}" for option in options))
        return keys

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
        """Return the choice nearest to the attention's defaults, at the first position.

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
        return (attention, *self.positions[:1], *nearby)

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
    blocks = block_names(table)
    groups = [
        _groups(rule, matched, blocks)
        for rule, matched in zip(rules, _match_all(rules, table, where, listing), strict=True)
    ]
    names = Counter(name for group in groups for name in group)
    decisions = []
    for number, (rule, group) in enumerate(zip(rules, groups, strict=True), 1):
        for name, matched in group.items():
            own = name if rule.share == "site" or names[name] == 1 else f"{name}_{number}"
            decisions.append(_decide(own, rule, matched, options, table.num_classes, place_of_rule(number, where)))
    return tuple(decisions)


def _decide(
    name: str,
    rule: SiteRule,
    matched: Sequence[MatchedSite],
    options: Mapping[str, Mapping[str, tuple[Value, ...]]],
    num_classes: int,
    place: str,
) -> Decision:
    """Return one decision with all its choices. Raises: SpaceError if one does not fit one of its sites."""
    placed_choices = {NO_ATTENTION: PlacedChoice((), Cost(0, 0))}
    searched: dict[str, dict[str, tuple[Value, ...]]] = {}
    for attention in rule.attentions:
        values = options.get(attention, {})
        searched[attention] = {option: listed for option, listed in values.items() if len(listed) > 1}
        for position, placed in _by_position(rule, matched).items():
            for combination in product(*values.values()):
                chosen = dict(zip(values, combination, strict=True))
                written = {option: _none_for_auto(value) for option, value in chosen.items()}
                wired = Attention(attention, written, rule.wiring, rule.start)
                choice = (attention, *position, *[chosen[option] for option in searched[attention]])
                placed_choices[choice] = _place(placed, wired, num_classes, place)
    return Decision(name, tuple(site for site, _ in matched), searched, placed_choices, rule.positions)


def _by_position(rule: SiteRule, matched: Sequence[MatchedSite]) -> dict[tuple[str, ...], list[Site]]:
    """Return the sites that get the attention together: those of each position of `one_of`, otherwise all."""
    if rule.one_of is None:
        return {(): [site for site, _ in matched]}
    pairs = zip(rule.positions, rule.one_of, strict=True)
    return {(position,): [site for site, by in matched if by == pattern] for position, pattern in pairs}


def _match_all(rules: Sequence[SiteRule], table: SiteTable, where: str, listing: str | None) -> list[list[MatchedSite]]:
    """Return the sites of each rule. Raises: SpaceError for a pattern without a site, or a site matched twice."""
    owners: dict[str, tuple[int, str]] = {}
    for number, rule in enumerate(rules, 1):
        for pattern in rule.patterns:
            kinds = _kinds(rule)
            found = covered(pattern, table, kinds)
            if not found:
                raise SpaceError(no_match(pattern, table, kinds, place_of_rule(number, where), listing))
            for name in (site.name for site in found):
                if name in owners:
                    first, again = (f"'{by}' in [[sites]] {n}" for n, by in (owners[name], (number, pattern)))
                    raise SpaceError(
                        f"A site must be matched once, but '{name}' is matched by {first} and by {again} of {where}: "
                        "narrow one of the patterns."
                    )
                owners[name] = (number, pattern)
    matched = [site for site in table.sites if site.name in owners]
    _refuse_one_place_twice(matched, where)
    numbers = range(1, len(rules) + 1)
    return [[(site, owners[site.name][1]) for site in matched if owners[site.name][0] == n] for n in numbers]


def _refuse_one_place_twice(sites: Sequence[Site], where: str) -> None:
    """Refuse two names of one place: in a user's own network, a Sequential ends where its last child does."""
    names: dict[tuple[str, str], str] = {}
    for site in sites:
        first = names.setdefault((site.module, site.kind), site.name)
        if first != site.name:
            raise SpaceError(
                f"A place must be matched once, but '{first}' and '{site.name}' of {where} are the same place: "
                "narrow one of the patterns."
            )


def _kinds(rule: SiteRule) -> list[str]:
    """Return the kinds of site that at least one attention of the rule fits."""
    fitting = {kind for name in rule.attentions for kind in attention_entry(name).kinds}
    return [kind for kind in KINDS if kind in fitting]


def _groups(rule: SiteRule, matched: Sequence[MatchedSite], blocks: Mapping[str, str]) -> dict[str, list[MatchedSite]]:
    """Return the sites of a rule, grouped by the name of their decision."""
    groups: dict[str, list[MatchedSite]] = {}
    for site, by in matched:
        own = site.name if rule.one_of is None else blocks.get(site.name) or site.name.rpartition(".")[0]
        name = {"site": own, "stage": site.stage, "all": "all"}[rule.share]
        groups.setdefault(name, []).append((site, by))
    return groups


def _none_for_auto(value: Value) -> Value:
    """Return None for "auto": TOML has no None."""
    return None if value == "auto" else value


def _place(sites: Sequence[Site], attention: Attention, num_classes: int, place: str) -> PlacedChoice:
    """Return `attention` at all `sites`, with its cost. Raises: SpaceError if it does not fit one of them."""
    placed = []
    total = Cost(0, 0)
    for site in sites:
        reason = misfit(site, attention)
        if reason:
            raise SpaceError(f"In {place}: {reason}")
        if is_neutral(attention):
            continue
        resolved = resolve_at(site, attention)
        refuse_few_logits(resolved, num_classes, f"In {place}")
        placed.append((site.name, resolved))
        total += cost_at(site, resolved, num_classes)
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
