"""The looks at the test values: each one spends a part of the permitted error, so each is recorded."""

from __future__ import annotations

from nas_attn.comparison.answer import Answer, Sample, judge, named, read_looks, take_look
from nas_attn.comparison.looks import Look
from nas_attn.config import Budget
from nas_attn.records import BARE, FOUND
from nas_attn.study.planned import PlannedRuns

_NOTE = "looks"


class Looks:
    """Compares the arms, and records the look in the ledger before anything is decided by it.

    Args:
        final: The ledger of the retrainings, which has the looks of earlier sessions.
    """

    def __init__(self, final: PlannedRuns) -> None:
        self._final = final
        self.taken = read_looks(final.note(_NOTE))

    def judge(self, samples: tuple[Sample, ...], key: str, budget: Budget) -> Answer:
        """Return the answer over the finished retrainings.

        Args:
            key: That of the placement that is `found #1`.
        """
        before, look = self.taken.get(key, ()), self._next(samples, key, budget)
        looks = before if look is None or look in before else (*before, look)
        answer = judge(samples, looks, budget.margin)
        is_told = answer.headline is not None and answer.headline.word != "not known"
        if looks != before and is_told:
            self.taken = {**self.taken, key: looks}
            self._final.set_note(_NOTE, {name: list(map(vars, past)) for name, past in self.taken.items()})
        return answer

    def _next(self, samples: tuple[Sample, ...], key: str, budget: Budget) -> Look | None:
        """Return the look at the finished retrainings of found #1 and none; the last one if no seed is new."""
        found, none = named(samples, FOUND), named(samples, BARE)
        n_seeds = len(found.by_seed.keys() & none.by_seed.keys()) if found and none else 0
        last = next(reversed(self.taken.get(key, ())), None)
        if n_seeds <= (last.n_seeds if last else 0):
            return last
        return take_look(self.taken, key, n_seeds, budget.max_seeds if budget.seeds == "auto" else None)
