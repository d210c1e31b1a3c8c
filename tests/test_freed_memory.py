"""Freed memory stays in a worker for its next step, and goes back to the system after a training."""

from __future__ import annotations

import platform

import pytest
from conftest import RunCommand

FAULTS = """
import resource, sys, threading
from nas_attn.executors.freed_memory import keep_freed_memory

def faults():
    def once():
        parts = [bytearray(b"x") * 400_000 for _ in range(60)]
        del parts
    once()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        once()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

found = []
plain = faults()
is_kept = keep_freed_memory()
thread = threading.Thread(target=lambda: found.append(faults()))
thread.start()
thread.join()
print(is_kept, plain, found[0], faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again_in_every_thread(run_python: RunCommand) -> None:
    is_kept, plain, in_thread, in_main = run_python("-c", FAULTS).stdout.split()
    assert is_kept == "True"
    assert int(plain) > 1000, "5 rounds of 24 MB"
    assert max(int(in_thread), int(in_main)) < int(plain) / 10


def test_a_users_own_settings_are_left_alone(run_python: RunCommand) -> None:
    env = {"MALLOC_TRIM_THRESHOLD_": "131072"}
    assert run_python("-c", FAULTS, env=env).stdout.startswith("False ")


MANY_THREADS = """
import threading
from nas_attn.executors.freed_memory import keep_freed_memory, return_freed_memory

def resident():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1])

def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

def training():
    parts = [bytearray(b"x") * 100_000 for _ in range(200)]
    del parts
    {ending}

leave = threading.Event()
for _ in range(60):  # as in Ray's workers: each of glibc's arenas has threads that live on
    threading.Thread(target=lambda: (bytearray(5_000), leave.wait()), daemon=True).start()
keep_freed_memory()
in_thread(training)
before = resident()
for _ in range(8):
    in_thread(training)
print(resident() - before)
leave.set()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is glibc's")
def test_trainings_in_threads_of_their_own_keep_the_memory_of_one(run_python: RunCommand) -> None:
    kept = {
        ending: int(run_python("-c", MANY_THREADS.format(ending=ending)).stdout)
        for ending in ("pass", "return_freed_memory()")
    }
    assert kept["pass"] > 40_000, "kB: without it, each arena keeps a training's 20 MB"
    assert kept["return_freed_memory()"] < 10_000
