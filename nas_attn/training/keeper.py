"""The checkpoints of one running training: when they are taken, and where the training continues."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from nas_attn.training.state import decode, encode, plain_copy

FORMAT = 1
"""Version of the content of a checkpoint."""

HELD_SHARE = 0.02
"""Greatest share of the training's time for copies of its state, which an interrupt saves."""

log = logging.getLogger(__name__)


class CannotContinue(Exception):
    """A checkpoint that this training cannot continue from; it begins anew."""


class Keeper:
    """Saves the state of one training at most once per period, and holds a newer copy for an interrupt.

    Args:
        period: Seconds between two saves; None saves and holds nothing.
        send: Takes the bytes of a checkpoint.
        content: The checkpoint of an earlier attempt at the same training.
    """

    def __init__(
        self,
        period: float | None = None,
        send: Callable[[bytes], None] = lambda content: None,
        content: bytes | None = None,
    ) -> None:
        self._period, self._send = period, send
        self._unsaved: dict[str, Any] | None = None
        self._cost = 0.0
        self._began = self._saved = self._copied = time.monotonic()
        self.curve: dict[int, float] = {}
        self.restored: dict[str, Any] | None = None
        self.earlier_seconds = 0.0
        self.note: str | None = None
        if content is not None:
            self._read(content)

    def _read(self, content: bytes) -> None:
        try:
            found = decode(content)
            if found["format"] != FORMAT:
                raise ValueError(f"its format is {found['format']}, not {FORMAT}")
            curve = {int(epoch): float(value) for epoch, value in found["curve"]}
            self.earlier_seconds, self.restored = float(found["seconds"]), {"state": found["state"], "curve": curve}
        except Exception as error:  # torch and pickle raise whatever damaged bytes lead to
            self.forget(f"it cannot be read ({type(error).__name__})")

    def forget(self, reason: str) -> None:
        """Begin the training anew, because its checkpoint cannot be used; the reason is logged."""
        self.restored, self.curve, self.earlier_seconds = None, {}, 0.0
        self.note = (
            f"The checkpoint of this training cannot be used, so it begins anew: {' '.join(reason.split())[:300]}."
        )
        log.warning("%s", self.note)

    @property
    def epoch(self) -> int:
        """The last epoch of the checkpoint that the training continues from; 0 without one."""
        return max(self.restored["curve"], default=0) if self.restored is not None else 0

    @property
    def seconds(self) -> float:
        """Time of the training so far, with that of the attempts that it continues."""
        return self.earlier_seconds + time.monotonic() - self._began

    def offer(self, take: Callable[[], Any]) -> None:
        """Save the state that `take` returns if a period has passed; otherwise hold a copy if that costs little.

        Raises: TypeError if the state is not plain data and tensors.
        """
        if self._period is None:
            return
        now = time.monotonic()
        is_due = now - self._saved >= self._period
        if not is_due and HELD_SHARE * (now - self._copied) < self._cost:
            return
        content = {
            "format": FORMAT,
            "curve": list(self.curve.items()),
            "seconds": self.seconds,
            "state": plain_copy(take()),
        }
        self._copied = time.monotonic()
        self._cost = self._copied - now
        self._unsaved = content
        if is_due:
            self._send(encode(content))
            self._unsaved, self._saved = None, self._copied

    def unsaved(self) -> bytes | None:
        """Return the newest state as bytes if it is not saved yet; called at an interrupt, from any thread."""
        content, self._unsaved = self._unsaved, None
        return None if content is None else encode(content)
