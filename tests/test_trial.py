"""One trial: what it trains on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nas_attn.config import DataConfig, Recipe
from nas_attn.data.dataset import describe
from nas_attn.placement import NONE, Shape
from nas_attn.records import Task
from nas_attn.training import trial
from nas_attn.training.context import TrialContext

BACKBONE = {"name": "densenet", "growth_rate": 4, "block_config": [1, 1], "num_init_features": 8, "stem": "small"}


def write_images(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 8, 8), np.uint8)
    np.savez(path, train_images=pixels, train_labels=np.arange(40) % 2)


def test_images_that_changed_between_two_runs_of_one_process_are_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, loaded = tmp_path / "images.npz", []
    load = trial.load_data

    def counted(config: DataConfig, **options: object) -> object:
        loaded.append(load(config, **options))
        return loaded[-1]

    monkeypatch.setattr(trial, "load_data", counted)
    config = DataConfig(name=f"npz:{path}")
    for seed in (0, 1):
        write_images(path, seed)
        fingerprint = describe(config).fingerprint
        context = TrialContext(BACKBONE, Shape(2, 1, 8), Recipe(), data=config, fingerprint=fingerprint)
        for number in range(2):
            task = Task(number, "search", NONE, seed=0, epochs=1)
            assert trial.evaluate(task, context, lambda epoch, value: None).state == "complete"
    assert len(loaded) == 2
    assert loaded[0].facts.fingerprint != loaded[1].facts.fingerprint == fingerprint
