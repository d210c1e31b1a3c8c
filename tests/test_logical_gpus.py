"""Four GPUs that Ray believes in: what each worker sees of them. No GPU is needed, and nothing calls CUDA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from typing import Any

import pytest
from runs import ROOT, TINY

SCRIPT = """
import json, os, sys, time
from pathlib import Path

import ray
import torch
from nas_attn import search

shares = json.loads(sys.argv[1])
torch.cuda._lazy_init = torch.cuda.init = None  # whoever calls CUDA fails here


def train(model, run, *, seen, together):
    torch.cuda._lazy_init = torch.cuda.init = None
    began = time.time()
    mine = {"pid": os.getpid(), "devices": os.environ.get("CUDA_VISIBLE_DEVICES"), "began": began, "device": run.device}
    file = seen / f"{run.stage}-{run.number}.json"
    file.write_text("")
    while len(list(seen.iterdir())) < together and time.time() < began + 120:
        time.sleep(0.05)
    time.sleep(0.1)
    file.write_text(json.dumps({**mine, "ended": time.time()}))
    return 0.5


if __name__ == "__main__":
    from functools import partial

    ray.init(address="local", num_cpus=8, num_gpus=4, include_dashboard=False, log_to_driver=False)
    for share, together in shares:
        seen = Path(f"seen-{share}")
        seen.mkdir()
        search(
            "tiny.toml", train=partial(train, seen=seen.absolute(), together=together), out=f"run-{share}",
            num_classes=10, in_channels=1, image_size=8, gpus_per_trial=share, trials=together + 2, epochs=1, seeds=1,
            top=1, controls=0,
        )
    assert not torch.cuda.is_initialized()
"""
SHARES = ((1.0, 4), (0.5, 8), (2.0, 2))
"""GPUs per trial, and how many trials have room at the same time."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[float, list[dict[str, Any]]]:
    """What the trainings of a search saw, by their share of a GPU, in the order in which they began."""
    folder = tmp_path_factory.mktemp("gpus")
    (folder / "tiny.toml").write_text(TINY)
    (folder / "script.py").write_text(SCRIPT)
    words = [sys.executable, "script.py", json.dumps(SHARES)]
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=580, env={**environment(), "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = {
        share: [json.loads(file.read_text()) for file in (folder / f"seen-{share}").iterdir()] for share, _ in SHARES
    }
    return {share: sorted(trials, key=lambda trial: trial["began"]) for share, trials in found.items()}


def environment() -> dict[str, str]:
    """Return the environment without a choice of GPUs."""
    return {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}


def at_once(trials: list[dict[str, Any]], moment: float) -> list[dict[str, Any]]:
    return [trial for trial in trials if trial["began"] <= moment < trial["ended"]]


@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("share", "together"), SHARES)
def test_each_worker_sees_its_own_gpus_alone(seen: Any, share: float, together: int) -> None:
    trials = seen[share]
    assert {trial["device"] for trial in trials} == {"cuda"}
    by_process = defaultdict(set)
    for trial in trials:
        by_process[trial["pid"]].add(trial["devices"])
    assert all(len(devices) == 1 for devices in by_process.values()), "a worker keeps its GPUs"
    for trial in trials:
        devices = trial["devices"].split(",")
        assert len(set(devices)) == len(devices) == max(1, share)
        assert set(devices) <= set("0123")
    running = [at_once(trials, trial["began"]) for trial in trials]
    assert max(map(len, running)) == together, "all of them have room at the same time"
    for group in running:
        used = Counter(device for trial in group for device in trial["devices"].split(","))
        assert max(used.values()) * min(1, share) <= 1, "no GPU is given away twice"
    fullest = max(running, key=len)
    shared = Counter(device for trial in fullest for device in trial["devices"].split(","))
    assert shared == dict.fromkeys("0123", 1 if share >= 1 else round(1 / share)), "and every GPU is used"
