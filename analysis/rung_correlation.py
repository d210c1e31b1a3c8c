"""How early does the validation value rank the trials of a search as the last epoch does?

    python analysis/rung_correlation.py runs/densenet_attn [runs/OTHER ...] [--csv FILE] [--figure FILE]

Prints Kendall's rank correlation (tau-b) of the value after each epoch with the final one, with a 95 % bootstrap
interval over the trials, and what early stopping would have done to the same trials: at each rung of successive
halving with reduction 2 (as `--scheduler asha`) and 4, how many trials it keeps although others end better, and how
much of the final top quarter it stops. Complete search trials only; give it a run with `--scheduler none`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from script import Result, load_runs, parser_of, run_script, text_table

from nas_attn.errors import Refused
from nas_attn.records import RunRecord
from nas_attn.report.chart import COLUMN, style
from nas_attn.report.compare import run_names
from nas_attn.report.palette import LIGHT
from nas_attn.report.tables import measured
from nas_attn.report.trials import counts_of
from nas_attn.report.words import count

Values = NDArray[np.float64]

FEWEST_TRIALS = 8
REDUCTIONS = (2, 4)
DRAWS = 1_000
MOST_ROWS = 12
"""Greatest number of epochs that the printed table has; the CSV file has all."""


@dataclass(frozen=True)
class Curves:
    """The validation values of the complete trials of a search.

    Args:
        epochs: The epochs for which every trial has a value.
        values: By trial and epoch, (n, epochs).
        final: The value that the search ranks by, (n,).
        n_epochs: Length of the schedule.
        n_stopped: Number of trials that were stopped early, and are not among these.
    """

    run: str
    epochs: tuple[int, ...]
    values: Values
    final: Values
    n_epochs: int
    n_stopped: int


@dataclass(frozen=True)
class Rung:
    """What one rung of successive halving would do.

    Args:
        n_running: Number of trials that reach it.
        n_kept: Number that go on: the best by the value at this rung.
        n_wrong: Number of kept trials that end worse than the best `n_kept` of those that reached it.
        n_lost, n_left: Number of trials of the final top quarter of all that it stops, and that go on.
        has_best: Whether the trial that ends best is still running after it.
    """

    reduction: int
    epoch: int
    n_running: int
    n_kept: int
    n_wrong: int
    n_lost: int
    n_left: int
    has_best: bool


def curves_of(name: str, run: RunRecord) -> Curves:
    """Return the curves of a run's search. Raises: Refused if there are too few trials or epochs."""
    trials = measured(run.search)
    n_epochs = max(Counter(trial.epochs for trial in trials).items(), key=lambda pair: pair[1], default=(0, 0))[0]
    trials = tuple(trial for trial in trials if trial.epochs == n_epochs and trial.curve)
    epochs = sorted(set.intersection(*(set(trial.curve) for trial in trials))) if trials else []
    if len(trials) < FEWEST_TRIALS or len(epochs) < 2:
        raise Refused(
            f"A rank correlation by epoch needs {FEWEST_TRIALS} complete search trials with values for the same 2 "
            f"epochs, but {name} has {len(trials)} with {len(epochs)}: run more trials, or longer ones."
        )
    values = np.array([[trial.curve[epoch] for epoch in epochs] for trial in trials], dtype=np.float64)
    values[~np.isfinite(values)] = values[np.isfinite(values)].min() - 1.0  # an epoch that diverged is the worst
    final = np.array([trial.value for trial in trials], dtype=np.float64)
    return Curves(name, tuple(epochs), values, final, n_epochs, counts_of(run.search).pruned)


def kendall(values: Values, final: Values, weights: Values) -> Values:
    """Return Kendall's tau-b of two rankings for each row of weights; nan where a ranking is one tie.

    Source: Kendall, Biometrika 33 (1945). A weight is the number of times that a trial was drawn; copies of one trial
    are tied in both rankings.

    Shape: (n,), (n,) and (draws, n) -> (draws,).
    """
    left, right = (np.sign(one[:, None] - one[None, :]) for one in (values, final))
    both, of_left, of_right = (
        ((weights @ pairs) * weights).sum(1) for pairs in (left * right, np.abs(left), np.abs(right))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(both / np.sqrt(of_left * of_right))


def correlations(curves: Curves, draws: int = DRAWS) -> list[tuple[float, float, float]]:
    """Return tau with the ends of its 95 % percentile interval over the trials, epoch by epoch.

    In simulations of normal values with 12, 24 and 100 trials and a tau of 0, 0.4 and 0.7 it covers tau in 95 to 97 %.

    Source: Efron, The Annals of Statistics 7 (1979).
    """
    n = len(curves.final)
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    weights = np.vstack([np.ones(n), weights])
    found = []
    for column in curves.values.T:
        tau, *drawn = kendall(column, curves.final, weights)
        known = np.array(drawn)[np.isfinite(drawn)]
        low, high = np.percentile(known, [2.5, 97.5]) if len(known) and math.isfinite(tau) else (math.nan, math.nan)
        found.append((float(tau), float(low), float(high)))
    return found


def rungs_of(curves: Curves, reduction: int) -> list[Rung]:
    """Return what successive halving with rungs at 1/reduction² and 1/reduction of the epochs would do.

    The trials of a rung are compared all together; ASHA compares each with those that came before it.

    Source: Jamieson and Talwalkar, AISTATS 2016, arXiv:1502.07943.
    """
    wanted = [math.ceil(curves.n_epochs / reduction**power) for power in (2, 1)]
    last = curves.epochs[-1]
    epochs = dict.fromkeys(max((e for e in curves.epochs if e <= at), default=curves.epochs[0]) for at in wanted)
    order = np.argsort(-curves.final, kind="stable")
    top, running, rungs = set(order[: max(1, len(order) // 4)].tolist()), order, []
    for epoch in (epoch for epoch in epochs if epoch < last):
        at_rung = curves.values[running, curves.epochs.index(epoch)]
        n_kept = max(1, len(running) // reduction)
        kept = set(running[np.argsort(-at_rung, kind="stable")[:n_kept]].tolist())
        left = [trial for trial in running.tolist() if trial in kept]  # in the order of the final values
        should = set(running[:n_kept].tolist())
        n_left, before = len(top & kept), len(top & set(running.tolist()))
        rungs.append(
            Rung(
                reduction=reduction,
                epoch=epoch,
                n_running=len(running),
                n_kept=n_kept,
                n_wrong=len(kept - should),
                n_lost=before - n_left,
                n_left=n_left,
                has_best=bool(order[0] in kept),
            )
        )
        running = np.array(left)
    return rungs


def share_of_epochs(rungs: Sequence[Rung], curves: Curves) -> float:
    """Return the share of all epochs that is trained with these rungs."""
    ends = [*(rung.epoch for rung in rungs), curves.n_epochs]
    sizes = [rung.n_running for rung in rungs] + [rungs[-1].n_kept if rungs else len(curves.final)]
    trained = sum(n * (end - begin) for n, begin, end in zip(sizes, [0, *ends], ends, strict=False))
    return trained / (len(curves.final) * curves.n_epochs)


def shown_epochs(curves: Curves) -> list[int]:
    """Return the positions of the epochs that the table has: at most `MOST_ROWS`, evenly, with first and last."""
    n = len(curves.epochs)
    return sorted({round(at) for at in np.linspace(0, n - 1, min(n, MOST_ROWS))})


def text_of(curves: Curves, taus: Sequence[tuple[float, float, float]]) -> str:
    """Return the two tables of one run, and what they say."""
    rows = []
    for at in shown_epochs(curves):
        tau, low, high = taus[at]
        known = math.isfinite(tau)
        rows.append(
            [str(curves.epochs[at]), f"{tau:.2f}" if known else "", f"{low:.2f} to {high:.2f}" if known else ""]
        )
    n = len(curves.final)
    lines = [f"{curves.run}: {n} complete search trials of {curves.n_epochs} epochs"]
    if curves.n_stopped:
        lines.append(f"Not ranked: {count(curves.n_stopped, 'trial')} that early stopping ended, mostly poor ones.")
    lines += ["", text_table(["epoch", "Kendall tau", "95 % interval"], rows, 0), ""]
    found = {reduction: rungs_of(curves, reduction) for reduction in REDUCTIONS}
    table = [
        [
            str(rung.reduction),
            str(rung.epoch),
            f"{rung.n_kept} of {rung.n_running}",
            str(rung.n_wrong),
            f"{rung.n_lost} of {rung.n_lost + rung.n_left}",
            f"{(rung.n_lost + rung.n_left) * (1 - rung.n_kept / rung.n_running):.1f}",
        ]
        for rungs in found.values()
        for rung in rungs
    ]
    columns = ["reduction", "rung at epoch", "kept", "kept wrongly", "top quarter lost", "lost by chance"]
    lines.append(text_table(columns, table, 0))
    lines += [_summary(reduction, rungs, curves) for reduction, rungs in found.items() if rungs]
    return "\n".join(lines)


def _summary(reduction: int, rungs: Sequence[Rung], curves: Curves) -> str:
    top, last = max(1, len(curves.final) // 4), rungs[-1]
    fate = "goes on to the end" if last.has_best else "is stopped"
    share = f"{100 * share_of_epochs(rungs, curves):.0f} %"
    return (
        f"Reduction {reduction} trains {share} of the epochs and loses {top - last.n_left} of the top {top} trials; "
        f"the best one {fate}."
    )


def rows_of(curves: Curves, taus: Sequence[tuple[float, float, float]]) -> list[dict[str, Any]]:
    """Return the rows of the CSV file: one for each epoch, then one for each rung."""
    n, rows = len(curves.final), []
    for epoch, (tau, low, high) in zip(curves.epochs, taus, strict=True):
        known = {"tau": tau, "low": low, "high": high} if math.isfinite(tau) else {}
        rows.append({"run": curves.run, "epoch": epoch, "n_trials": n, **known})
    for rung in (rung for reduction in REDUCTIONS for rung in rungs_of(curves, reduction)):
        rows.append(
            {
                "run": curves.run,
                "epoch": rung.epoch,
                "n_trials": rung.n_running,
                "reduction": rung.reduction,
                "kept": rung.n_kept,
                "kept_wrongly": rung.n_wrong,
                "top_lost": rung.n_lost,
                "top_left": rung.n_left,
            }
        )
    return rows


def draw(found: Sequence[tuple[Curves, Sequence[tuple[float, float, float]]]]) -> Figure:
    """Draw tau over the epochs of each run, with its interval, and the rungs at a quarter and a half."""
    is_one_length = len({curves.n_epochs for curves, _ in found}) == 1
    with style():
        figure = Figure(figsize=(1.4 * COLUMN, 0.9 * COLUMN), layout="constrained")
        axes = figure.subplots()
        for number, (curves, taus) in enumerate(found):
            x = np.array(curves.epochs) / (1 if is_one_length else curves.n_epochs)
            tau, low, high = np.array(taus).T
            axes.fill_between(x, low, high, color=LIGHT[f"f{number % 10}"], alpha=0.15, lw=0)
            axes.plot(x, tau, color=LIGHT[f"f{number % 10}"], lw=1.4, label=curves.run)
        length = found[0][0].n_epochs if is_one_length else 1
        for share in (0.25, 0.5):
            axes.axvline(share * length, color=LIGHT["dim"], lw=0.7, ls=":")
        axes.set_xlabel("Epoch" if is_one_length else "Share of the epochs")
        axes.set_ylabel("Kendall's tau with the final value")
        axes.set_ylim(top=1.02)
        axes.grid(axis="y")
        axes.legend(loc="lower right")
    return figure


def analyse(chosen: argparse.Namespace) -> Result:
    """Return the correlations and the rungs of every run."""
    runs = load_runs(chosen.runs)
    curves = [curves_of(name, run) for name, run in zip(run_names(runs), runs, strict=True)]
    found = [(one, correlations(one)) for one in curves]
    text = "\n\n".join(text_of(*one) for one in found)
    return Result(text, [row for one in found for row in rows_of(*one)], partial(draw, found))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, such as runs/densenet_attn")
    return run_script(parser, analyse, arguments)


if __name__ == "__main__":
    sys.exit(main())
