"""Which sites the `[[sites]]` tables of a space match, and which of them share a decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from nas_attn.attention.catalog import attention_entry
from nas_attn.errors import SpaceError
from nas_attn.placement import KINDS, Site, SiteTable
from nas_attn.space.file import SiteRule, place_of_rule
from nas_attn.space.patterns import block_names, covered, no_match

NETWORK = "network"
"""Name of the decision of `one_of` over sites that lie in no block, and whose names have no dot."""


@dataclass(frozen=True)
class MatchedSite:
    """A site, and the pattern that matches it."""

    site: Site
    pattern: str


@dataclass(frozen=True)
class Share:
    """What one `[[sites]]` table contributes to a decision: the sites that share it.

    Args:
        number: The table's, counted from 1.
        matched: In the order of the data flow.
    """

    number: int
    rule: SiteRule
    matched: tuple[MatchedSite, ...]

    @cached_property
    def by_position(self) -> dict[tuple[str, ...], list[Site]]:
        """The sites that get the attention together: those of each position of `one_of`, otherwise all."""
        if self.rule.one_of is None:
            return {(): [found.site for found in self.matched]}
        pairs = zip(self.rule.positions, self.rule.one_of, strict=True)
        return {(position,): [found.site for found in self.matched if found.pattern == by] for position, by in pairs}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sites."""
        return tuple(found.site.name for found in self.matched)


@dataclass(frozen=True)
class Group:
    """The sites that share one decision, by one table or by several whose attentions differ."""

    name: str
    shares: tuple[Share, ...]

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites, in the order of the data flow."""
        return tuple(found.site for found in self.shares[0].matched)

    @property
    def positions(self) -> tuple[str, ...]:
        """The positions to choose from; empty if all sites get the attention."""
        return self.shares[0].rule.positions

    @cached_property
    def wirings(self) -> tuple[str, ...]:
        """The wirings to choose from; empty if none of the tables has several."""
        return next((share.rule.wirings for share in self.shares if len(share.rule.wirings) > 1), ())


def group_sites(rules: Sequence[SiteRule], table: SiteTable, where: str, listing: str | None) -> tuple[Group, ...]:
    """Return the groups of sites that share a decision: in the order of the file, then of the data flow.

    Raises: SpaceError for a pattern without a site, or a site that two tables match in a way that makes no decision.
    """
    blocks = block_names(table)
    groups: list[Group] = []
    for number, (rule, matched) in enumerate(zip(rules, _match_all(rules, table, where, listing), strict=True), 1):
        found = _groups(rule, matched, blocks)
        shares = {name: Share(number, rule, tuple(sites)) for name, sites in found.items()}
        if rule.one_of is not None:
            _refuse_no_choice(shares, place_of_rule(number, where))
        for name, share in shares.items():
            _join(groups, Group(name, (share,)), where)
    return _with_own_names(groups)


def _join(groups: list[Group], added: Group, where: str) -> None:
    """Add a group, or join it to the one of the same sites. Raises: SpaceError if another one has some of its sites."""
    share = added.shares[0]
    for index, group in enumerate(groups):
        common = [name for name in share.names if name in group.shares[0].names]
        if not common:
            continue
        numbers = f"[[sites]] {group.shares[-1].number} and {share.number} of {where}"
        start = f"Tables that match one site must make one decision there, but '{common[0]}' is matched by {numbers}, "
        if group.positions or added.positions:
            raise SpaceError(f"{start}of which one has 'one_of': narrow one of the patterns.")
        if set(share.names) != set(group.shares[0].names):
            raise SpaceError(
                f"{start}which share it with different sites: change a pattern or 'share' so that both have the same."
            )
        if group.wirings and added.wirings and group.wirings != added.wirings:
            raise SpaceError(f"{start}which search different wirings: state the same list in both.")
        groups[index] = replace(group, shares=(*group.shares, share))
        return
    groups.append(added)


def _with_own_names(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Give every group a name of its own: one that is not named by its only site gets the number of its table."""
    names = Counter(group.name for group in groups)
    return tuple(
        group
        if names[group.name] == 1 or group.shares[0].names == (group.name,)
        else replace(group, name=f"{group.name}_{group.shares[0].number}")
        for group in groups
    )


def _match_all(rules: Sequence[SiteRule], table: SiteTable, where: str, listing: str | None) -> list[list[MatchedSite]]:
    """Return the sites of each rule. Raises: SpaceError for a pattern without a site, or a site matched twice."""
    owners: list[dict[str, str]] = []
    for number, rule in enumerate(rules, 1):
        owners.append({})
        for pattern in rule.patterns:
            kinds = _kinds(rule)
            found = covered(pattern, table, kinds)
            if not found:
                raise SpaceError(no_match(pattern, table, kinds, place_of_rule(number, where), listing))
            for name in (site.name for site in found):
                _refuse_double(name, pattern, rules[:number], owners, where)
                owners[-1][name] = pattern
    _refuse_one_place_twice([site for site in table.every_site if any(site.name in own for own in owners)], where)
    return [[MatchedSite(site, own[site.name]) for site in table.every_site if site.name in own] for own in owners]


def _refuse_double(
    name: str, pattern: str, rules: Sequence[SiteRule], owners: Sequence[Mapping[str, str]], where: str
) -> None:
    """Refuse a site that the last of these rules matches again, with an attention that it has there already."""
    for number, (rule, own) in enumerate(zip(rules, owners, strict=True), 1):
        twice = [attention for attention in rules[-1].attentions if attention in rule.attentions]
        if name not in own or (number < len(rules) and not twice):
            continue
        first, again = f"'{own[name]}' in [[sites]] {number}", f"'{pattern}' in [[sites]] {len(rules)}"
        fix = f", or leave '{twice[0]}' out of one of the tables" if number < len(rules) else ""
        raise SpaceError(
            f"A site must be matched once, but '{name}' is matched by {first} and by {again} of {where}: narrow one of "
            f"the patterns{fix}."
        )


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


def _refuse_no_choice(shares: Mapping[str, Share], place: str) -> None:
    """Refuse `one_of` if no block has two of its positions: there would be nothing to choose."""
    if any(sum(bool(sites) for sites in share.by_position.values()) > 1 for share in shares.values()):
        return
    name, share = next(iter(shares.items()))
    raise SpaceError(
        f"Two positions of 'one_of' in {place} must lie in one block, but each block has one alone, as '{name}' has "
        f"'{share.names[0]}': write share = \"all\" for one choice between all of them, or match in place of one_of."
    )


def _kinds(rule: SiteRule) -> list[str]:
    """Return the kinds of site that at least one attention of the rule fits."""
    fitting = {kind for name in rule.attentions for kind in attention_entry(name).kinds}
    return [kind for kind in KINDS if kind in fitting]


def _groups(rule: SiteRule, matched: Sequence[MatchedSite], blocks: Mapping[str, str]) -> dict[str, list[MatchedSite]]:
    """Return the sites of a rule, grouped by the name of their decision."""
    groups: dict[str, list[MatchedSite]] = {}
    for found in matched:
        site = found.site
        block = blocks.get(site.name) or site.name.rpartition(".")[0] or NETWORK
        own = site.name if rule.one_of is None else block
        name = {"site": own, "stage": site.stage, "all": "all"}[rule.share]
        groups.setdefault(name, []).append(found)
    return groups
