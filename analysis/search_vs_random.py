"""Does the sampler of the search find better placements than random ones at equal cost?

    nas-attn search ... --sampler tpe --out runs/tpe
    nas-attn search ... --sampler random --out runs/random
    python analysis/search_vs_random.py runs/tpe runs/random [MORE PAIRS] [--csv FILE] [--figure FILE]

Prints the best validation value after each number of trials, and the test values of both winners (found #1), paired
by seed, and by image where predictions are stored. Several pairs, each with another `--seed`, show whether it holds for
new searches. The best validation value is a maximum of noisy values; only the test values are a fair comparison.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pooling import covers_of, over_runs, repeated_seeds
from script import Result, load_runs, one_scale, parser_of, range_text, run_script, text_table

from nas_attn.comparison.contrasts import Contrast, contrast
from nas_attn.errors import Refused
from nas_attn.records import FOUND, RunRecord
from nas_attn.report.chart import COLUMN, style
from nas_attn.report.compare import differing, run_names
from nas_attn.report.palette import LIGHT
from nas_attn.report.tables import CUT_OFF, Arm, arm_called, arms_of, section
from nas_attn.report.trials import history_of
from nas_attn.report.words import Scale
from nas_attn.statistics import Summary, summarize

RANDOM_SAMPLER = "random"
OWN = ("sampler", "seed")
"""Settings of the engine that the runs of a comparison may differ in."""

N_SHOWN = 8
"""Number of rows of the table of best values."""


@dataclass(frozen=True)
class Pair:
    """A searched run and a random one.

    Args:
        best, random_best: Best validation value after each trial; both have the length of the shorter search.
        winners: found #1 of both, as (searched, random); None if one has no test value yet.
        test: The first winner minus the second one; None without winners.
        n_trials: Number of trained search trials of both.
    """

    searched: str
    random: str
    best: tuple[float, ...]
    random_best: tuple[float, ...]
    winners: tuple[Arm, Arm] | None
    test: Contrast | None
    n_trials: tuple[int, int]

    @property
    def name(self) -> str:
        """Both runs."""
        return f"{self.searched} - {self.random}"

    @property
    def n_to_match(self) -> int | None:
        """Number of trials after which the searched run has the final best value of the random one; None if never."""
        goal = self.random_best[-1]
        return next((at for at, value in enumerate(self.best, 1) if value >= goal), None)


def check(names: Sequence[str], runs: Sequence[RunRecord]) -> None:
    """Check that the runs are pairs of a searched and a random run, and differ in nothing but sampler and seed.

    Raises: Refused, with what differs.
    """
    for at, (name, run) in enumerate(zip(names, runs, strict=True)):
        sampler = section(run.config, "engine").get("sampler")
        if (sampler == RANDOM_SAMPLER) != bool(at % 2):
            raise Refused(
                f"Runs come in pairs, a searched one and then one with --sampler random, but the "
                f"{'second' if at % 2 else 'first'} one of a pair, {name}, has --sampler {sampler}."
            )
    compared = [_compared(run.config) for run in runs]
    for name, one in zip(names, compared, strict=True):
        found = differing((names[0], name), (compared[0], one))
        if found:
            raise Refused(
                "Searches are compared on one space, data and recipe, with one scheduler and limits, but these differ: "
                f"{'; '.join(found[:3])}."
            )


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings that both runs of a pair must share, in one level."""
    found: dict[str, Any] = {"train": config.get("train"), "weights": config.get("weights")}
    for name in ("space", "data", "recipe", "engine"):
        left_out = OWN if name == "engine" else ()
        found |= {f"{name}.{key}": value for key, value in section(config, name).items() if key not in left_out}
    facts = found.pop("data.facts", None)
    return found | ({f"data.{key}": value for key, value in facts.items()} if isinstance(facts, Mapping) else {})


def best_so_far(run: RunRecord) -> tuple[float, ...]:
    """Return the best validation value after each trial that was trained; before the first value, that one."""
    trained = [
        step.best
        for step in history_of(run.search)
        if step.trial.answered_from is None and step.trial.cause != CUT_OFF and step.trial.state != "running"
    ]
    first = next((best for best in trained if best is not None), None)
    return tuple(best if best is not None else first for best in trained if first is not None)


def pair_of(names: Sequence[str], runs: Sequence[RunRecord]) -> Pair:
    """Compare a searched run with a random one. Raises: Refused if a search has no complete trial."""
    curves = [best_so_far(run) for run in runs]
    empty = next((name for name, curve in zip(names, curves, strict=True) if not curve), None)
    if empty is not None:
        raise Refused(f"A comparison of searches needs complete trials, but {empty} has none: run its search.")
    shorter = min(map(len, curves))
    arms = [arm_called(arms_of(run), FOUND) for run in runs]
    winners = (arms[0], arms[1]) if arms[0] is not None and arms[1] is not None else None
    test = _test(names, winners) if winners else None
    return Pair(
        names[0], names[1], curves[0][:shorter], curves[1][:shorter], winners, test, (len(curves[0]), len(curves[1]))
    )


def _test(names: Sequence[str], winners: tuple[Arm, Arm]) -> Contrast:
    searched, random = (arm.sample for arm in winners)
    return contrast(
        names[0],
        searched.by_seed,
        names[1],
        random.by_seed,
        by_image=searched.images,
        others_by_image=random.images,
    )


def milestones(n_trials: int) -> list[int]:
    """Return the numbers of trials that the table shows."""
    return sorted({max(1, round(n_trials * part / N_SHOWN)) for part in range(1, N_SHOWN + 1)})


def lead_at(pairs: Sequence[Pair], n_trials: int) -> Summary:
    """Return the searched minus the random best value after so many trials, over the pairs."""
    found = summarize(pair.best[n_trials - 1] - pair.random_best[n_trials - 1] for pair in pairs)
    assert found is not None, "every pair has values"
    return found


def best_table(pairs: Sequence[Pair], scale: Scale) -> str:
    """Return the best validation values as text: means over the pairs."""
    rows = []
    for n in milestones(min(len(pair.best) for pair in pairs)):
        values = [sum(curve[n - 1] for curve in curves) / len(pairs) for curves in _curves(pairs)]
        lead = lead_at(pairs, n)
        row = [str(n), *map(scale.number, values), scale.signed(lead.mean)]
        rows.append([*row, range_text(scale, lead.interval)] if len(pairs) > 2 else row)
    columns = ["trials", "searched", "random", "difference", "95 % interval"]
    return text_table(columns[: len(rows[0])], rows, 0)


def _curves(pairs: Sequence[Pair]) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
    return [pair.best for pair in pairs], [pair.random_best for pair in pairs]


def pooled(pairs: Sequence[Pair]) -> Contrast:
    """Return the winners' difference on test over the pairs; each pair counts once."""
    samples = {pair.name: (pair.winners[0].sample, pair.winners[1].sample) for pair in pairs if pair.winners}
    return over_runs(samples, same_images=True)


def test_table(pairs: Sequence[Pair], scale: Scale) -> str:
    """Return the test values of the winners as text: a row for each pair, then all pairs."""
    rows = []
    for pair in pairs:
        if pair.winners is None or pair.test is None or pair.test.summary is None:
            rows.append([pair.name, "", "", "", "", "0", "not known"])
            continue
        means = [scale.number(arm.summary.mean) if arm.summary else "" for arm in pair.winners]
        rows.append([pair.name, *means, *_cells(pair.test, scale)])
    if len(pairs) > 1 and (found := pooled(pairs)).summary is not None:
        rows.append([f"all {len(found.by_seed)} pairs", "", "", *_cells(found, scale)])
    return text_table(["winners", "searched", "random", "difference", "95 % interval", "n", "word"], rows)


def _cells(found: Contrast, scale: Scale) -> list[str]:
    assert found.summary is not None, "a comparison of winners has a difference"
    interval = range_text(scale, found.summary.interval)
    return [scale.signed(found.summary.mean), interval, str(found.summary.n), found.word]


def rows_of(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return the rows of the CSV file: the best values of every pair, then the winners' test values."""
    rows: list[dict[str, Any]] = []
    for pair in pairs:
        for at, (searched, random) in enumerate(zip(pair.best, pair.random_best, strict=True), 1):
            values = {"searched": searched, "random": random, "difference": searched - random}
            rows.append({"pair": pair.name, "measure": "validation, best so far", "n_trials": at, **values})
    tests = [(pair.name, pair.test) for pair in pairs if pair.test is not None]
    for name, test in [*tests, *([("all", pooled(pairs))] if len(pairs) > 1 else [])]:
        if test.summary is not None:
            summary = test.summary
            row = {"pair": name, "measure": "test, found #1", "difference": summary.mean, "n": summary.n}
            rows.append(row | {"low": summary.low, "high": summary.high, "word": test.word})
    return rows


def draw(pairs: Sequence[Pair], scale: Scale) -> Figure:
    """Draw the best values over the trials, and beside them the winners' differences on test."""
    with style():
        figure = Figure(figsize=(2.1 * COLUMN, 0.85 * COLUMN), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_curves(left, pairs, scale)
        _draw_tests(right, pairs, scale)
    return figure


def _draw_curves(axes: Any, pairs: Sequence[Pair], scale: Scale) -> None:
    shorter = min(len(pair.best) for pair in pairs)
    for curves, colour, label in zip(_curves(pairs), ("f0", "plain"), ("searched", "random"), strict=True):
        for curve in curves if len(pairs) > 1 else ():
            thin = [value * scale.factor for value in curve]
            axes.step(range(1, len(curve) + 1), thin, where="post", color=LIGHT[colour], lw=0.6, alpha=0.45)
        mean = [scale.factor * sum(curve[at] for curve in curves) / len(curves) for at in range(shorter)]
        axes.step(range(1, shorter + 1), mean, where="post", color=LIGHT[colour], lw=1.7, label=label)
    axes.set_xlabel("Search trials")
    axes.set_ylabel(f"Best validation {scale.noun}{f' ({scale.unit.strip()})' if scale.unit.strip() else ''}")
    axes.grid(axis="y")
    axes.legend(loc="lower right")


def _draw_tests(axes: Any, pairs: Sequence[Pair], scale: Scale) -> None:
    tests = [(pair.name, pair.test) for pair in pairs if pair.test is not None]
    tests += [("all pairs", pooled(pairs))] if len(tests) > 1 else []
    known = [(name, test.summary) for name, test in tests if test.summary is not None]
    axes.axvline(0.0, color=LIGHT["muted"], lw=0.8)
    for place, (_, summary) in enumerate(known):
        if summary.interval is not None:
            axes.plot([end * scale.factor for end in summary.interval], [place, place], color=LIGHT["f0"], lw=1.5)
        axes.plot([summary.mean * scale.factor], [place], "o", ms=4, color=LIGHT["f0"], mew=0)
    axes.set_yticks(range(len(known)), [name for name, _ in known])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(known) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel(f"Winners' test {scale.noun}: difference{f' ({scale.points.strip()})' if scale.points else ''}")


def matched(pair: Pair) -> str:
    """Return in one sentence how many trials the searched run took for the random one's best value."""
    n = len(pair.best)
    if pair.n_to_match is None:
        return f"{pair.searched} has not reached the best validation value of {pair.random} after {n} trials."
    return f"{pair.searched} has the best validation value of {pair.random}, of {n} trials, after {pair.n_to_match}."


def why_unknown(pair: Pair) -> str:
    """Return why the winners of a pair are not told apart; empty if there is a verdict."""
    if pair.test is None or pair.winners is None:
        return "found #1 has no test value in both"
    searched, random = pair.winners
    return "both found the same placement" if searched.placement == random.placement else pair.test.why


def unequal(pair: Pair) -> str:
    """Return in one sentence that the searches of a pair differ in length; empty if they do not."""
    n, n_random = pair.n_trials
    if n == n_random:
        return ""
    return (
        f"Unequal cost: {pair.searched} has {n} trials and {pair.random} {n_random}; the winners come from all of them."
    )


def analyse(chosen: argparse.Namespace) -> Result:
    """Return the comparison of all pairs."""
    if len(chosen.runs) % 2:
        raise Refused(f"Runs come in pairs, a searched one and then a random one, but got {len(chosen.runs)} runs.")
    runs = load_runs(chosen.runs, at_least=2)
    names = run_names(runs)
    scale = one_scale(names, runs)
    check(names, runs)
    pairs = [pair_of(names[at : at + 2], runs[at : at + 2]) for at in range(0, len(runs), 2)]
    unit = f" ({scale.unit.strip()})" if scale.unit.strip() else ""
    over = f", means over {len(pairs)} pairs" if len(pairs) > 1 else ""
    text = [
        *(note for note in map(unequal, pairs) if note),
        f"Best validation {scale.noun}{unit} so far{over}",
        best_table(pairs, scale),
        *map(matched, pairs),
        f"\nTest {scale.noun}{unit} of the winners ({FOUND}); n: number of seeds, or of pairs",
        test_table(pairs, scale),
    ]
    text += [f"{pair.name}: {why}." for pair in pairs if (why := why_unknown(pair))]
    if len(pairs) > 1:
        text += [f"Interval of all pairs: {covers_of(pooled(pairs))}."]
        text += [note for note in [repeated_seeds(names[::2], runs[::2])] if note]
    return Result("\n".join(text), rows_of(pairs), partial(draw, pairs, scale))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="pairs of run folders: SEARCHED RANDOM ...")
    return run_script(parser, analyse, arguments)


if __name__ == "__main__":
    sys.exit(main())
