"""The time of `nas-attn --help`, beside other command lines of the field; goal: at most 0.3 s.

Run: `python benchmarks/startup.py [--rounds 9]`. Each round runs every command once, under the same
load of the machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

SCRIPTS = Path(sysconfig.get_path("scripts"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "nas-attn --help": [sys.executable, "-m", "nas_attn", "--help"],
    "nas-attn search --help": [sys.executable, "-m", "nas_attn", "search", "--help"],
    "optuna --help": [str(SCRIPTS / "optuna"), "--help"],
    "optuna-dashboard --help": [str(SCRIPTS / "optuna-dashboard"), "--help"],
    "ray --help": [str(SCRIPTS / "ray"), "--help"],
}


def seconds(command: list[str]) -> float:
    """Return the seconds of one run of `command`."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Print median, fastest and slowest of each command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    for command in COMMANDS.values():
        seconds(command)  # loads the files into the cache of the disk
    times = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    for name, found in times.items():
        print(f"{name:26} {statistics.median(found):6.3f} s   ({min(found):.3f} to {max(found):.3f}, n = {rounds})")


if __name__ == "__main__":
    main()
