"""Freed memory that a worker keeps for its next step, instead of returning it to the system after each one."""

from __future__ import annotations

import ctypes
import os
import platform

_ARENA_MAX, _TRIM_THRESHOLD, _MMAP_THRESHOLD = -8, -1, -3  # of mallopt(3)
_KEPT = 512 * 2**20
_LARGEST = 32 * 2**20  # the most that glibc takes from its heap

_OWN = ("MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
"""Variables by which a user sets the same; they are left alone."""


def keep_freed_memory() -> bool:
    """Keep up to 512 MiB of freed memory in this process, where its C library is glibc; return whether it is kept.

    The steps of a training allocate the same tensors again and again. glibc returns the end of its heap to the system
    after each, so that every page is zeroed by the kernel and mapped anew: hundreds per step of a small network.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _OWN):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    set_to = ((_ARENA_MAX, 1), (_TRIM_THRESHOLD, _KEPT), (_MMAP_THRESHOLD, _LARGEST))
    return all(mallopt(parameter, value) == 1 for parameter, value in set_to)
