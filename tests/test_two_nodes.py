"""Searches on a real Ray cluster of two nodes that share no disk; `benchmarks/two_nodes.py` says how it is made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT

SCRIPT = ROOT / "benchmarks" / "two_nodes.py"
CASES = ("images", "training", "blind", "killed")


def can_mount(folder: Path) -> bool:
    """Return whether this user may hide a folder from a process, as from another machine."""
    words = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:  # a system without such a command
        return False


@pytest.mark.cluster
@pytest.mark.timeout(1200)
def test_a_search_needs_no_shared_disk_and_survives_a_blind_and_a_killed_node(tmp_path: Path) -> None:
    if not can_mount(tmp_path):
        pytest.skip("a node of its own needs a mount of its own, which this user may not make")
    done = subprocess.run([sys.executable, str(SCRIPT), *CASES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    shown = {line.split()[0]: line for line in done.stdout.splitlines() if line.split()[:1] and ": yes" in line}
    assert shown.keys() == set(CASES)
    assert not any(": NO" in line for line in shown.values())
