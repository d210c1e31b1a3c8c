"""One placement measured: build the network, train it, read its value; epochs go to a plain callable."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from nas_attn.config import DataConfig
from nas_attn.data.dataset import Data, load_data
from nas_attn.errors import TrialFailed
from nas_attn.files import write_whole
from nas_attn.model.build import build
from nas_attn.model.tasks import READINGS, label_aucs
from nas_attn.records import LABEL_AUC, Outcome, Stage, Task
from nas_attn.training.context import Setting, load_train, register_all
from nas_attn.training.loop import is_out_of_memory, predict, train

Report = Callable[[int, float], None]


class Stopped(Exception):
    """Raised by a report when the scheduler stops the trial; it leaves the training at once."""


@dataclass(frozen=True)
class Run:
    """What the user's own training is given beside the model, which gives `model.num_classes` logits: with the recipe's
    `one_logit`, one for two classes, above 0 for the second.

    Args:
        seed: Seeds whatever is random.
        stage: `search` and `confirm` return the validation value, `retrain` the test value.
        report: Takes (epoch, value), epochs counted from 1; may raise to stop the trial, so let it pass.
    """

    seed: int
    epochs: int
    device: str
    stage: Stage
    report: Report


def evaluate(task: Task, setting: Setting, report: Report) -> Outcome:
    """Train one placement and return how it ended; whatever goes wrong in it becomes a failed outcome.

    The model and its weights are seeded by `task.seed` alone: the same task gives the same value on one device with
    one thread.
    """
    start = time.monotonic()
    try:
        value, facts = _measure(task, setting, report)
        if not math.isfinite(value):
            raise TrialFailed("nan", f"The training returned {value}; a trial's value must be finite.")
        return Outcome("complete", value, seconds=time.monotonic() - start, facts=facts)
    except Stopped:
        return Outcome("pruned", seconds=time.monotonic() - start)
    except TrialFailed as error:
        return Outcome("fail", cause=error.cause, reason=str(error), seconds=time.monotonic() - start)
    except Exception as error:  # the one place where a trial's own fault must not end the search
        cause = "oom" if is_out_of_memory(error) else "error"
        return Outcome("fail", cause=cause, reason=_reason(error), seconds=time.monotonic() - start)
    finally:
        if setting.device == "cuda":
            torch.cuda.empty_cache()


def prepare(setting: Setting) -> None:
    """Load the data, pin torch's threads and bound its memory, so that the first trial starts at once."""
    register_all(setting.registered)
    if setting.n_threads is not None:
        torch.set_num_threads(setting.n_threads)
    if setting.device == "cuda" and 0 < setting.gpus < 1:
        torch.cuda.set_per_process_memory_fraction(setting.gpus)
    if setting.train is None:
        _data(setting)


def _measure(task: Task, setting: Setting, report: Report) -> tuple[float, dict[str, float]]:
    if setting.n_threads is not None:
        torch.set_num_threads(setting.n_threads)
    model = build(setting.backbone, task.placement, setting.shape, seed=task.seed, class_names=setting.class_names)
    if setting.train is not None:
        function = load_train(setting.train) if isinstance(setting.train, str) else setting.train
        value = float(function(model, Run(task.seed, task.epochs, setting.device, task.stage, report)))
        facts: dict[str, float] = {}
    else:
        value, facts = _train_ours(task, setting, model, report)
    if task.weights is not None:
        _write_weights(model, Path(task.weights))
    return value, facts


def _train_ours(task: Task, setting: Setting, model: nn.Module, report: Report) -> tuple[float, dict[str, float]]:
    data = _data(setting)
    final = task.stage == "retrain"
    reported: list[float] = []

    def keep_and_report(epoch: int, value: float) -> None:
        reported.append(value)
        report(epoch, value)

    facts = train(
        model,
        data.train_val if final else data.train,
        None if final else data.val,
        setting.recipe,
        seed=task.seed,
        epochs=task.epochs,
        device=setting.device,
        report=keep_and_report,
        num_classes=setting.shape.num_classes,
    )
    if not final:
        return reported[-1], facts
    logits = predict(model, data.test)
    return READINGS[data.facts.task].value(logits, data.test.targets), facts | _by_label(logits, data)


def _by_label(logits: Tensor, data: Data) -> dict[str, float]:
    """Return the test images' ROC AUC of each label that they can judge; nothing for a single-label task."""
    if data.facts.task == "single-label":
        return {}
    aucs = zip(data.facts.class_names, label_aucs(logits, data.test.targets), strict=True)
    return {f"{LABEL_AUC}{name}": auc for name, auc in aucs if math.isfinite(auc)}


def _data(setting: Setting) -> Data:
    assert setting.data is not None, "our own training needs data"
    return _cached_data(setting.data, setting.device)


@lru_cache(maxsize=1)
def _cached_data(config: DataConfig, device: str) -> Data:
    """Load once a process: every trial of a run reads the same images."""
    return load_data(config, device=device)


def _write_weights(model: nn.Module, path: Path) -> None:
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_whole(path, lambda file: file.write(save(state)), durable=True)


def _reason(error: Exception) -> str:
    """Return the error in one line, with the line of code that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'} ({Path(frame.filename).name}:{frame.lineno})"
