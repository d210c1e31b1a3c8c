"""Proves searches on a real Ray cluster of several nodes without a shared disk, on this one machine.

Each node is a `ray start` of its own on 127.0.0.1, with its own ports. Every node but the first runs in a mount
namespace with an empty file system over the folder of the driver, as another machine would; so this needs root. The
cluster asks for a token. Run it as `python benchmarks/two_nodes.py [CASE ...]`; it prints what held, and exits with 1
if anything did not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PORT = 26379
SHORT = [
    "--trials",
    "6",
    "--epochs",
    "2",
    "--seeds",
    "2",
    "--top",
    "1",
    "--controls",
    "0",
    "--device",
    "cpu",
    "--cpus-per-trial",
    "1",
]
LONGER = [*SHORT, "--trials=9", "--epochs=40"]
HELPER = "FACTOR = 0.5\n"
TRAINING = """from mine.helper import FACTOR

def train(model, run):
    for epoch in range(1, run.epochs + 1):
        run.report(epoch, FACTOR + 0.001 * epoch)
    return FACTOR
"""


@dataclass
class Cluster:
    """The nodes of a cluster, each a process; the first one has the driver's disk."""

    disk: Path
    work: Path
    environment: dict[str, str]
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add(self) -> None:
        """Start a further node, and wait until it has joined."""
        number = len(self.nodes)
        first, last = 27000 + 200 * number, 27100 + 200 * number
        words = ["ray", "start", "--node-ip-address=127.0.0.1", "--num-cpus=1", "--object-store-memory=100000000"]
        words += [f"--min-worker-port={first}", f"--max-worker-port={last}", "--disable-usage-stats", "--block"]
        if number == 0:
            words += ["--head", f"--port={PORT}", f"--temp-dir={self.work}/ray", "--include-dashboard=false"]
        else:
            words += [f"--address=127.0.0.1:{PORT}"]
            inner = f'mount -t tmpfs tmpfs "{self.disk}"; exec "$@"'
            words = ["unshare", "-m", "bash", "-c", inner, "node", *words]
        log = self.work / f"node{number}.txt"
        with log.open("wb") as output:
            process = subprocess.Popen(
                words, stdout=output, stderr=subprocess.STDOUT, env=self.environment, start_new_session=True
            )
        self.nodes.append(process)
        _wait(lambda: "Ray runtime started" in log.read_text(), 60, f"node {number} does not start: see {log}")

    def kill(self, number: int) -> None:
        """Kill all processes of a node at once, as a loss of power would."""
        for process in [*_descendants(self.nodes[number].pid), self.nodes[number].pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.nodes[number].wait()

    def search(self, name: str, *words: str) -> subprocess.Popen[str]:
        """Start a search on the cluster in the driver's folder."""
        command = [
            sys.executable,
            "-m",
            "nas_attn",
            "search",
            "--address",
            f"127.0.0.1:{PORT}",
            "--out",
            f"runs/{name}",
        ]
        return subprocess.Popen(
            [*command, *words], cwd=self.disk, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def log(self, name: str) -> str:
        """Return the log of a run so far."""
        path = self.disk / "runs" / name / "log.txt"
        return path.read_text() if path.exists() else ""

    def used(self, name: str) -> set[str]:
        """Return the ids of the nodes on which trials of a run ran."""
        return set(re.findall(r"runs on node .*id ([0-9a-f]{8})", self.log(name)))


def _descendants(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _wait(held: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not held():
        if time.monotonic() > deadline:
            raise SystemExit(otherwise)
        time.sleep(0.2)


@contextlib.contextmanager
def cluster(n_nodes: int) -> Iterator[Cluster]:
    """Context manager: a new cluster with its own token, whose processes and folders go with it."""
    work = Path(tempfile.mkdtemp(prefix="nn-"))
    disk = work / "disk"
    disk.mkdir()
    _fill(disk)
    root = str(Path(__file__).resolve().parent.parent)
    found = Cluster(
        disk, work,
        {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "OMP_NUM_THREADS": "1",
         "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": root,
         "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    try:
        for _ in range(n_nodes):
            found.add()
        yield found
    finally:
        for number, process in reversed(list(enumerate(found.nodes))):
            if process.poll() is None:
                found.kill(number)
        shutil.rmtree(work, ignore_errors=True)


def _fill(disk: Path) -> None:
    """Write images, initial weights, a space that names them, and a training, to the driver's disk."""
    import numpy as np
    from safetensors.torch import save_file
    from sklearn.datasets import load_digits

    from nas_attn.backbones.build import build_backbone
    from nas_attn.placement import Shape

    found = load_digits()
    pixels, labels = (found.images * 15.9375).astype(np.uint8), found.target.astype(np.int64)
    arrays = {"train": slice(0, 300), "val": slice(300, 500), "test": slice(500, None)}
    np.savez(
        disk / "images.npz",
        **{f"{part}_images": pixels[rows] for part, rows in arrays.items()},
        **{f"{part}_labels": labels[rows] for part, rows in arrays.items()},
    )
    spec = {"name": "densenet", "growth_rate": 8, "block_config": [2, 2], "stem": "small"}
    save_file(build_backbone(spec, Shape(10, 1, 8), seed=0).state_dict(), disk / "start.safetensors")
    (disk / "space.toml").write_text(
        'title = "Small"\n[backbone]\nname = "densenet"\ngrowth_rate = 8\nblock_config = [2, 2]\nstem = "small"\n'
        f'weights = "{disk}/start.safetensors"\n[[sites]]\nmatch = ["denseblock*"]\nattentions = ["se", "eca"]\n'
    )
    (disk / "mine").mkdir()
    (disk / "mine" / "__init__.py").write_text("")
    (disk / "mine" / "helper.py").write_text(HELPER)
    (disk / "mine" / "training.py").write_text(TRAINING)


def _rows(run: Path) -> dict[str, int]:
    """Return the number of rows of the ledger by state."""
    with contextlib.closing(sqlite3.connect(f"file:{run}/study.db?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT state, COUNT(*) FROM trials GROUP BY state").fetchall())


Held = dict[str, bool]


def _ended(nodes: Cluster, name: str, process: subprocess.Popen[str]) -> Held:
    """Return what holds of every search that came to its end."""
    output, _ = process.communicate(timeout=400)
    run = nodes.disk / "runs" / name
    ended = {"exit code 0": process.returncode == 0, "report and weights": (run / "best.safetensors").exists()}
    if (run / "study.db").exists():
        ended |= {"no row running": "RUNNING" not in _rows(run), "no row failed": "FAIL" not in _rows(run)}
    if not all(ended.values()):
        print(output[-3000:], nodes.log(name)[-6000:], sep="\n")
    return ended


def images_travel(nodes: Cluster) -> Held:
    """Images, and the backbone's initial weights, lie on the driver's disk alone."""
    run = nodes.search("images", "--space", "space.toml", "--data", "npz:images.npz", *SHORT)
    held = _ended(nodes, "images", run)
    return {**held, "both nodes trained": len(nodes.used("images")) == 2}


def training_travels(nodes: Cluster) -> Held:
    """A training of the user's own, and the module that it imports, lie on the driver's disk alone."""
    words = ["--train", "mine.training:train", "--num-classes", "10", "--in-channels", "1", "--image-size", "8"]
    space = (nodes.disk / "space.toml").read_text()
    (nodes.disk / "own.toml").write_text(re.sub(r"weights = .*\n", "", space))
    held = _ended(nodes, "training", nodes.search("training", "--space", "own.toml", *words, *SHORT))
    return {**held, "both nodes trained": len(nodes.used("training")) == 2}


def blind_node(nodes: Cluster) -> Held:
    """The images are said to lie on every node, but are missing on one."""
    words = [
        "--space",
        "space.toml",
        "--data",
        f"npz:{nodes.disk}/images.npz",
        "--data-on-nodes",
        *SHORT,
        "--trials=9",
        "--epochs=40",
    ]
    held = _ended(nodes, "blind", nodes.search("blind", *words))
    told = "is left out, because trials failed there and succeeded on others"
    report = nodes.disk / "runs" / "blind" / "report.html"
    return {
        **held,
        "the log names the node": told in nodes.log("blind"),
        "the report names the node": report.exists() and "is left out, because" in report.read_text(),
    }


def killed_and_added(nodes: Cluster) -> Held:
    """One of two nodes is killed in mid-search, and another one joins."""
    words = ["--space", "space.toml", "--data", "npz:images.npz", *LONGER]
    run = nodes.search("killed", *words)
    _wait(lambda: len(nodes.used("killed")) == 2 or run.poll() is not None, 120, "the search does not begin")
    before = nodes.used("killed")
    nodes.kill(1)
    _wait(lambda: "was lost" in nodes.log("killed") or run.poll() is not None, 120, "nobody notices the lost node")
    nodes.add()
    held = _ended(nodes, "killed", run)
    return {**held, "the node is named": "was lost" in nodes.log("killed"),
            "the new node trained": len(nodes.used("killed") - before) == 1}  # fmt: skip


CASES: dict[str, Callable[[Cluster], Held]] = {
    "images": images_travel,
    "training": training_travels,
    "blind": blind_node,
    "killed": killed_and_added,
}


def main() -> int:
    """Run the cases that are named, or all, on one cluster; print what held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all")
    chosen = parser.parse_args().cases or list(CASES)
    all_held = True
    with cluster(2) as nodes:
        for name in chosen:
            begun = time.monotonic()
            held = CASES[name](nodes)
            all_held &= all(held.values())
            shown = ", ".join(f"{what}: {'yes' if is_so else 'NO'}" for what, is_so in held.items())
            print(f"{name:9} {time.monotonic() - begun:5.0f} s  {shown}", flush=True)
    return 0 if all_held else 1


if __name__ == "__main__":
    sys.exit(main())
