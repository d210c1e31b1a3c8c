"""The numbers of the report: arms, comparisons, history, cost and failures, computed from the records of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nas_attn.comparison.answer import Answer, Sample, judge, named, names_in, sample_of
from nas_attn.comparison.contrasts import FEW_SEEDS, arm_summary
from nas_attn.comparison.crossed import FEWEST_SEEDS, probability_best
from nas_attn.comparison.looks import Look, at_once, next_look
from nas_attn.comparison.objectives import has_shares, objectives_in
from nas_attn.placement import Placement, SiteTable
from nas_attn.records import BARE, FOUND, OF_CONTROL, RANDOM, Attempt, Measured, RunRecord, Stage, TrialRecord
from nas_attn.statistics import SEEDS_ONLY, Summary, summarize

CUT_OFF = "interrupted"  # cause of a trial that is run again under another number, and so does not count as failed


@dataclass(frozen=True)
class Arm:
    """One row of the final comparison.

    Args:
        label: As in the ledger; the names of identical arms are joined by " = ".
        placement: That of the last seed; those of the arm `random` differ.
        sample: Test value of each seed that finished, and of each image where predictions are stored.
        summary: Summary of these values; None if no seed finished.
        failures: Rows of seeds that failed and never finished.
        over: The limit that the arm exceeds, with the numbers; empty if there is none.
        attempt: Its time and memory, or the reason why they are unknown; None if they were not measured.
    """

    label: str
    placement: Placement
    sample: Sample
    summary: Summary | None
    epochs: int
    n_parameters: int | None
    n_macs: int | None
    failures: tuple[TrialRecord, ...] = ()
    over: str = ""
    attempt: Attempt | None = None

    @property
    def measured(self) -> Measured | None:
        """Time and memory; None if unknown."""
        return self.attempt.measured if self.attempt else None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arm: several if identical arms were trained once."""
        return names_in(self.label)

    @property
    def by_seed(self) -> Mapping[int, float]:
        """Test value of each seed that finished."""
        return self.sample.by_seed


@dataclass(frozen=True)
class Leader:
    """The best placement with attention so far; `summary` is that of its validation values in `stage`."""

    stage: Stage
    placement: Placement
    summary: Summary


def is_measured(trial: TrialRecord) -> bool:
    """Return whether the trial was trained to its end and has a finite value."""
    return (
        trial.state == "complete"
        and trial.answered_from is None
        and trial.value is not None
        and math.isfinite(trial.value)
    )


def measured(trials: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
    """Return the trials that were trained to their end and have a finite value."""
    return tuple(trial for trial in trials if is_measured(trial))


def trials_of(run: RunRecord) -> tuple[TrialRecord, ...]:
    """Return the trials of all stages."""
    return (*run.search, *run.control, *run.confirm, *run.retrain)


def values_by_placement(trials: Iterable[TrialRecord]) -> dict[Placement, list[float]]:
    """Return the values of the measured trials by placement, in the order of the first trial of each."""
    values: dict[Placement, list[float]] = {}
    for trial in measured(trials):
        if trial.value is not None:
            values.setdefault(trial.placement, []).append(trial.value)
    return values


def only_shares(run: RunRecord) -> bool:
    """Return whether every measured value lies between 0 and 1, as accuracies and ROC AUC do."""
    trials = measured(trials_of(run))
    return all(0.0 <= trial.value <= 1.0 for trial in trials if trial.value is not None)


def section(config: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return the mapping under `keys`, or an empty one if any of them is missing."""
    for key in keys:
        inner = config.get(key)
        if not isinstance(inner, Mapping):
            return {}
        config = inner
    return config


def arms_of(run: RunRecord) -> tuple[Arm, ...]:
    """Return the arms: found ones first, then `none`, then the others from the best mean to the worst.

    All rows with the same placement are one arm, whatever their labels, and all random controls are one. If a run was
    extended and another placement became `found #1`, the name goes to the newest; the other one is labelled `found #1
    (earlier)`.
    """
    grouped: dict[Placement, list[TrialRecord]] = {}
    controls: list[TrialRecord] = []
    for trial in sorted(run.retrain, key=lambda trial: trial.number):
        rows = controls if trial.label == RANDOM else grouped.setdefault(trial.placement, [])
        rows.append(trial)
    limits, labels = limits_of(run.config), _labels(grouped, _found(run))
    arms = [
        replace(_arm(run, labels[placement], rows, limits), attempt=run.measured.get(placement.key))
        for placement, rows in grouped.items()
    ]
    if controls:
        arms.append(replace(_arm(run, RANDOM, controls, limits), n_parameters=None, n_macs=None))
    return tuple(sorted(arms, key=_arm_order))


def answer_of(run: RunRecord) -> Answer:
    """Return the comparison of the arms; nothing is decided before the retraining is finished."""
    samples = [arm.sample for arm in arms_of(run)]
    margin = section(run.config, "budget").get("margin", 0.5)
    return judge(samples, _looks(run, samples), margin)


def best_probabilities(arms: Sequence[Arm]) -> dict[str, float]:
    """Return the probability of each arm to have the highest mean over new seeds and new images, by label.

    The arm `random`, whose networks differ, and arms over a limit take no part. Empty if there are not at least two
    arms with at least three seeds and predictions in common.
    """
    taking_part = [arm for arm in arms if arm.label != RANDOM and not arm.over and arm.sample.images]
    seeds = sorted(set[int].intersection(*(set(arm.by_seed) for arm in taking_part))) if taking_part else []
    if len(taking_part) < 2 or len(seeds) < FEWEST_SEEDS:
        return {}
    matrices = {arm.label: np.stack([arm.sample.images[seed] for seed in seeds]) for arm in taking_part}
    return probability_best(matrices) if len({matrix.shape for matrix in matrices.values()}) == 1 else {}


def _looks(run: RunRecord, samples: Sequence[Sample]) -> tuple[Look, ...]:
    """Return the looks at found #1; a finished run of an older version has one, at all its seeds."""
    found, none = named(samples, FOUND), named(samples, BARE)
    placement = _found(run)
    looks = run.looks.get(placement.key, ()) if placement is not None else ()
    if looks or run.best is None or found is None or none is None:
        return looks
    n_seeds = len(found.by_seed.keys() & none.by_seed.keys())
    return (next_look([], n_seeds, at_once([])),) if n_seeds else ()


def _found(run: RunRecord) -> Placement | None:
    """Return the placement called `found #1`: that of the last look, else the one that was retrained last, or None."""
    rows = [row for row in run.retrain if FOUND in names_in(row.label or "")]
    keys = {row.key: row.placement for row in rows}
    looked = [key for key in run.looks if key in keys]
    newest = max(rows, key=lambda row: row.number, default=None)
    return keys[looked[-1]] if looked else newest.placement if newest else None


def _labels(grouped: Mapping[Placement, Sequence[TrialRecord]], found: Placement | None) -> dict[Placement, str]:
    """Return one label per placement, so that every name belongs to one placement only."""
    newest: dict[str, tuple[int, Placement]] = {}
    for placement, rows in grouped.items():
        for row in rows:
            for name in names_in(row.label or str(placement)):
                newest[name] = max(newest.get(name, (row.number, placement)), (row.number, placement), key=_number)
    if found is not None and found in grouped:
        newest[FOUND] = (0, found)
    labels = {}
    for placement, rows in grouped.items():
        names = dict.fromkeys(name for row in rows for name in names_in(row.label or str(placement)))
        names |= {FOUND: None} if newest.get(FOUND, (0, None))[1] == placement else {}
        kept = [name if newest[name][1] == placement else f"{name} (earlier)" for name in names]
        labels[placement] = " = ".join(sorted(kept, key=lambda name: not name.startswith("found")))
    return labels


def _number(pair: tuple[int, Placement]) -> int:
    return pair[0]


def _arm(run: RunRecord, label: str, rows: Sequence[TrialRecord], limits: Mapping[str, int]) -> Arm:
    finished = {row.seed: row for row in sorted(rows, key=lambda row: row.seed) if is_measured(row)}
    values = {seed: float(row.value) for seed, row in finished.items() if row.value is not None}
    known = {seed: run.predictions.get((row.key, seed, row.epochs)) for seed, row in finished.items()}
    costs = {"max_params": _first(row.n_parameters for row in rows), "max_macs": _first(row.n_macs for row in rows)}
    over = over_limit(costs, limits) or over_latency(rows, run.config)
    goals = objectives_in(run.config)
    predictions = {
        seed: found
        for seed, found in known.items()
        if found is not None and has_shares(goals, of_classes=found.predicted is not None)
    }
    sample = sample_of(label, values, predictions, barred=bool(over))
    return Arm(
        label=label,
        placement=rows[-1].placement,
        sample=sample,
        summary=_summary(sample, is_share=only_shares(run)),
        epochs=max(row.epochs for row in rows),
        n_parameters=costs["max_params"],
        n_macs=costs["max_macs"],
        failures=tuple(row for row in rows if row.state == "fail" and row.cause != CUT_OFF and row.seed not in values),
        over=over,
    )


def _summary(sample: Sample, *, is_share: bool) -> Summary | None:
    """Return the mean of an arm with its interval; that of values without a range is over the seeds only."""
    if is_share:
        return arm_summary(sample.by_seed, sample.images or None)
    found = summarize(sample.by_seed.values())
    if found is None or found.n >= FEWEST_SEEDS:
        return found and replace(found, covers=SEEDS_ONLY)
    return replace(found, low=None, high=None, why=FEW_SEEDS)


def _first(values: Iterable[int | None]) -> int | None:
    return next((value for value in values if value is not None), None)


def _arm_order(arm: Arm) -> tuple[int, float, str]:
    found = any(name.startswith("found") for name in arm.names)
    rank = 0 if found else 1 if BARE in arm.names else 2
    mean = arm.summary.mean if arm.summary else -math.inf
    return rank, (-mean if rank == 2 else 0.0), arm.label if rank == 0 else ""


def limits_of(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the smaller `max_params` and `max_macs` of the space file and the command line, if any are set."""
    found: dict[str, int] = {}
    for place in (section(config, "space", "limits"), section(config, "engine")):
        for name in ("max_params", "max_macs"):
            value = place.get(name)
            if isinstance(value, int):
                found[name] = min(value, found.get(name, value))
    return found


def over_limit(costs: Mapping[str, int | None], limits: Mapping[str, int]) -> str:
    """Return the limit that these costs exceed, with the numbers, or an empty string."""
    for name, limit in limits.items():
        cost = costs.get(name)
        if cost is not None and cost > limit:
            return f"over {name}: {cost:,} > {limit:,}"
    return ""


def over_latency(rows: Iterable[TrialRecord], config: Mapping[str, Any]) -> str:
    """Return the measured latency that exceeds `max_latency`, with the numbers, or an empty string."""
    limit = section(config, "engine").get("max_latency")
    known = [row.values.get("latency", row.facts.get("latency")) for row in rows]
    latency = next((value for value in known if value is not None), None)
    if limit is None or latency is None or latency <= limit:
        return ""
    return f"over max_latency: {latency:.4g} ms > {limit:g} ms"


def arm_called(arms: Iterable[Arm], name: str) -> Arm | None:
    """Return the arm with this name, alone or among identical arms, or None."""
    return next((arm for arm in arms if name in arm.names), None)


def main_families(placement: Placement, table: SiteTable | None) -> tuple[str, ...]:
    """Return the attentions that the placement uses at the most sites, from the input on; several if they tie."""
    counts = Counter(placement[site].name for site in in_flow_order(placement, table))  # keeps the order of first use
    most = max(counts.values(), default=0)
    return tuple(name for name, n in counts.items() if n == most)


def main_family(placement: Placement, table: SiteTable | None) -> str | None:
    """Return the attention that the placement uses at the most sites; of a tie, the one nearest to the input."""
    return next(iter(main_families(placement, table)), None)


def rival(found: Arm, arms: Sequence[Arm], table: SiteTable | None) -> tuple[str, Arm | None]:
    """Return "X everywhere" for the attention X that `found` uses most, and its arm if there is one.

    Of a tie it is the one with the best mean on test: the strictest baseline, so that the choice never favours `found`.
    """
    names = [f"{family} everywhere" for family in main_families(found.placement, table)]
    known = [(name, arm) for name, arm in ((name, arm_called(arms, name)) for name in names) if arm is not None]
    if not known:
        return names[0] if names else "attention everywhere", None
    return max(known, key=lambda pair: pair[1].summary.mean if pair[1].summary else -math.inf)


def in_flow_order(sites: Iterable[str], table: SiteTable | None) -> tuple[str, ...]:
    """Return the sites in the order of the data flow; unknown ones last, in their order."""
    rank = {site.name: index for index, site in enumerate(table.every_site)} if table else {}
    return tuple(sorted(sites, key=lambda name: rank.get(name, len(rank))))


def leader(run: RunRecord) -> Leader | None:
    """Return the best placement with attention so far.

    Placements are ranked by their mean; those that were confirmed go before those that were only searched, and those
    with more new seeds before those that were left out earlier. What a random search beside the search found takes no
    part.
    """
    stages: tuple[Stage, ...] = ("confirm", "search")
    for stage in stages:
        rows = (trial for trial in getattr(run, stage) if trial.label != OF_CONTROL)
        groups = values_by_placement(trial for trial in rows if len(trial.placement))
        leaders = [
            Leader(stage, placement, summary) for placement, values in groups.items() if (summary := summarize(values))
        ]
        if leaders:
            return max(leaders, key=lambda found: (found.summary.n if stage == "confirm" else 0, found.summary.mean))
    return None


def found_placement(run: RunRecord) -> Placement | None:
    """Return the placement called `found #1`: the retrained one, else the exported one, else the leader so far."""
    lead = leader(run)
    return _found(run) or (lead.placement if lead else None)


def latency_of(arm: Arm, none: Arm | None) -> float | None:
    """Return an arm's time of a forward pass in ms: that of no attention times the ratio of both in alternating turns.

    The times themselves were measured one after the other, so that a machine that is busy in between would contradict
    the ratio. Without a ratio it is the arm's own time; None if it was not measured.
    """
    if arm.measured is None:
        return None
    if none is None or none.measured is None or arm.measured.latency_ratio is None:
        return arm.measured.latency_ms
    return none.measured.latency_ms * arm.measured.latency_ratio
