"""What the user should know about a run, noted in its ledger."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from nas_attn.records import NOT_EXPORTED, Outcome, Task
from nas_attn.study.planned import PlannedRun, PlannedRuns

log = logging.getLogger(__name__)

_MOST_NAMED = 5
"""Number of trainings that one sentence names."""


class Remarks:
    """Sentences on a run, and the arms whose weights cannot be exported.

    Args:
        final: The ledger of the retrainings, which has the notes.
    """

    def __init__(self, final: PlannedRuns) -> None:
        self._final = final
        self.sentences: tuple[str, ...] = tuple(final.note("remarks").get("remarks", ()))
        self.unexported: dict[str, str] = dict(final.note("unexported"))
        self._has_looked = False

    def add(self, sentence: str) -> bool:
        """Record a sentence; return whether it is new."""
        if sentence in self.sentences:
            return False
        log.warning("%s", sentence)
        self.sentences = (*self.sentences, sentence)
        self._final.set_note("remarks", {"remarks": list(self.sentences)})
        return True

    def look_at_weights(self, task: Task, outcome: Outcome) -> None:
        """Say once what a training does to its network, and record the arms whose weights it cannot return."""
        if outcome.remark is not None and not self._has_looked:
            self._has_looked = True
            self.add(outcome.remark)
        if "weights" in task.artifacts and outcome.state == "complete":
            unexported = {key: why for key, why in self.unexported.items() if key != task.placement.key}
            if "weights" not in outcome.artifacts:
                unexported[task.placement.key] = outcome.remark or "its training returned no weights"
            if unexported != self.unexported:
                self.unexported = unexported
                self._final.set_note("unexported", unexported)

    def look_at_seeds(self, outcome: Outcome) -> None:
        """Say why seeds that should have trained as one did not."""
        if outcome.alone is not None:
            self.add(f"Seeds of some arms are trained one at a time in spite of --seeds-at-once. {outcome.alone}")

    def look_at_lost(self, plans: Sequence[PlannedRun]) -> None:
        """Say which finished trainings are repeated, because their files were deleted or damaged since."""
        if plans:
            names = [f"'{plan.label}' with seed {plan.seed}" for plan in plans[:_MOST_NAMED]]
            names += [f"{len(plans) - _MOST_NAMED} more"] if len(plans) > _MOST_NAMED else []
            self.add(
                "Stored files must stay as they were written, but some were deleted or damaged, so these trainings "
                f"were repeated: {', '.join(names)}."
            )

    def forget_unexported(self) -> None:
        """Forget which arms have no weights, so that another training trains them again."""
        if self.unexported:
            log.info("The arms whose weights could not be exported are trained again: the training is another one.")
            kept = [sentence for sentence in self.sentences if not sentence.startswith(NOT_EXPORTED)]
            self.sentences, self.unexported = tuple(kept), {}
            self._final.set_note("remarks", {"remarks": kept})
            self._final.set_note("unexported", {})
