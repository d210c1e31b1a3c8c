"""Freed memory stays in a worker: the same allocations again cost no new pages."""

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
