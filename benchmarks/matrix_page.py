"""The page on the kill matrix: what was done to the runs, and what held, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tiny_run import COLUMNS

PEER = "stock Tune + OptunaSearch"

_HEAD = """# The kill matrix

<!-- Written by `python benchmarks/kill_matrix.py --markdown docs/kill_matrix.md`. -->

What happens to a run on a machine that crashes, fills up or lies about its disk. `benchmarks/kill_matrix.py` makes a
tiny run, does one thing to it, repeats the same command, and looks at what is there. Rows of {dates}: {n_rows} runs
with {n_kills} signals.

A signal comes at a seeded moment of each stage: start, search, confirm, retrain, export, report, costs, and while a
repeated command resumes; a run gets up to four of them. What must hold:

- **nothing lost**: every trial that had ended is still there;
- **no RUNNING row**: no trial counts as running when nothing runs;
- **exact budget**: as many placements and seeds as asked for, none trained twice; where the stored result of a
  retraining was damaged, exactly that training is repeated;
- **`best.json` valid**: it and its weights load, and all files of the result are there;
- **nothing left**: ten seconds later there is no process and no half file;
- **one sentence**: the exit code is the right one, and what the user reads is a sentence, never a traceback.

`all` means that the rule held in all runs of the row; a number is how many it held in. "Epochs again" is the most that
any training repeated: a checkpoint is stored every minute, so a tiny run repeats at most its own two epochs.

"""

_PEER = """
## Stock Ray Tune with OptunaSearch

The same signals for eight trials of one second each, on two workers with a SQLite storage, continued by
`Tuner.restore`. It has no retraining and no result file, so fewer rules apply. A command whose
study does not change for three minutes hangs; it is killed then.

"""


def table(results: list[dict[str, Any]]) -> str:
    """Return the Markdown table: one line a group, with the rows that obey each rule."""
    groups = list(dict.fromkeys(result["group"] for result in results))
    head = ["what was done", "runs", "signals", *COLUMNS, "epochs again"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for group in groups:
        of_group = [result for result in results if result["group"] == group]
        cells = [group, str(len(of_group)), str(sum(result["kills"] for result in of_group) or "")]
        for column in COLUMNS:
            right = sum(column not in result["wrong"] for result in of_group)
            cells.append("all" if right == len(of_group) else f"**{right}**")
        lines.append(" | ".join([*cells, str(max(result["epochs"] for result in of_group) or "")]))
    return "\n".join(f"| {line} |" for line in lines)


def page(results: list[dict[str, Any]], expected: Sequence[str]) -> str:
    """Return the page of all results: ours, the peer's, each row in which a rule did not hold, and what was not made.

    Args:
        expected: Groups that a full matrix has.
    """
    ours = [result for result in results if not result["group"].startswith(PEER)]
    peers = [result for result in results if result["group"].startswith(PEER)]
    dates = sorted({result["date"] for result in results})
    shown = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    n_kills = sum(result["kills"] for result in ours)
    text = _HEAD.format(dates=shown, n_rows=len(ours), n_kills=n_kills) + table(ours) + "\n"
    text += _broken(ours)
    missing = [group for group in expected if group not in {result["group"] for result in results}]
    if missing:
        text += f"\nWhat the script also has and these rows do not: {'; '.join(missing)}.\n"
    return text + (_PEER + table(peers) + "\n" + _broken(peers) if peers else "")


def _broken(results: list[dict[str, Any]]) -> str:
    """Return each row in which a rule did not hold, with what was seen."""
    broken = [result for result in results if result["wrong"]]
    lines = "".join(f"- {result['group']}, {result['name']}: {_words(result)}.\n" for result in broken)
    return f"\nWhere a rule did not hold:\n\n{lines}" if lines else ""


def _words(result: dict[str, Any]) -> str:
    return "; ".join(f"{column}: {' '.join(what.split())[:200]}" for column, what in result["wrong"].items())
