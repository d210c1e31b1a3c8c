"""Synthetic runs: records with a planted effect, for the tests of the report."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np

from nas_attn.comparison.predictions import Predictions
from nas_attn.placement import Attention, Placement, Site, SiteTable, Value
from nas_attn.records import RunRecord, Stage, TrialRecord

FAMILIES = ("se", "cbam", "gam", "triple")
OPTIONS: Mapping[str, Mapping[str, tuple[Value, ...]]] = {
    "se": {"reduction": (4, 8, 16)},
    "cbam": {"reduction": (4, 8, 16), "kernel_size": (3, 5, 7), "order": ("channel-spatial", "spatial-channel")},
    "gam": {"reduction": (2, 4), "groups": (1, 4)},
    "triple": {"hidden": (32, 64), "parts": ("channel+element+scale",)},
}
EXTRA = {"se": 900, "cbam": 1_100, "gam": 14_000, "triple": 5_200}
Score = Callable[[Placement], float]


def densenet_table(layers: int = 4) -> SiteTable:
    """Three dense blocks with their layers and two transitions, on 8x8 images."""
    sites = []
    for block, (channels, size) in enumerate([(48, 8), (56, 4), (60, 2)], 1):
        stage = f"stage{block}"
        for layer in range(1, layers + 1):
            name = f"denseblock{block}.layer{layer}"
            sites.append(Site(name, "output", f"features.{name}", 8, size, size, stage))
        sites.append(Site(f"denseblock{block}", "output", f"features.denseblock{block}", channels, size, size, stage))
        if block < 3:
            name = f"transition{block}"
            half = (channels // 2, size // 2, size // 2)
            sites.append(Site(name, "output", f"features.{name}", *half, f"stage{block + 1}"))
    return SiteTable("densenet", 10, 1, 8, 72_310, 1_250_000, tuple(sites))


def resnet_table(blocks: tuple[int, ...] = (3, 4, 6, 3)) -> SiteTable:
    """ResNet-50's blocks with four kinds of site each."""
    sites = []
    for stage, n_blocks in enumerate(blocks, 1):
        for block in range(1, n_blocks + 1):
            for kind in ("pre", "branch", "shortcut", "output"):
                name = f"stage{stage}.block{block}.{kind}"
                width, size = 128 * 2**stage, 64 // 2**stage
                sites.append(Site(name, kind, f"layer{stage}.{block - 1}", width, size, size, f"stage{stage}"))
    return SiteTable("resnet50", 100, 3, 32, 23_700_000, 1_310_000_000, tuple(sites))


def everywhere(name: str, sites: tuple[str, ...]) -> Placement:
    """One family with its first options at every site."""
    attention = Attention(name, {option: values[0] for option, values in OPTIONS[name].items()})
    return Placement(dict.fromkeys(sites, attention))


def planted(effects: Mapping[tuple[str, str], float], base: float = 0.95) -> Score:
    """True accuracy: the base, plus an effect for each (site, family) of the placement."""
    return lambda placement: base + sum(effects.get((s, a.name), 0.0) for s, a in placement.attentions.items())


class Maker:
    """Draws placements and values from one seeded generator."""

    def __init__(self, table: SiteTable, sites: tuple[str, ...], score: Score, noise: float, seed: int) -> None:
        self.table, self.sites, self.score, self.noise = table, sites, score, noise
        self.random = random.Random(seed)

    def placement(self) -> Placement:
        """Draw each site independently; half of them get no attention."""
        chosen = {}
        for site in self.sites:
            if self.random.random() < 0.5:
                name = self.random.choice(FAMILIES)
                options = {option: self.random.choice(values) for option, values in OPTIONS[name].items()}
                chosen[site] = Attention(name, options)
        return Placement(chosen)

    def trial(
        self, number: int, stage: Stage, placement: Placement, seed: int, label: str | None = None
    ) -> TrialRecord:
        """A complete trial: its true accuracy, plus an offset of the seed that all arms share, plus noise."""
        shared = random.Random(f"seed {seed}").gauss(0, 2 * self.noise)
        value = min(1.0, self.score(placement) + shared + self.random.gauss(0, self.noise))
        extra = sum(EXTRA.get(a.name, 0) for a in placement.attentions.values())
        return TrialRecord(
            number=number,
            stage=stage,
            state="complete",
            placement=placement,
            key=placement.key,
            seed=seed,
            epochs=30,
            value=value,
            curve={epoch: value * (1 - 0.5**epoch) for epoch in range(1, 31)},
            n_parameters=self.table.n_parameters + extra,
            n_macs=self.table.n_macs + 40 * extra,
            label=label,
            seconds=6.5 + self.random.random(),
        )


def make_run(
    folder: Path = Path("runs/densenet_attn"),
    *,
    effects: Mapping[tuple[str, str], float] | None = None,
    n_trials: int = 24,
    n_seeds: int = 5,
    noise: float = 0.002,
    found: Placement | None = None,
    recommended: str = "found #1",
    messy: bool = True,
    table: SiteTable | None = None,
    sites: tuple[str, ...] = (),
    seed: int = 1,
) -> RunRecord:
    """A finished run; `messy` adds pruned, failed, answered and running trials to its search."""
    table = table or densenet_table()
    sites = sites or tuple(site.name for site in table.sites if "layer" not in site.name)
    effects = {("denseblock2", "se"): 0.012, ("transition2", "cbam"): 0.006} if effects is None else effects
    maker = Maker(table, sites, planted(effects), noise, seed)
    priors = [("none", Placement()), *((f"{name} everywhere", everywhere(name, sites)) for name in FAMILIES)]
    drawn = [(None, maker.placement()) for _ in range(n_trials - len(priors))]
    search = [maker.trial(n, "search", p, 0, label) for n, (label, p) in enumerate([*priors, *drawn])]
    search = _mess_up(search) if messy else search
    done = [trial for trial in search if trial.state == "complete"]
    ranked = sorted(done, key=lambda trial: -(trial.value or 0.0))
    winner = found or next(trial.placement for trial in ranked if len(trial.placement))
    top = [Placement(), winner, *[trial.placement for trial in ranked if trial.placement != winner][:2]]
    confirm = [maker.trial(n, "confirm", p, 100 + n % 2) for n, p in enumerate(p for p in top for _ in range(2))]
    arms: dict[Placement, list[str]] = {winner: ["found #1"]}
    for label, placement in priors:
        arms.setdefault(placement, []).append(label or "")
    retrain = [
        maker.trial(number, "retrain", placement, 200 + number % n_seeds, " = ".join(arms[placement]))
        for number, placement in enumerate(placement for placement in arms for _ in range(n_seeds))
    ]
    best = {"recommended": recommended, "placement": winner.to_dict() if recommended != "none" else {}}
    return RunRecord(
        folder, _config(table, n_trials, n_seeds), table, tuple(search), tuple(confirm), tuple(retrain), best
    )


def with_predictions(run: RunRecord, n_images: int = 1_000, n_classes: int = 10) -> RunRecord:
    """The same run with predictions: the harder an image, the more networks are wrong; the values are theirs."""
    generator = np.random.default_rng(7)
    targets, hard = np.arange(n_images, dtype=np.int32) % n_classes, generator.normal(size=n_images)
    rows, kept = [], {}
    for row in run.retrain:
        order = np.argsort(hard + generator.normal(size=n_images))
        wrong = order[round((row.value or 0.0) * n_images) :]
        scores = np.full((n_images, n_classes), 0.2 / n_classes)
        said = targets.copy()
        said[wrong] = (targets[wrong] + 1 + wrong % (n_classes - 1)) % n_classes
        scores[np.arange(n_images), said] += 0.8
        found = Predictions.of(scores, targets)
        kept[row.key, row.seed, row.epochs] = found
        rows.append(replace(row, value=float((found.predicted == targets).mean())))
    return replace(run, retrain=tuple(rows), predictions=kept)


def _mess_up(search: list[TrialRecord]) -> list[TrialRecord]:
    """Make every ninth trial pruned and one failed per cause, and add an answered and a running one."""
    done = []
    for trial in search:
        if trial.number > 5 and trial.number % 9 == 0:
            curve = {epoch: value for epoch, value in trial.curve.items() if epoch <= 8}
            trial = replace(trial, state="pruned", value=None, curve=curve)
        elif trial.number == 11:
            trial = failed(trial, "oom", "Out of memory: 3.2 GiB were asked for, 1.1 GiB were free.")
        elif trial.number == 13:
            trial = failed(trial, "nan", "The loss became NaN in epoch 3.")
        done.append(trial)
    answer = replace(done[1], number=len(done), answered_from=1, label=None, seconds=0.0, curve={})
    running = replace(done[-1], number=len(done) + 1, state="running", value=None, curve={1: 0.4})
    return [*done, answer, running]


def failed(
    trial: TrialRecord, cause: str = "error", reason: str = "RuntimeError: shapes <3, 4> & <4, 3>"
) -> TrialRecord:
    """The same trial, failed."""
    return replace(trial, state="fail", value=None, curve={}, cause=cause, reason=reason)


def _config(table: SiteTable, n_trials: int, n_seeds: int) -> dict[str, object]:
    return {
        "space": {
            "name": "densenet_attn",
            "title": "Attention in a small DenseNet",
            "backbone": {"name": table.backbone, "growth_rate": 8, "block_config": [4, 4, 4]},
            "limits": {"max_params": 120_000 if table.backbone == "densenet" else None},
        },
        "data": {
            "name": "digits",
            "facts": {
                "name": "digits",
                "num_classes": 10,
                "class_names": [str(digit) for digit in range(10)],
                "image_size": 8,
                "in_channels": 1,
                "n_train": 180,
                "n_val": 359,
                "n_test": 1258,
                "fingerprint": "9f3c1a" + "0" * 58,
            },
        },
        "recipe": {"epochs": 30, "batch_size": 32, "optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0005},
        "engine": {"seed": 0, "sampler": "tpe", "scheduler": "none"},
        "budget": {"trials": n_trials, "top": 3, "seeds": n_seeds},
        "versions": {"nas_attn": "0.1.0", "torch": "2.15.0", "optuna": "5.0.0", "ray": "2.60.0"},
        "command": "python run_search.py --space densenet_attn",
        "commit": "1a2b3c4d5e6f",
    }


def assert_finite(found: object) -> None:
    """Walk through records, and refuse any number that is not finite."""
    if is_dataclass(found):
        for field in fields(found):
            assert_finite(getattr(found, field.name))
    elif isinstance(found, dict):
        for value in found.values():
            assert_finite(value)
    elif isinstance(found, tuple | list):
        for value in found:
            assert_finite(value)
    elif isinstance(found, float):
        assert math.isfinite(found)
