"""The answer in words: what to do in two or three of them, then the numbers, what was ruled out, what would tell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from nas_attn.comparison.answer import Answer, named, names_in
from nas_attn.comparison.contrasts import Contrast
from nas_attn.comparison.power import images_to_tell, seeds_to_tell
from nas_attn.placement import NONE
from nas_attn.records import BARE, FOUND, RunRecord
from nas_attn.report.front import front_of, front_sentence
from nas_attn.report.guards import is_retrained, nothing_learned
from nas_attn.report.importance import searched_sites
from nas_attn.report.tables import (
    CUT_OFF,
    Arm,
    answer_of,
    arm_called,
    arms_of,
    leader,
    measured,
    rival,
    section,
    trials_of,
    values_by_placement,
)
from nas_attn.report.trials import counts_of
from nas_attn.report.words import Scale, causes, count, placement_words, scale_of, short_place
from nas_attn.statistics import SEEDS_AND_IMAGES

NO_ATTENTION = "no attention"
USE_NONE, UNDECIDED, UNKNOWN = "Use no attention", "Undecided", "Not known"
UNFINISHED, UNLEARNED, UNMEASURED = "Not finished", "Nothing was learned", "Nothing was measured"
MOST_SEEDS = 200  # more seeds than this are no advice


@dataclass(frozen=True)
class Verdict:
    """The first lines of the report.

    Args:
        title: What to do, in a few words.
        state: That of the answer; `unfinished` before the arms are compared, `unlearned` at chance level.
        numbers: The difference that decides, with its interval and its size; empty before the test.
        more: What was ruled out, how many seeds would tell, and what the files hold; one sentence each.
        found, none, everywhere: The arms; `everywhere` has the attention that `found #1` uses most at every site.
    """

    title: str
    state: str
    numbers: str = ""
    more: tuple[str, ...] = ()
    found: Arm | None = None
    none: Arm | None = None
    everywhere: Arm | None = None

    def __str__(self) -> str:
        numbers = [f"{self.numbers}."] if self.numbers else []
        return " ".join([f"{self.title}.", *numbers, *self.more])


@dataclass(frozen=True)
class Differences:
    """`found #1` minus the other arms.

    Args:
        label: The whole label of `found #1`.
        comparisons: Those with a seed in common; the ones of the verdict first.
        main: Labels of the arms that the verdict names.
    """

    label: str
    comparisons: tuple[Contrast, ...]
    main: frozenset[str]


def verdict(run: RunRecord) -> str:
    """Return the verdict as plain text."""
    return str(verdict_of(run))


def verdict_of(run: RunRecord) -> Verdict:
    """Return the verdict: on test values if arms were retrained, otherwise a preliminary one on validation values."""
    arms, answer = arms_of(run), answer_of(run)
    found, none = arm_called(arms, FOUND), arm_called(arms, BARE)
    unlearned = nothing_learned(run, arms)
    if unlearned:
        return Verdict(UNLEARNED, "unlearned", more=(unlearned,), found=found, none=none)
    if found is None or found.summary is None:
        return _before_test(run, found, arms)
    everywhere = rival(found, arms, run.table)[1]
    deciding, scale = _deciding(answer), scale_of(run)
    if deciding is None or deciding.summary is None:
        why = "has no finished retraining" if none else "was not retrained"
        more = (f"The arm '{BARE}' {why}, so that nothing can be compared.",)
        return Verdict(UNKNOWN, answer.state, more=more, found=found, none=none, everywhere=everywhere)
    title = _title(run, arms, answer, deciding)
    rivals = _beside_rival(run, answer, found, everywhere)
    told = (_ruled_out(deciding, scale), *_to_tell(deciding, scale), rivals, *_advice(run, answer))
    lines = tuple(filter(None, told))
    return Verdict(
        title, _state(answer, deciding), _numbers(run, arms, deciding, scale), lines, found, none, everywhere
    )


def differences_of(run: RunRecord) -> Differences | None:
    """Return `found #1` against every other arm, or None if no seed is shared."""
    arms, answer = arms_of(run), answer_of(run)
    found = arm_called(arms, FOUND)
    if found is None:
        return None
    everywhere = rival(found, arms, run.table)[1]
    main = {arm.label for arm in (arm_called(arms, BARE), everywhere) if arm and arm.label != found.label}
    every = [*([answer.headline] if answer.headline else []), *answer.others]
    known = [pair for pair in every if pair.arm == found.label and pair.summary is not None]
    known.sort(key=lambda pair: pair.baseline not in main)
    return Differences(found.label, tuple(known), frozenset(main)) if known else None


def _deciding(answer: Answer) -> Contrast | None:
    """Return the comparison that decides: that of the recommended arm with no attention, else the headline."""
    return answer.between(answer.recommended, BARE) if answer.state == "arm" else answer.headline


def _state(answer: Answer, deciding: Contrast) -> str:
    """Return the state of the answer; `unfinished` while a retraining is missing."""
    return "unfinished" if deciding.word == "not known" and "not finished" in deciding.why else answer.state


def _title(run: RunRecord, arms: Sequence[Arm], answer: Answer, deciding: Contrast) -> str:
    found = front_of(run)
    if found is not None and found.knee is not None:
        knee = found.knee
        return f"Knee of the front: {short_place(knee.placement, names_in(knee.label), run.table, searched_sites(run))}"
    if answer.state == "arm":
        arm = arm_called(arms, names_in(answer.recommended)[0])
        assert arm is not None, "the recommended arm is one of the arms"
        return f"Put {short_place(arm.placement, arm.names, run.table, searched_sites(run))}"
    if deciding.word == "not known":
        return UNFINISHED if "not finished" in deciding.why else UNKNOWN
    return UNDECIDED if answer.state == "undecided" else USE_NONE


def _numbers(run: RunRecord, arms: Sequence[Arm], pair: Contrast, scale: Scale) -> str:
    """Return the difference with its interval and its size; it begins with the number."""
    assert pair.summary is not None, "a comparison without a seed in common has no numbers"
    arm = arm_called(arms, names_in(pair.arm)[0])
    assert arm is not None, "arms are compared by their labels"
    what = placement_words(arm.placement, run.table, len(searched_sites(run)))
    named_arm = _found_in_words(run) if FOUND in arm.names else f"'{arm.label}'"
    head = f"{scale.signed(pair.summary.mean)}{scale.points} of test {scale.noun} by {named_arm} ({what}) against "
    return f"{head}{NO_ATTENTION}: {_interval(pair, scale)}"


def _found_in_words(run: RunRecord) -> str:
    return "the retrained placement" if is_retrained(run) else "the best placement found"


def _interval(pair: Contrast, scale: Scale) -> str:
    """Return the interval of a comparison with its confidence and size, or why there is none."""
    assert pair.summary is not None, "a comparison without a seed in common has no interval"
    size = count(len(pair.by_seed), "seed")
    if pair.crossed is not None:
        size += f", {count(pair.crossed.n_images, 'image')}"
    if pair.summary.interval is None:
        return f"no interval ({size}), because {pair.why}"
    size += f"; {pair.why}" if pair.why and pair.word != "not known" else ""
    covers = "" if pair.summary.covers == SEEDS_AND_IMAGES else f", {pair.summary.covers}"
    confidence = f"{100 * pair.confidence:.3g} % interval"
    return f"{confidence} {scale.signed_interval(pair.summary)} ({size}{covers})"


def _ruled_out(pair: Contrast, scale: Scale) -> str:
    """Return what the interval rules out."""
    interval = pair.summary.interval if pair.summary else None
    if interval is None or pair.word == "not known":
        return ""
    low, high = (scale.unsigned(end) + scale.points for end in interval)
    if interval[0] > 0:
        return f"The gain lies between {low} and {high}."
    if interval[1] < 0:
        return f"The loss lies between {high} and {low}."
    bounds = f"It is at most {high} better, and at most {low} worse."
    margin = f"{scale.unsigned(pair.margin)}{scale.points}" if pair.margin is not None else ""
    return f"Equal within {margin}. {bounds}" if pair.word == "equal" else bounds


def _to_tell(pair: Contrast, scale: Scale) -> tuple[str, ...]:
    """Return how many seeds, or images, would tell a difference, if this comparison is undecided."""
    if pair.word != "undecided" or pair.summary is None or pair.margin is None:
        return ()
    mean = abs(pair.summary.mean)
    wanted = [size for size in (mean, pair.margin) if round(size * scale.factor, scale.decimals) > 0]
    for size in wanted:
        seeds = _seeds_to_tell(pair, size)
        if seeds is not None and len(pair.by_seed) < seeds <= MOST_SEEDS:
            return (f"About {seeds} seeds would tell a difference of {scale.unsigned(size)}{scale.points}.",)
    images = images_to_tell(pair.crossed, pair.margin, pair.level) if pair.crossed is not None else None
    if images is None:
        return ()
    rounded = round(images, 1 - len(str(images)))
    return (
        f"More seeds alone would not tell {scale.unsigned(pair.margin)}{scale.points} on these test images; about "
        f"{rounded:,} test images would.",
    )


def _seeds_to_tell(pair: Contrast, size: float) -> int | None:
    """Return the number of seeds that would tell a difference of this size in four of five runs."""
    if pair.crossed is not None:
        return seeds_to_tell(pair.crossed, size, pair.level, at_most=MOST_SEEDS)
    sd = pair.summary.sd if pair.summary else None
    return None if not sd else 2 + math.ceil((2.8 * sd / size) ** 2)  # 1.96 + 0.84 deviations: level 5 %, power 80 %


def _beside_rival(run: RunRecord, answer: Answer, found: Arm, everywhere: Arm | None) -> str:
    """Return found #1 against its attention everywhere; empty if that is the same arm, or has no value."""
    if everywhere is None or everywhere.label == found.label:
        return ""
    pair = answer.between(FOUND, everywhere.label)
    if pair is None or pair.summary is None:
        return ""
    limit = ", which is over the limit" if everywhere.over else ""
    word = f" ({pair.word})" if pair.word != "not known" else ""
    difference = scale_of(run).difference(pair.summary.mean)
    found_one = _found_in_words(run)
    return f"{found_one[0].upper()}{found_one[1:]} against {everywhere.label}{limit}: {difference}{word}."


def _advice(run: RunRecord, answer: Answer) -> tuple[str, ...]:
    """Return what `best.json` holds, once it is written."""
    if run.best is None:
        return ()
    if front_sentence(run):
        return (front_sentence(run),)
    if answer.state == "arm":
        return (f"best.json holds the network of '{answer.recommended}'.",)
    simpler = "the simpler choice: " if answer.state == "undecided" else ""
    return (f"best.json holds {simpler}the network without attention.",)


def _before_test(run: RunRecord, found: Arm | None, arms: tuple[Arm, ...]) -> Verdict:
    """Return the verdict before a retraining of the found placement has a value."""
    lead = leader(run)
    none = named([arm.sample for arm in arms], BARE)
    if lead is None:
        title, text = _without_attention(run)
        title = USE_NONE if none is not None and none.by_seed and run.best is not None else title
        return Verdict(title, "unfinished", more=(text,))
    summary, scale = lead.summary, scale_of(run)
    planned = section(run.config, "budget").get("trials")
    ended = counts_of(run.search).ended
    done = f"{ended} of {max(ended, planned)} trials" if isinstance(planned, int) else count(ended, "trial")
    start = f"After {done} there is no test value yet: "
    if found is not None and found.failures:
        start = f"There is no test value, since all {count(len(found.failures), 'retraining')} of '{FOUND}' failed: "
    where = placement_words(lead.placement, run.table, len(searched_sites(run)))
    size = "one seed" if summary.n == 1 else f"mean of n = {summary.n} seeds"
    value = f"{where} leads with {scale.value(summary.mean)} {scale.noun} on validation ({size}"
    return Verdict(
        UNFINISHED if run.best is None else UNKNOWN,
        "unfinished",
        more=(start + value + _beside_plain(run, lead.stage, summary.mean, scale) + ").",),
        found=found,
    )


def _beside_plain(run: RunRecord, stage: str, mean: float, scale: Scale) -> str:
    """Return the difference to no attention in the same stage, with no verdict."""
    rows = run.confirm if stage == "confirm" else run.search
    values = values_by_placement(rows).get(NONE)
    if not values:
        return f"; {NO_ATTENTION} has no value yet"
    difference = scale.difference(mean - fmean(values))
    return f"; {difference} against {NO_ATTENTION}, not yet separated from noise"


def _without_attention(run: RunRecord) -> tuple[str, str]:
    """Return title and sentence for a run without a value of a trial with attention."""
    trials = trials_of(run)
    failed = Counter(trial.cause or "error" for trial in trials if trial.state == "fail" and trial.cause != CUT_OFF)
    reasons = causes(failed)
    ended = counts_of(run.search).ended
    plain = [trial for trial in measured(run.search) if not len(trial.placement)]
    if plain:
        scale, value = scale_of(run), plain[0].value or 0.0
        start = f"No trial with attention has a value yet: no attention reaches {scale.value(value)} {scale.noun}"
        return UNFINISHED, f"{start} on validation (one seed){f'; failed: {reasons}' if failed else ''}."
    if not failed:
        return UNFINISHED, "Nothing has been measured yet: no trial has finished."
    if ended == sum(failed.values()):
        return UNMEASURED, f"All {count(ended, 'trial')} failed ({reasons})."
    return UNFINISHED, f"No trial has finished, and {sum(failed.values())} failed ({reasons})."
