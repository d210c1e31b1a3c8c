"""The Ray worker: a training in a thread, whose messages Tune fetches in batches.

The driver imports this file to name the class; torch is imported only in the worker.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from nas_attn.executors.freed_memory import keep_freed_memory, return_freed_memory
from nas_attn.executors.messages import Message, Printed, Reported, Saved
from nas_attn.records import Outcome, Task
from nas_attn.training.context import TrialContext
from nas_attn.training.time_limit import raise_in, timed_out
from nas_attn.user_code.training_thread import TrainingThread

if TYPE_CHECKING:
    from nas_attn.executors.shipping import Shipped
    from nas_attn.training.keeper import Keeper
    from nas_attn.training.output import Output

BATCH_SECONDS = 1.0
"""Messages of this period are sent together, since a call costs the driver some milliseconds. A step takes at most
this long, so an interrupt does not wait for the end of an epoch."""

STOP_SECONDS = 10.0
"""Time for a stopped training to end; then the worker refuses further tasks, and the driver ends it."""


class Worker(tune.Trainable):
    """Runs one task after the other on data that it loads once; Tune reuses it instead of starting a process per trial.

    A step returns `{"messages": [Message, ...]}`; the driver ends the trial when the last message is an outcome, or
    when the scheduler stops it. `{"refused": True}` means that an earlier training cannot be ended: the driver ends
    this process, and another one runs the task.
    """

    def setup(self, config: dict[str, Any], shipped: Shipped | None = None) -> None:
        """Unpack the run's context, and start the first task."""
        assert shipped is not None, "the executor passes what is shipped"
        keep_freed_memory()
        self._node = ray.get_runtime_context().get_node_id()
        self._shipped = shipped
        self._context: TrialContext | None = None
        self._training: _Training | _NotBegun | None = None
        self._start(config)

    def step(self) -> dict[str, Any]:
        """Return the messages since the last step; the outcome is the last one if the training has ended."""
        if self._training is None:
            return {"messages": [], "refused": True, "node": self._node}
        return {"messages": self._training.messages(), "refused": False, "node": self._node}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """End a training that the scheduler stopped, and start the next task."""
        if self._training is not None and not self._training.end(STOP_SECONDS):
            self._training = None
        if self._training is not None:
            self._start(new_config)
        return True

    def cleanup(self) -> None:
        """Stop a running training."""
        if self._training is not None:
            self._training.end(0.0)

    def unsaved(self) -> bytes | None:
        """Return the newest state of the training if it is not saved yet; the driver asks for it at an interrupt."""
        return None if self._training is None else self._training.unsaved()

    def _start(self, config: dict[str, Any]) -> None:
        try:
            checkpoint = None if config["checkpoint"] is None else ray.get(config["checkpoint"])
            self._context = self._context or self._shipped.unpacked()
        except Exception as error:  # a module of the user's that this node does not have, a full disk
            self._training = _NotBegun(config["task"], error)
        else:
            self._training = _Training(config["task"], self._context, checkpoint)


class _NotBegun:
    """A training that cannot begin, because the worker cannot unpack what it was sent."""

    def __init__(self, task: Task, error: Exception) -> None:
        self._task, self._error = task, error

    def messages(self) -> list[Message]:
        """Return the outcome."""
        from nas_attn.training.ends import outcome_of

        return [outcome_of(self._error, self._task.stage, 0.0)]

    def end(self, seconds: float) -> bool:
        """Return that nothing runs."""
        return True

    def unsaved(self) -> None:
        """Return no state."""


class _Training:
    """One training in a thread of its own."""

    def __init__(self, task: Task, context: TrialContext, checkpoint: bytes | None) -> None:
        self._task, self._context, self._checkpoint = task, context, checkpoint
        self._stopped = threading.Event()
        self._queue: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._keeper: Keeper | None = None
        self._output: Output | None = None
        self._began: float | None = None
        self._thread = TrainingThread(target=self._run, daemon=True)
        self._thread.start()

    def messages(self) -> list[Message]:
        """Return the messages of one step; printed text comes before an outcome."""
        found: list[Message] = []
        deadline = time.monotonic() + BATCH_SECONDS
        while not found or not isinstance(found[-1], Outcome):
            try:
                found.append(self._queue.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                break
        outcome = found.pop() if found and isinstance(found[-1], Outcome) else self._forced_end()
        text = "" if self._output is None else self._output.rest() if outcome else self._output.take()
        return [*found, *([Printed(text)] if text else []), *([outcome] if outcome else [])]

    def end(self, seconds: float) -> bool:
        """Stop the training at its next step of Python code; return whether it ended within this time."""
        from nas_attn.training.ends import Stopped

        self._stopped.set()
        deadline = time.monotonic() + seconds
        while self._thread.is_alive():
            raise_in(self._thread.ident, Stopped)
            self._thread.join(min(1.0, max(0.0, deadline - time.monotonic())))
            if time.monotonic() >= deadline:
                break
        return not self._thread.is_alive()

    def unsaved(self) -> bytes | None:
        """Return the newest state of the training if it is not saved yet."""
        return None if self._keeper is None else self._keeper.unsaved()

    def _forced_end(self) -> Outcome | None:
        """Return the outcome of a training that takes too long, or whose thread ended without one; else None."""
        limit, began = self._context.timeout, self._began
        seconds = 0.0 if began is None else time.monotonic() - began
        if limit is not None and seconds > limit:
            return timed_out(limit, seconds)
        if self._thread.is_alive() or not self._queue.empty():
            return None
        reason = "The thread of the training ended without a result."
        return Outcome("fail", cause="error", reason=reason, seconds=seconds)

    def _run(self) -> None:
        from nas_attn.training.ends import outcome_of

        try:
            outcome = self._outcome()
        except BaseException as error:  # a worker that cannot read its data reports it as its trial's outcome
            outcome = outcome_of(error, self._task.stage, 0.0)
        return_freed_memory()
        self._queue.put(outcome)

    def _outcome(self) -> Outcome:
        from nas_attn.training.keeper import Keeper
        from nas_attn.training.output import Output, captured
        from nas_attn.training.trial import evaluate, prepare

        self._output = Output()
        with captured(self._output, thread=None):
            prepare(self._context)
            self._began = time.monotonic()
            save = self._context.checkpoint_seconds
            self._keeper = Keeper(save, lambda content: self._queue.put(Saved(content)), self._checkpoint)
            self._checkpoint = None
            return evaluate(self._task, self._context, self._report, self._keeper)

    def _report(self, epoch: int, value: float) -> None:
        from nas_attn.training.ends import Stopped

        if self._stopped.is_set():
            raise Stopped
        self._queue.put(Reported(epoch, value))
