"""One decision of a space: which attention, with which options, sits at every site of a group."""

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

Alternative = tuple[Value, ...]
"""An attention's name, its position if that is searched, then the value of each searched option; `("none",)` is no
attention."""

Cover = tuple[Site, str]
"""A site, and the pattern that covers it."""

NONE: Alternative = ("none",)


@dataclass(frozen=True)
class Fragment:
    """What one alternative puts where, resolved, and what it adds to the network's cost."""

    attentions: tuple[tuple[str, Attention], ...]
    cost: Cost


@dataclass(frozen=True)
class Decision:
    """One choice, made once for all `sites`.

    Args:
        name: The site's name, or that of the group that shares the choice.
        searched: Attention -> its options with more than one value, in the file's order.
        fragments: Every alternative, in the order of its values; several may be the same network.
        positions: The places in a block of which one gets the attention; empty where the sites all get it.
    """

    name: str
    sites: tuple[Site, ...]
    searched: Mapping[str, Mapping[str, tuple[Value, ...]]]
    fragments: Mapping[Alternative, Fragment]
    positions: tuple[str, ...] = ()

    @property
    def attentions(self) -> tuple[str, ...]:
        """The attentions to choose from, without "none"."""
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
    def distinct(self) -> dict[tuple[tuple[str, Attention], ...], Alternative]:
        """What the alternatives put where, without doubles, each with the first alternative that does so."""
        found: dict[tuple[tuple[str, Attention], ...], Alternative] = {}
        for alternative, fragment in self.fragments.items():
            found.setdefault(fragment.attentions, alternative)
        return found

    @cached_property
    def _keys(self) -> dict[Value, tuple[str, ...]]:
        """The parameters that matter for each attention, in the order of an alternative."""
        keys: dict[Value, tuple[str, ...]] = {"none": ()}
        for name, options in self.searched.items():
            position = (f"{self.name}.position",) if self.positions else ()
            keys[name] = (*position, *(f"{self.name}.{name}.{option}" for option in options))
        return keys

    def fragment(self, params: Mapping[str, Value]) -> Fragment:
        """Return what flat parameters choose here; other parameters are ignored.

        Raises: SpaceError that names the parameter that is missing or has an unknown value.
        """
        try:
            attention = params[f"{self.name}.attention"]
            return self.fragments[(attention, *[params[key] for key in self._keys[attention]])]
        except (KeyError, TypeError):
            raise SpaceError(self._reason(params)) from None

    def params(self, alternative: Alternative) -> dict[str, Value]:
        """Return flat parameters that choose `alternative`; those without effect have their first value."""
        chosen = dict(zip(self._keys[alternative[0]], alternative[1:], strict=True))
        chosen[f"{self.name}.attention"] = alternative[0]
        return {name: chosen.get(name, values[0]) for name, values in self.choices.items()}

    def usual(self, attention: str) -> Alternative:
        """Return the alternative nearest to the attention's defaults, at the first position; `("none",)` if it is no
        choice here.
        """
        if attention not in self.searched:
            return NONE
        entry = attention_entry(attention)
        defaults = {option.name: option.default for option in entry.options}
        decided = resolve_options(entry, self.sites[0].channels, {})  # what "auto" stands for
        nearby = [
            _nearest_value(defaults[option], decided.get(option), values)
            for option, values in self.searched[attention].items()
        ]
        return (attention, *self.positions[:1], *nearby)

    def _reason(self, params: Mapping[str, Value]) -> str:
        """Say which parameter of this decision is missing or has an unknown value."""
        attention = params.get(f"{self.name}.attention")
        keys = self._keys.get(attention, ()) if isinstance(attention, str) else ()
        for key in (f"{self.name}.attention", *keys):
            if key not in params:
                return f"Parameter '{key}' is missing: give it one of {_listed(self.choices[key])}."
            if params[key] not in self.choices[key]:
                return unknown(f"value of parameter '{key}'", str(params[key]), [str(v) for v in self.choices[key]])
        raise AssertionError(f"every combination of known values must have a fragment, but {dict(params)} has none")


def make_decisions(
    rules: Sequence[SiteRule],
    options: Mapping[str, Mapping[str, tuple[Value, ...]]],
    table: SiteTable,
    where: str,
    listing: str | None = None,
) -> tuple[Decision, ...]:
    """Return the decisions of a space over the sites of one backbone, in the order of the file, then of the data flow.

    Args:
        options: Attention -> its options with the values to choose from.
        listing: A command that lists the sites.

    Raises: SpaceError that names the file, the `[[sites]]` table, and what does not fit there.
    """
    blocks = block_names(table)
    groups = [
        _groups(rule, covers, blocks)
        for rule, covers in zip(rules, _match_all(rules, table, where, listing), strict=True)
    ]
    names = Counter(name for group in groups for name in group)
    decisions = []
    for number, (rule, group) in enumerate(zip(rules, groups, strict=True), 1):
        for name, covers in group.items():
            own = name if rule.share == "site" or names[name] == 1 else f"{name}_{number}"
            decisions.append(_decide(own, rule, covers, options, table.num_classes, place_of_rule(number, where)))
    return tuple(decisions)


def _decide(
    name: str,
    rule: SiteRule,
    covers: Sequence[Cover],
    options: Mapping[str, Mapping[str, tuple[Value, ...]]],
    num_classes: int,
    place: str,
) -> Decision:
    """Return one decision with every alternative. Raises: SpaceError if one does not fit one of its sites."""
    fragments = {NONE: Fragment((), Cost(0, 0))}
    searched: dict[str, dict[str, tuple[Value, ...]]] = {}
    for attention in rule.attentions:
        values = options.get(attention, {})
        searched[attention] = {option: listed for option, listed in values.items() if len(listed) > 1}
        for position, placed in _by_position(rule, covers).items():
            for combination in product(*values.values()):
                chosen = dict(zip(values, combination, strict=True))
                read = {option: _read(value) for option, value in chosen.items()}
                wired = Attention(attention, read, rule.wiring, rule.start)
                alternative = (attention, *position, *[chosen[option] for option in searched[attention]])
                fragments[alternative] = _fragment(placed, wired, num_classes, place)
    return Decision(name, tuple(site for site, _ in covers), searched, fragments, rule.positions)


def _by_position(rule: SiteRule, covers: Sequence[Cover]) -> dict[tuple[str, ...], list[Site]]:
    """Return the sites that get the attention together: for each position of `one_of`, else all."""
    if rule.one_of is None:
        return {(): [site for site, _ in covers]}
    pairs = zip(rule.positions, rule.one_of, strict=True)
    return {(position,): [site for site, by in covers if by == pattern] for position, pattern in pairs}


def _match_all(rules: Sequence[SiteRule], table: SiteTable, where: str, listing: str | None) -> list[list[Cover]]:
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
    """Refuse two names of one place: in a network of one's own, a Sequential ends where its last child does."""
    names: dict[tuple[str, str], str] = {}
    for site in sites:
        first = names.setdefault((site.module, site.kind), site.name)
        if first != site.name:
            raise SpaceError(
                f"A place must be matched once, but '{first}' and '{site.name}' of {where} are the same place: "
                "narrow one of the patterns."
            )


def _kinds(rule: SiteRule) -> list[str]:
    """Return the kinds of site that an attention of the rule fits."""
    fitting = {kind for name in rule.attentions for kind in attention_entry(name).kinds}
    return [kind for kind in KINDS if kind in fitting]


def _groups(rule: SiteRule, covers: Sequence[Cover], blocks: Mapping[str, str]) -> dict[str, list[Cover]]:
    """Return the sites of a rule by the name of their decision."""
    groups: dict[str, list[Cover]] = {}
    for site, by in covers:
        own = site.name if rule.one_of is None else blocks.get(site.name) or site.name.rpartition(".")[0]
        name = {"site": own, "stage": site.stage, "all": "all"}[rule.share]
        groups.setdefault(name, []).append((site, by))
    return groups


def _read(value: Value) -> Value:
    """Return None for "auto", which stands for it where there is no None."""
    return None if value == "auto" else value


def _fragment(sites: Sequence[Site], attention: Attention, num_classes: int, place: str) -> Fragment:
    """Return `attention` at all `sites`. Raises: SpaceError if it does not fit one of them."""
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
    return Fragment(tuple(placed), total)


def _nearest_value(default: Value, decided: Value, values: tuple[Value, ...]) -> Value:
    """Return the default if it is among the values, else the nearest number, else the first."""
    wanted = "auto" if default is None else default
    if wanted in values:
        return wanted
    target = decided if default is None else default
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if not numbers or not isinstance(target, int | float):
        return values[0]
    return min(numbers, key=lambda number: abs(number - target))


def _listed(values: Sequence[Value], most: int = 12) -> str:
    """Return values as a short list."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(str(value) for value in values[:most]) + more
