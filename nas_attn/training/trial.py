"""One trial: build the network, train it and return the outcome."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from nas_attn.comparison.predictions import Predictions
from nas_attn.config import DataConfig
from nas_attn.data.dataset import Data, load_data
from nas_attn.data.shared import LargeImages, SharedImages, refuse_changed
from nas_attn.errors import TrialFailed
from nas_attn.model.build import build
from nas_attn.model.tasks import LABEL_KINDS, label_aucs
from nas_attn.placement import NONE, Placement
from nas_attn.records import CONTINUED, LABEL_AUC, Artifact, Further, Outcome, Stage, Task
from nas_attn.training.context import TrialContext, load_train, register_all
from nas_attn.training.ends import Stopped, finite, outcome_of
from nas_attn.training.exportable import Exported, exported, plain_of
from nas_attn.training.keeper import CannotContinue, Keeper
from nas_attn.training.loop import Report, predict, train
from nas_attn.training.own_process import shared_process
from nas_attn.training.own_values import own_values
from nas_attn.training.reports import Reports
from nas_attn.training.shared_weights import train_shared
from nas_attn.training.stacked import CannotStack, train_seeds
from nas_attn.training.state import plain_copy
from nas_attn.training.validated_epochs import validated_epochs
from nas_attn.training.values import value_of, values_of
from nas_attn.user_code.process_state import training_left_as_it_was


@dataclass(frozen=True)
class Run:
    """Second argument of a custom training function, `train(model, run) -> float`.

    The model returns `model.num_classes` logits; with `one_logit` it returns one logit for two classes (positive =
    second class).

    Args:
        seed: Seed of all random numbers of the training.
        epochs: Length of the schedule.
        device: torch's name of the device to train on.
        stage: In `search` and `confirm` the function returns the validation value, in `retrain` the test value.
        report: `report(epoch, value)` with epochs counted from 1; numbers of numpy and torch are converted, anything
            else is refused. It raises an exception to stop the trial: do not catch it.
        restored: The state of the last `checkpoint` of the same training, which was interrupted; None at a beginning.
            Its tensors are on the CPU, and its curve has been reported again.
        number: Of the trial in its study of the ledger.
        label: Of the arm that a retraining belongs to; None in the search.
        placement: The attentions of the model by site.
        kept: The predictions that the training recorded by `record_predictions`; the last ones are stored.
        keep: Takes the states of `checkpoint`.
        recorded: The last recorded predictions as they are, for objectives that the training does not return.
    """

    seed: int
    epochs: int
    device: str
    stage: Stage
    report: Report
    restored: Any = field(default=None, repr=False, compare=False)
    number: int = 0
    label: str | None = None
    placement: Placement = NONE
    kept: list[Predictions] = field(default_factory=list, repr=False, compare=False)
    keep: Callable[[Callable[[], Any]], None] = field(default=lambda take: None, repr=False, compare=False)
    recorded: list[tuple[Any, Any]] = field(default_factory=list, repr=False, compare=False)

    def checkpoint(self, state: Any) -> None:
        """Offer the state of the training after an epoch, so that an interrupted training continues there; optional.

        Call it after each epoch's `report`: the state is stored at most every `--checkpoint-every` minutes, and at an
        interrupt. After one, the same training is called again with the stored state as `restored`.

        Args:
            state: Everything that the training needs to continue: numbers, text, None, tensors, arrays, and lists,
                tuples and dicts of these, such as the state dicts of the model and the optimiser.
        Raises: TypeError, in one sentence, if the state holds anything else.
        """
        self.keep(lambda: state)

    def record_predictions(self, probabilities: Any, targets: Any) -> None:
        """Record what the trained network predicts, for intervals and figures that need each image; optional.

        They belong to the images whose value the function returns: validation images, in `retrain` test images. All
        trials of a stage must record the same images in the same order.

        Args:
            probabilities: A tensor or array with the probability of each class or label. Shape: (N, K).
            targets: The true class of each image, (N,), or its labels as 0 and 1, (N, K).
        Raises: ValueError if the shapes do not match.
        """
        self.recorded[:] = [(_as_array(probabilities), _as_array(targets))]
        self.kept.append(Predictions.of(*self.recorded[-1]))


def evaluate(task: Task, context: TrialContext, report: Report, keeper: Keeper | None = None) -> Outcome:
    """Train one placement and return the outcome; whatever the training raises becomes a failed outcome.

    The model and its weights are seeded by `task.seed` alone: the same task gives the same value on one device with
    one thread.

    Args:
        keeper: Saves checkpoints, and holds the one to continue from; None does neither.
    """
    keeper = Keeper() if keeper is None else keeper
    reports = Reports(task, report, keeper)
    with shared_process():
        try:
            if context.n_threads is not None:
                torch.set_num_threads(context.n_threads)
            outcome = _outcome(task, context, reports, keeper)
        except BaseException as error:  # no end of one trial, SystemExit among them, may end the search
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise  # perhaps Ctrl-C: only the executor knows
            outcome = outcome_of(error, task.stage, keeper.seconds)
        finally:
            reports.end()
            if context.device == "cuda":
                torch.cuda.empty_cache()
    return outcome_of(Stopped(), task.stage, keeper.seconds) if reports.is_stopped else outcome


def _outcome(task: Task, context: TrialContext, reports: Reports, keeper: Keeper) -> Outcome:
    """Train a task, with its further seeds where that can be, and return the outcome."""
    alone = None
    if task.further_seeds:
        try:
            return _as_one(task, context, reports, keeper)
        except CannotStack as error:
            alone = str(error)
    trained = _continued(task, context, reports, keeper)
    return replace(_ended(task, trained, keeper.seconds, keeper), alone=alone)


def _ended(task: Task, trained: _Trained, seconds: float, keeper: Keeper) -> Outcome:
    """Return the outcome of a training that came to its end after so many seconds."""
    value, artifacts = finite(trained.value), _artifacts(task, trained)
    remark = None if trained.exported is None else trained.exported.remark
    facts = trained.facts | ({CONTINUED: float(keeper.epoch)} if keeper.restored is not None else {})
    return Outcome(
        "complete",
        value,
        seconds=seconds,
        facts=facts,
        values=trained.values,
        artifacts=artifacts,
        remark=remark,
    )


def _continued(task: Task, context: TrialContext, reports: Reports, keeper: Keeper) -> _Trained:
    """Train from the checkpoint, if there is one that can be used, else from the beginning."""
    try:
        return _trained(task, context, reports, keeper)
    except CannotContinue as error:
        keeper.forget(str(error))
    return _trained(task, context, reports, keeper)


def prepare(context: TrialContext) -> None:
    """Register plug-ins, set torch's threads and memory limit, and load the data before the first trial."""
    register_all(context.registered)
    if context.n_threads is not None:
        torch.set_num_threads(context.n_threads)
    if context.device == "cuda" and 0 < context.gpus < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(context.gpus)
    if context.train is None:
        _data(context)


@dataclass(frozen=True)
class _Trained:
    """A trained network with what was measured on it.

    Args:
        predictions: None if a custom training recorded none.
        exported: What can be exported of the network of a custom training; None if it is as it was built.
        values: The objectives after the first one that the training gives, by name.
        ranking: What a screen returns; empty otherwise.
    """

    model: nn.Module
    value: float
    facts: dict[str, float]
    predictions: Predictions | None
    exported: Exported | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    ranking: bytes = b""


def _trained(task: Task, context: TrialContext, reports: Reports, keeper: Keeper) -> _Trained:
    """Build and train the network of a task."""
    if task.paths is not None:
        return _screened(task, context, reports, keeper)
    model = build(context.backbone, task.placement, context.shape, seed=task.seed, class_names=context.class_names)
    if context.train is None:
        return _built_in_training(task, context, model, reports, keeper)
    function = load_train(context.train) if isinstance(context.train, str) else context.train
    run = Run(
        *(task.seed, task.epochs, context.device, task.stage, reports, _own_state(keeper)),
        *(task.number, task.arm, task.placement),
        keep=_checked(keeper),
    )
    reports.replay()
    plain = plain_of(model)
    with training_left_as_it_was():
        returned = function(model, run)
    value, further = own_values(
        returned, context.objectives, _usual(context), run.recorded[-1] if run.recorded else None
    )

    def fresh() -> nn.Module:
        return build(context.backbone, task.placement, context.shape, seed=task.seed, class_names=context.class_names)

    found = exported(model, plain, fresh, (context.shape.in_channels, context.shape.image_size))
    return _Trained(model, value, {}, run.kept[-1] if run.kept else None, found, further)


def _usual(context: TrialContext) -> str:
    """Return the name of the usual value of a custom training that returns values by name."""
    return "accuracy" if context.shape.num_classes else "value"


def _checked(keeper: Keeper) -> Callable[[Callable[[], Any]], None]:
    """Return the function that takes the states of a custom training; a bad one is refused also when none is due."""
    is_known = False

    def keep(take: Callable[[], Any]) -> None:
        nonlocal is_known
        if not is_known:
            plain_copy(take())
            is_known = True
        keeper.offer(take)

    return keep


def _own_state(keeper: Keeper) -> Any:
    return None if keeper.restored is None else keeper.restored["state"]


def _built_in_training(
    task: Task, context: TrialContext, model: nn.Module, reports: Reports, keeper: Keeper
) -> _Trained:
    data = _data(context)
    final = task.stage == "retrain"
    metric, *further = context.objectives or (None,)
    rungs = context.rungs if task.stage in ("search", "control") else ()
    facts = train(
        model,
        data.train_val if final else data.train,
        None if final else data.val,
        context.recipe,
        seed=task.seed,
        epochs=task.epochs,
        device=context.device,
        report=reports,
        num_classes=context.shape.num_classes,
        metric=metric,
        keeper=keeper,
        validated=validated_epochs(task.epochs, n_train=len(data.train), n_val=len(data.val), rungs=rungs),
    )
    if task.stage in ("search", "control") and not further:
        return _Trained(model, keeper.curve[task.epochs], facts, None)
    return _measured(context, model, facts, None if final else keeper.curve[task.epochs])


def _measured(context: TrialContext, model: nn.Module, facts: dict[str, float], value: float | None) -> _Trained:
    """Return a network that the built-in training has trained, with what it predicts.

    Args:
        value: That on the validation images, which it is then measured on; None measures it on the test images.
    """
    data = _data(context)
    metric, *further = context.objectives or (None,)
    part = data.test if value is None else data.val
    logits = predict(model, part)
    kind, values = LABEL_KINDS[data.facts.task], values_of(filter(None, further), logits, part.targets)
    predictions = Predictions.of(_as_array(kind.probabilities(logits.double())), _as_array(part.targets))
    if value is not None:
        return _Trained(model, value, facts, predictions, values=values)
    tested = value_of(metric, logits, part.targets)
    return _Trained(model, tested, facts | _by_label(logits, data), predictions, values=values)


def _as_one(task: Task, context: TrialContext, reports: Reports, keeper: Keeper) -> Outcome:
    """Train a task and its further seeds as one, and return all outcomes. Raises: CannotStack with the reason."""
    seeds, shape = (task.seed, *task.further_seeds), context.shape
    curves: dict[int, dict[int, float]] = {seed: {} for seed in seeds}

    def report(seed: int, epoch: int, value: float) -> None:
        curves[seed][epoch] = value
        if seed == task.seed:
            reports(epoch, value)

    models = [
        build(context.backbone, task.placement, shape, seed=seed, class_names=context.class_names) for seed in seeds
    ]
    found = train_seeds(
        *(models, _data(context).train_val, context.recipe),
        seeds=seeds,
        epochs=task.epochs,
        device=context.device,
        num_classes=shape.num_classes,
        metric=(context.objectives or (None,))[0],
        report=report,
    )
    without = replace(task, artifacts=tuple(name for name in task.artifacts if name != "weights"))

    def outcome(seed: int, model: nn.Module, facts: dict[str, float] | TrialFailed) -> Outcome:
        try:
            if isinstance(facts, TrialFailed):
                raise facts
            asked = task if seed == task.seed else without
            return _ended(asked, _measured(context, model, facts, None), 0.0, keeper)
        except Exception as error:  # what one network predicts is no failure of the others
            return outcome_of(error, task.stage, 0.0)

    outcomes = [outcome(*each) for each in zip(seeds, models, found, strict=True)]
    seconds = keeper.seconds / len(seeds)
    first, *others = (replace(each, seconds=seconds) for each in outcomes)
    further = (Further(seed, curves[seed], each) for seed, each in zip(seeds[1:], others, strict=True))
    return replace(first, further=tuple(further))


def _screened(task: Task, context: TrialContext, reports: Reports, keeper: Keeper) -> _Trained:
    """Train a network with shared weights; its value is the mean over the placements that it ranked."""
    found = train_shared(task, context, _data(context), reports, keeper)
    return _Trained(found.model, fmean(found.values), found.facts, None, ranking=found.to_bytes())


def _artifacts(task: Task, trained: _Trained) -> dict[Artifact, bytes]:
    """Return the files that the task asks for; a custom training without predictions returns none."""
    found: dict[Artifact, bytes] = {"ranking": trained.ranking} if trained.ranking else {}
    state = trained.model.state_dict() if trained.exported is None else trained.exported.state
    if "weights" in task.artifacts and state is not None:
        found["weights"] = _weights(state)
    if trained.predictions is not None and "predictions" in task.artifacts:
        found["predictions"] = trained.predictions.to_bytes()
    if trained.predictions is not None and "short predictions" in task.artifacts:
        found["short predictions"] = trained.predictions.short().to_bytes()
    return found


def _as_array(values: Any) -> Any:
    """Return a tensor as an array in the memory of this machine; other values as they are."""
    return values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values


def _by_label(logits: Tensor, data: Data) -> dict[str, float]:
    """Return the test ROC AUC of each label for which it is defined; empty for a single-label task."""
    if data.facts.task == "single-label":
        return {}
    aucs = zip(data.facts.class_names, label_aucs(logits, data.test.targets), strict=True)
    return {f"{LABEL_AUC}{name}": auc for name, auc in aucs if math.isfinite(auc)}


def _data(context: TrialContext) -> Data:
    assert context.data is not None, "the built-in training needs data"
    if context.images is not None:
        return _shared_data(context.images, context.device)
    return _cached_data(context.data, context.device, context.fingerprint)


@lru_cache(maxsize=1)
def _shared_data(images: SharedImages | LargeImages, device: str) -> Data:
    """Lay the driver's images on the device once per process."""
    return images.load(device)


@lru_cache(maxsize=1)
def _cached_data(config: DataConfig, device: str, fingerprint: str | None) -> Data:
    """Load the data once per process and content: every trial of a run reads the same images."""
    data = load_data(config, device=device)
    refuse_changed(data.facts, fingerprint, " on this machine")
    return data


def _weights(state: Mapping[str, Tensor]) -> bytes:
    """Return a state dict in safetensors format."""
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})
