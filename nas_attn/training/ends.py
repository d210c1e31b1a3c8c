"""How a training ended: whatever it returned, reported or raised, as plain numbers or as an outcome in one sentence."""

from __future__ import annotations

import math
import operator
import sysconfig
import traceback
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

from nas_attn.errors import TrialFailed, in_plain_words
from nas_attn.records import Outcome, Stage
from nas_attn.training.loop import is_out_of_memory

_PACKAGE = Path(__file__).resolve().parent.parent
_OTHERS = tuple(
    Path(path).resolve() for path in {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")} if path
)


class Stopped(BaseException):
    """Raised by `report` when the scheduler stops the trial; no Exception, so that `except Exception` lets it pass."""


def as_number(value: Any, what: str) -> float:
    """Return a number of Python, numpy or torch as a float.

    Args:
        value: A real number, or an array or tensor with one element.
        what: Its name in messages, e.g. `The value that the training returned`.
    Raises: TypeError or ValueError, in one sentence, for anything else: text, None, a truth value, a complex number,
    several numbers, one beyond the range of a float.
    """
    found = value
    if getattr(value, "size", None) == 1 or (hasattr(value, "numel") and value.numel() == 1):
        try:
            found = value.item()
        except Exception as error:  # of a tensor without memory, or another library's array
            raise TypeError(f"{what} must be one number, but {_described(value)} has none: {error}") from error
    if isinstance(found, bool) or not isinstance(found, Real | Decimal):
        raise TypeError(f"{what} must be one number, but is {_described(value)}.")
    try:
        return float(found)
    except OverflowError:
        raise ValueError(f"{what} must lie in the range of a float, but is an int of more than 308 digits.") from None


def as_epoch(epoch: Any, n_epochs: int) -> int:
    """Return the number of an epoch of Python, numpy or torch as an int.

    Args:
        n_epochs: Length of the schedule.
    Raises: TypeError or ValueError, in one sentence, unless it is a whole number from 1 to `n_epochs`.
    """
    try:
        number = operator.index(epoch)
    except TypeError:
        number = None
    if number is None or isinstance(epoch, bool):
        raise TypeError(f"The epoch of a report must be a whole number, but is {_described(epoch)}.")
    if number < 1:
        raise ValueError(f"The epochs of reports are counted from 1, but got {number}.")
    if number > n_epochs:
        raise ValueError(
            f"The epochs of reports must be at most run.epochs = {n_epochs}, but got {number}: train run.epochs "
            "epochs, or state --epochs."
        )
    return number


def finite(value: float) -> float:
    """Return a trial's value. Raises: TrialFailed unless it is finite."""
    if not math.isfinite(value):
        raise TrialFailed("nan", f"The training returned {value}; a trial's value must be finite.")
    return value


def outcome_of(error: BaseException, stage: Stage, seconds: float) -> Outcome:
    """Return the outcome of a training that raised.

    Optuna's `TrialPruned` stops a search trial as the scheduler does; in the other stages it is a failure.
    """
    if isinstance(error, Stopped) or (stage in ("search", "control") and _is_pruned(error)):
        return Outcome("pruned", seconds=seconds)
    if isinstance(error, TrialFailed):
        return Outcome("fail", cause=error.cause, reason=in_plain_words(error), seconds=seconds)
    return Outcome("fail", cause=_cause(error), reason=_reason(error), seconds=seconds, trace=trace_of(error))


def trace_of(error: BaseException) -> str:
    """Return the whole traceback of an error."""
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # a message that cannot be made
        return "".join(traceback.format_tb(error.__traceback__)) + type(error).__name__


def _reason(error: BaseException) -> str:
    """Return an error in one line, with the last place in code of the user's own that it passed."""
    words, name = in_plain_words(error), type(error).__name__
    if _is_pruned(error):
        words = words or "it ends trials of the search alone, and in the other stages a training must return its value"
    frame = own_frame(traceback.extract_tb(error.__traceback__))
    place = f" ({Path(frame.filename).name}:{frame.lineno})" if frame is not None else ""
    return f"{name}: {words or 'no message'}{place}"


def _cause(error: BaseException) -> str:
    try:
        return "oom" if isinstance(error, Exception) and is_out_of_memory(error) else "error"
    except BaseException:  # it reads the message, which is code of the user
        return "error"


def own_frame(frames: Sequence[traceback.FrameSummary]) -> traceback.FrameSummary | None:
    """Return the last frame outside of this package, of Python's library and of installed packages; else the last.

    None if this package itself raised the error: its message says what is wrong.
    """
    own = [frame for frame in frames if not _is_of_others(Path(frame.filename))]
    last = next(reversed(own or frames), None)
    return None if last is None or Path(last.filename).resolve().is_relative_to(_PACKAGE) else last


def _is_of_others(file: Path) -> bool:
    resolved = file.resolve()
    return any(resolved.is_relative_to(folder) for folder in (_PACKAGE, *_OTHERS)) or str(file).startswith("<")


def _is_pruned(error: BaseException) -> bool:
    """Return whether an error is Optuna's, which a worker need not have imported."""
    return any(cls.__name__ == "TrialPruned" and cls.__module__.startswith("optuna") for cls in type(error).__mro__)


def _described(value: object) -> str:
    """Return what a value is: its type, and the value itself if it is short."""
    words = in_plain_words(repr(value)) if isinstance(value, str | bytes | bool | complex | int | float) else ""
    return f"{type(value).__name__} {words}" if words and len(words) < 40 else f"a {type(value).__name__}"
