"""The answer of a run: its arms compared on the test images, and what follows from that, by one stated rule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from nas_attn.comparison.contrasts import Contrast, as_family, contrast
from nas_attn.comparison.looks import TOTAL, Look, at_once, by_schedule, next_look
from nas_attn.records import BARE, FOUND
from nas_attn.statistics import CONFIDENCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nas_attn.comparison.predictions import Predictions

DECISIVE = ("better", "worse", "equal")
"""The words that end `--seeds auto`."""

State = Literal["arm", "none", "undecided", "not known"]

RULE = (
    "An arm with attention is recommended only if it is better than no attention on the test images: found #1, or an "
    "attention everywhere if that is better than found #1 or if found #1 is not better than no attention. Otherwise no "
    "attention is recommended, because it is simpler."
)
"""The rule by which an arm is recommended."""


@dataclass(frozen=True, eq=False)
class Sample:
    """The test values of one arm.

    Args:
        label: As in the ledger; the names of identical arms are joined by " = ".
        by_seed: The value of each seed.
        images: Contribution of each image to the value, by seed: their mean is the value. Empty if it is unknown.
        barred: Whether the arm exceeds a limit, so that it cannot be recommended.
    """

    label: str
    by_seed: Mapping[int, float]
    images: Mapping[int, NDArray[Any]]
    barred: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arm: several if identical arms were trained once."""
        return names_in(self.label)

    @property
    def is_everywhere(self) -> bool:
        """Whether the arm has one attention at every site of the search."""
        return any(name.endswith(" everywhere") for name in self.names)

    @property
    def mean(self) -> float:
        """Mean over the seeds; nan without one."""
        return fmean(self.by_seed.values()) if self.by_seed else math.nan


@dataclass(frozen=True)
class Answer:
    """What is recommended, and the comparisons that it follows from.

    Args:
        state: `arm`: the recommended arm is better than no attention. `none`: attention is not better, or nothing was
            found. `undecided`: the data cannot tell. `not known`: nothing could be compared.
        recommended: Label of the recommended arm; `none` in every state but `arm`.
        headline: found #1 minus no attention; None if one of them has no value.
        others: Every other comparison, corrected together.
        undecided: Labels of the arms whose comparison more seeds could decide.
    """

    state: State
    recommended: str
    headline: Contrast | None
    others: tuple[Contrast, ...] = ()
    undecided: frozenset[str] = frozenset()

    @property
    def is_decided(self) -> bool:
        """Whether found #1 is better than, worse than or equal to no attention; True without found #1."""
        return self.headline is None or self.headline.word in DECISIVE

    def between(self, arm: str, baseline: str) -> Contrast | None:
        """Return the comparison of two arms by one of their names each."""
        known = [*([self.headline] if self.headline else []), *self.others]
        pairs = ((found, names_in(found.arm), names_in(found.baseline)) for found in known)
        wanted, other = names_in(arm)[0], names_in(baseline)[0]
        return next((found for found, arms, baselines in pairs if wanted in arms and other in baselines), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer in plain JSON, for `best.json`."""
        headline = self.headline
        return {
            "state": self.state,
            "recommended": self.recommended,
            "rule": RULE,
            "found_against_none": None if headline is None else _numbers(headline),
        }


def sample_of(
    label: str,
    by_seed: Mapping[int, float],
    predictions: Mapping[int, Predictions],
    *,
    barred: bool = False,
) -> Sample:
    """Return the sample of an arm; the images count only if every seed has predictions."""
    images = {seed: found.contributions for seed, found in predictions.items()}
    return Sample(label, dict(by_seed), images if images.keys() >= by_seed.keys() else {}, barred)


def read_looks(note: Mapping[str, Any]) -> dict[str, tuple[Look, ...]]:
    """Return the looks that a ledger's note stores, by the key of the placement that was found #1."""
    return {key: tuple(Look(**look) for look in looks) for key, looks in note.items()}


def take_look(looks: Mapping[str, Sequence[Look]], key: str, n_seeds: int, max_seeds: int | None = None) -> Look:
    """Return the next look at `found #1` against no attention; all looks of a run share one error.

    If a longer search finds another placement, it is compared on the same images, so it has only what is left.

    Args:
        looks: All earlier looks, by the key of the placement that was found #1.
        key: That of the present one.
        n_seeds: Number of seeds of both arms, more than at its last look.
        max_seeds: Number of seeds at which `--seeds auto` ends; None if no further look is planned.
    """
    own = list(looks.get(key, ()))
    left = TOTAL - math.fsum(look.spent for other, past in looks.items() if other != key for look in past)
    spending = at_once(own, left) if max_seeds is None else by_schedule(own, n_seeds, max_seeds, left)
    return next_look(own, n_seeds, spending)


def judge(samples: Iterable[Sample], looks: Sequence[Look], margin: float) -> Answer:
    """Compare the arms, and recommend one by `RULE`.

    found #1 against no attention is the one planned comparison: it has the level of the look, and what a look has
    decided stays decided. All others, of every arm with no attention and of found #1 with every arm, are one family
    that Holm's procedure corrects.

    Args:
        looks: The looks at the present found #1, the oldest first; without one, nothing is decided.
        margin: Difference that does not matter: in hundredths if all values lie between 0 and 1, else in their unit.
    """
    samples = [sample for sample in samples if sample.by_seed]
    is_share = all(0.0 <= value <= 1.0 for sample in samples for value in sample.by_seed.values())
    equal = margin / 100 if is_share else margin
    found, none = named(samples, FOUND), named(samples, BARE)
    others = _others(samples, found, none, equal)
    if found is None or none is None or found is none:
        headline = None
    elif not looks:
        headline = _open(_contrast(found, none, CONFIDENCE, equal))
    else:
        headline = _decided(found, none, looks, equal)
    if not looks:
        return _recommended(samples, headline, tuple(map(_open, others)))
    is_told = headline is not None and headline.word in ("better", "worse")
    family = as_family(others, looks[-1].open_level if is_told else looks[-1].family_level)
    return _recommended(samples, headline, tuple(family))


def _decided(found: Sample, none: Sample, looks: Sequence[Look], margin: float) -> Contrast:
    """Return the planned comparison at the last look, with the word of the first look that decided it."""
    pairs = [_contrast(_first(found, none, look.n_seeds), none, look.confidence, margin) for look in looks]
    first = next((pair for pair in pairs if pair.word in DECISIVE), pairs[-1])
    if first.word == pairs[-1].word:
        return pairs[-1]
    return replace(pairs[-1], word=first.word, why=f"decided with {len(first.by_seed)} seeds")


def named(samples: Iterable[Sample], name: str) -> Sample | None:
    """Return the sample of the arm with this name, alone or among identical arms."""
    return next((sample for sample in samples if name in sample.names), None)


def names_in(label: str) -> tuple[str, ...]:
    """Return the names in the label of an arm.

    >>> names_in("found #1 = se everywhere")
    ('found #1', 'se everywhere')
    """
    return tuple(part.strip() for part in label.split(" = "))


def _others(samples: Sequence[Sample], found: Sample | None, none: Sample | None, margin: float) -> list[Contrast]:
    """Return every arm against no attention, and found #1 against every arm; an ablation against found #1 alone."""
    parts = [sample for sample in samples if sample is not found and sample is not none]
    whole = [sample for sample in parts if not sample.label.startswith(f"{FOUND} ")]
    against_none = [_contrast(sample, none, CONFIDENCE, margin) for sample in whole] if none is not None else []
    against_found = [_contrast(found, sample, CONFIDENCE, margin) for sample in parts] if found is not None else []
    return [*against_none, *against_found]


def _contrast(arm: Sample, baseline: Sample, confidence: float, margin: float) -> Contrast:
    return contrast(
        arm.label,
        arm.by_seed,
        baseline.label,
        baseline.by_seed,
        by_image=arm.images,
        others_by_image=baseline.images,
        confidence=confidence,
        margin=margin,
    )


def _first(found: Sample, none: Sample, n_seeds: int) -> Sample:
    """Return the sample with the first seeds that it shares with the other one."""
    shared = sorted(found.by_seed.keys() & none.by_seed.keys())[:n_seeds]
    return replace(found, by_seed={seed: found.by_seed[seed] for seed in shared})


def _open(found: Contrast) -> Contrast:
    """Return a comparison without a verdict; a reason that it already has stays."""
    return found if found.word == "not known" else replace(found, word="not known", why="retraining is not finished")


def _recommended(samples: Sequence[Sample], headline: Contrast | None, others: tuple[Contrast, ...]) -> Answer:
    """Return the answer by `RULE`."""
    answer = Answer("not known", BARE, headline, others)
    found = named(samples, FOUND)
    better = [sample for sample in samples if sample is not found and _may_replace(sample, answer)]
    if better:
        return replace(answer, state="arm", recommended=max(better, key=lambda sample: sample.mean).label)
    if headline is None:
        return replace(answer, state="none" if found is None else "not known")
    if headline.word == "better" and found is not None and not found.barred:
        return replace(answer, state="arm", recommended=found.label)
    if headline.word in DECISIVE:
        return replace(answer, state="none")
    if headline.word == "not known":
        return replace(answer, undecided=frozenset({headline.arm, headline.baseline}))
    open_arms = {one.arm for one in others if one.baseline == headline.baseline and one.word == "undecided"}
    barred = {sample.label for sample in samples if sample.barred}
    return replace(
        answer, state="undecided", undecided=frozenset({headline.arm, headline.baseline, *open_arms} - barred)
    )


def _may_replace(sample: Sample, answer: Answer) -> bool:
    """Return whether an attention everywhere is better than none, and than found #1 unless that is not better."""
    if not sample.is_everywhere or sample.barred:
        return False
    against_none, against_found = answer.between(sample.label, BARE), answer.between(FOUND, sample.label)
    if against_none is None or against_none.word != "better":
        return False
    found_is_better = answer.headline is not None and answer.headline.word == "better"
    return not found_is_better or (against_found is not None and against_found.word == "worse")


def _numbers(found: Contrast) -> dict[str, Any]:
    """Return a comparison in plain JSON."""
    summary = found.summary
    return {
        "word": found.word,
        "why": found.why,
        "difference": summary.mean if summary else None,
        "interval": list(summary.interval) if summary and summary.interval else None,
        "confidence": found.confidence,
        "covers": summary.covers if summary else "",
        "n_seeds": len(found.by_seed),
    }
