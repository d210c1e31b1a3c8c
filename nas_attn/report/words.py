"""Numbers and placements as text, the same in the verdict, the page and the figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from nas_attn.comparison.objectives import objectives_in
from nas_attn.placement import Attention, Placement, SiteTable
from nas_attn.records import RunRecord
from nas_attn.report.tables import in_flow_order, only_shares, section
from nas_attn.statistics import Summary

NAMED_SITES = 6  # a placement with more sites is written as counts,
NAMED_LETTERS = 90  # and so is one with more letters


@dataclass(frozen=True)
class Scale:
    """How values are written: accuracy in per cent, ROC AUC and the values of a custom training unscaled.

    Args:
        factor: Multiplier of a value.
        unit: Suffix of a value, e.g. " %".
        points: Suffix of a difference, e.g. " points".
        noun: Name of the metric.
    """

    factor: float = 100.0
    unit: str = " %"
    points: str = " points"
    noun: str = "accuracy"
    decimals: int = 2

    @property
    def title(self) -> str:
        """Name of the metric with a capital letter."""
        return self.noun[0].upper() + self.noun[1:]

    def number(self, value: float) -> str:
        """Return the value without its unit."""
        return f"{value * self.factor:.{self.decimals}f}"

    def value(self, value: float) -> str:
        """Return the value with its unit."""
        return self.number(value) + self.unit

    def signed(self, difference: float) -> str:
        """Return a difference with its sign and without a unit; a value that rounds to zero has no minus."""
        text = f"{difference * self.factor:+.{self.decimals}f}"
        return text.replace("-", "+") if float(text) == 0.0 else text

    def unsigned(self, difference: float) -> str:
        """Return the size of a difference, without its sign and unit."""
        return f"{abs(difference) * self.factor:.{self.decimals}f}"

    def difference(self, difference: float) -> str:
        """Return a difference with its sign and unit."""
        return self.signed(difference) + self.points

    def interval(self, summary: Summary) -> str:
        """Return the interval of a value, or an empty string if it has none."""
        return " to ".join(self.number(end) for end in summary.interval or ())

    def signed_interval(self, summary: Summary) -> str:
        """Return the interval of a difference, or an empty string if it has none."""
        return " to ".join(self.signed(end) for end in summary.interval or ())


PER_CENT = Scale()
AS_IS = Scale(factor=1.0, unit="", points="", noun="value", decimals=4)


ROC_AUC = Scale(factor=1.0, unit="", points="", noun="ROC AUC", decimals=4)


def scale_of(run: RunRecord) -> Scale:
    """Return per cent if every measured value lies between 0 and 1, otherwise the scale of unscaled values.

    For multi-label data the built-in training measures ROC AUC; the metric of a custom training is unknown there, and
    for a network that returns no logits.
    """
    goals = objectives_in(run.config)
    if goals and goals[0].name != "accuracy":
        return ROC_AUC if goals[0].name == "auc" else replace(AS_IS, noun=goals[0].noun)
    if section(run.config, "data").get("num_classes") == 0:
        return AS_IS
    if run.config.get("task") == "multi-label":
        return AS_IS if run.config.get("train") else ROC_AUC
    return PER_CENT if only_shares(run) else AS_IS


def value_words(value: float, scale: Scale) -> str:
    """Return one value, with the name of its metric unless its unit implies it.

    >>> value_words(0.98, PER_CENT), value_words(0.98, ROC_AUC), value_words(37.5, PER_CENT)
    ('98.00 %', 'ROC AUC 0.9800', '37.5')
    """
    if not scale.unit:
        return f"{scale.noun} {scale.value(value)}"
    return scale.value(value) if 0 <= value <= 1 else f"{value:g}"


def minus(text: object) -> str:
    """Return text with true minus signs before its numbers."""
    return re.sub(r"(?<![\w.)-])-(?=[\d.])", "\N{MINUS SIGN}", str(text))


def count(number: int, noun: str) -> str:
    """Return a number with its noun in singular or plural.

    >>> count(1, "seed"), count(5, "seed")
    ('1 seed', '5 seeds')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def quoted(text: str) -> str:
    """Return text as a literal of Python in double quotes.

    >>> print(quoted("runs/a"), quoted('"); x("'), quoted("it's"))
    "runs/a" "\\"); x(\\"" "it's"
    """
    shown = repr(text)
    return shown if shown.startswith('"') else '"' + shown[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'


def short(number: float, digits: int = 3) -> str:
    """Return a count with an SI prefix and three digits.

    >>> short(950), short(72310), short(1.25e6), short(4.1e9)
    ('950', '72.3 k', '1.25 M', '4.1 G')
    """
    for size, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(number) >= size * 0.9995:
            return f"{float(f'{number / size:.{digits}g}'):g}{prefix}"
    return f"{number:.{digits + 3}g}"


def short_tick(number: float) -> str:
    """Return a tick of a cost axis: a count with an SI prefix and up to six digits."""
    return short(number, digits=6)


def milliseconds(number: float) -> str:
    """Return a short time with three digits.

    >>> milliseconds(0.2137), milliseconds(4.1), milliseconds(5230.0)
    ('0.214 ms', '4.1 ms', '5.23 s')
    """
    return f"{number:.3g} ms" if number < 1000 else f"{number / 1000:.3g} s"


def duration(seconds: float) -> str:
    """Return a time in seconds, minutes or hours.

    >>> duration(8.04), duration(130), duration(7300)
    ('8 s', '2 min 10 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(whole / 60)
    return f"{minutes // 60:,} h {minutes % 60} min"


def listed(words: Iterable[str]) -> str:
    """Return words joined by commas and "and".

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    *firsts, last = list(words) or [""]
    return f"{', '.join(firsts)} and {last}" if firsts else last


def options_of(attention: Attention) -> tuple[str, ...]:
    """Return the options, each as `name value`, with wiring and start if they differ from the defaults."""
    shown = [f"{name} {'auto' if value is None else value}" for name, value in attention.options.items()]
    shown += [f"wiring {attention.wiring}"] if attention.wiring != "gate" else []
    return (*shown, *([f"start {attention.start}"] if attention.start != "own" else []))


def placement_words(placement: Placement, table: SiteTable | None, n_sites: int = 0) -> str:
    """Return a placement in a few words; many sites are written as counts.

    Args:
        n_sites: Number of sites in the search, added to counts; 0 omits it.
    """
    if not len(placement):
        return "no attention"
    groups: dict[str, list[str]] = {}
    for site in in_flow_order(placement, table):
        groups.setdefault(placement[site].name, []).append(site)
    named = listed(f"{name} at {listed(sites)}" for name, sites in groups.items())
    if len(placement) <= NAMED_SITES and len(named) <= NAMED_LETTERS:
        return named
    counts = listed(f"{name} at {count(len(sites), 'site')}" for name, sites in groups.items())
    return counts + (f" (of {n_sites})" if n_sites else "")


def short_place(placement: Placement, names: Iterable[str], table: SiteTable | None, searched: Sequence[str]) -> str:
    """Return a placement in a few words, for a title: the attention, and where it sits as a whole or at how many sites.

    At most five words stand before its first number, however many attentions and sites it has.

    Args:
        names: Those of its arm: `X everywhere` is the shortest way to say it.
        searched: The sites that could have an attention.
    """
    everywhere = next((name for name in names if name.endswith(" everywhere")), None)
    if everywhere is not None:
        return everywhere
    sites = in_flow_order(placement, table)
    families = list(dict.fromkeys(placement[site].name for site in sites))
    share = f"{len(sites)} of {len(searched)} sites" if searched else count(len(sites), "site")
    if len(families) > 1:
        return f"{listed(families) if len(families) <= 3 else 'attention'} at {share}"
    stages = {site.name: site.stage for site in table.every_site} if table else {}
    order = list(dict.fromkeys(stages[site] for site in in_flow_order(searched, table) if site in stages))
    for n_last in range(1, len(order)):
        if {site for site in searched if stages.get(site) in order[-n_last:]} == set(sites):
            return f"{families[0]} in the last {'stage' if n_last == 1 else f'{NUMBERS.get(n_last, n_last)} stages'}"
    if len(sites) <= 2:
        return placement_words(placement, table)
    return f"{families[0]} at {share}"


NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


CAUSES = {
    "oom": "out of memory",
    "nan": "diverged",
    "timeout": "timed out",
    "error": "exception",
    "objective": "objective missing",
    "crashed": "worker crash",
    "interrupted": "interrupted",
}


def causes(failed: Mapping[str, int]) -> str:
    """Return the number of failures by cause, the most frequent first.

    >>> causes({"nan": 1, "oom": 9})
    '9 out of memory and 1 diverged'
    """
    ranked = sorted(failed.items(), key=lambda pair: -pair[1])
    return listed(f"{n:,} {CAUSES.get(cause, repr(cause))}" for cause, n in ranked)


def runs_of(numbers: Sequence[int]) -> str:
    """Return numbers with consecutive ones as ranges.

    >>> runs_of([1, 2, 3, 7, 9, 10])
    '1-3, 7, 9-10'
    """
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
