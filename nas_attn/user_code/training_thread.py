"""The thread in which a worker trains."""

from __future__ import annotations

import threading


class TrainingThread(threading.Thread):
    """A thread whose process does nothing but its training.

    What a training changes in the process is restored in it, which elsewhere only the main thread may do.
    """
