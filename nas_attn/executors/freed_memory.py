"""Freed memory that a worker keeps for its next step, instead of returning it to the system after each one."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

_ARENA_MAX, _TRIM_THRESHOLD, _MMAP_THRESHOLD = -8, -1, -3  # of mallopt(3)
_KEPT = 512 * 2**20
_LARGEST = 32 * 2**20  # the most that glibc takes from its heap
_LOOKED_AT = 128 * 2**10  # above glibc's FASTBIN_CONSOLIDATION_THRESHOLD

_OWN = ("MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
"""Variables by which a user sets the same; they are left alone."""


def keep_freed_memory() -> bool:
    """Keep up to 512 MiB of freed memory in this process, where its C library is glibc; return whether it is kept.

    The steps of a training allocate the same tensors again and again. glibc returns the end of its heap to the system
    after each, so that every page is zeroed by the kernel and mapped anew: hundreds per step of a small network.
    """
    if not _is_kept_here():
        return False
    mallopt = _glibc().mallopt
    set_to = ((_ARENA_MAX, 1), (_TRIM_THRESHOLD, _KEPT), (_MMAP_THRESHOLD, _LARGEST))
    return all(mallopt(parameter, value) == 1 for parameter, value in set_to)


def return_freed_memory() -> None:
    """Return the freed memory of a process that keeps it to the system, from the thread of a training at its end.

    The next training has a thread of its own, which may use another of glibc's arenas, until each of them kept the
    memory of a training.
    """
    if not _is_kept_here():
        return
    glibc = _glibc()
    glibc.mallopt(_TRIM_THRESHOLD, 0)
    glibc.free(glibc.malloc(_LOOKED_AT))  # glibc returns the end of an arena only while a large part of it is freed
    glibc.malloc_trim(0)  # and this returns what lies before the end
    glibc.mallopt(_TRIM_THRESHOLD, _KEPT)


@cache
def _is_kept_here() -> bool:  # which reads the interpreter's file
    return platform.libc_ver()[0] == "glibc" and not any(name in os.environ for name in _OWN)


@cache
def _glibc() -> ctypes.CDLL:
    glibc = ctypes.CDLL(None)
    glibc.malloc.restype, glibc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    glibc.free.argtypes = [ctypes.c_void_p]
    return glibc
