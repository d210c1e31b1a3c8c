"""The output of `nas-attn predict` and `nas-attn export`: what is done with a trained network."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas_attn.backbones.build import load_function
from nas_attn.errors import ConfigError, FileError
from nas_attn.files import MOST_PIXELS
from nas_attn.model.build import AttentionModel
from nas_attn.model.description import ModelFile
from nas_attn.model.file import load_stored
from nas_attn.model.formats import FORMATS, check_packages, write_format
from nas_attn.model.preprocess import Preprocess
from nas_attn.model.stored import find_model
from nas_attn.report.csv_files import cell
from nas_attn.run.export import file_name
from nas_attn.run.predict import image_files, predict_files, require_meaning

Say = Callable[[str], Any]


def print_predictions(
    run: Path, images: Sequence[Path], *, arm: str | None, backbone: str | None, max_pixels: int | None, warn: Say
) -> int:
    """Print one line of CSV for each image; return the exit code, 1 if a file was no image.

    Args:
        run: A run folder, or a model's JSON file.
        backbone: Function `module:name` that returns the user's own network.
        max_pixels: Number of pixels above which an image is not read; None takes that of Pillow.
        warn: Prints a sentence: the network that was loaded, and each file that is no image.
    Raises: FileError if there is no such model, or its logits have no known meaning; DataError for an empty folder.
    """
    files = list(image_files(images))
    model, described = load_arm(run, arm, backbone)
    require_meaning(model)
    assert isinstance(model.preprocess, Preprocess), "a loaded model has it"
    model.preprocess = replace(model.preprocess, max_pixels=max_pixels or MOST_PIXELS)
    warn(f"Network: {model.about}")
    skipped: list[str] = []

    def skip(sentence: str) -> None:
        skipped.append(sentence)
        warn(sentence)

    writer = csv.writer(sys.stdout, lineterminator="\n")
    rows = predict_files(model, files, logits_of=described.logits_of, skip=skip)
    writer.writerow(["path", "predicted", "probability", *map(cell, described.class_names)])
    for row in rows:
        numbers = (f"{value:.6f}" for value in (row.probability, *row.probabilities))
        writer.writerow([cell(row.path), cell(row.predicted), *numbers])
    return 1 if skipped else 0


def print_exports(
    run: Path, formats: Sequence[str], *, arm: str | None, out: Path | None, backbone: str | None, say: Say
) -> None:
    """Write a network in other formats, check each file, and print its path with the greatest difference.

    Args:
        formats: Names in `FORMATS`.
        out: Folder of the files; None is `exported` in the run folder.
        say: Prints a line.
    Raises: ConfigError without a format; FileError if a package is missing, or a network cannot be written.
    """
    if not formats:
        raise ConfigError(f"At least one format is needed: add {', '.join(f'--{name}' for name in FORMATS)}.")
    for name in formats:
        check_packages(name)
    model, described = load_arm(run, arm, backbone)
    say(f"Network: {model.about}")
    folder = (run if run.is_dir() else run.parent) / "exported" if out is None else out
    stem = Path(file_name(described.arm or run.stem)).stem.replace("-", "_")
    for name in formats:
        written = write_format(name, model, described, folder / stem)
        files = " and ".join(map(str, written.paths))
        say(f"{files}: checked with batches of 1, 2 and 5 images, greatest difference {written.difference:.1e}")


def load_arm(run: Path, arm: str | None, backbone: str | None) -> tuple[AttentionModel, ModelFile]:
    """Return a model and its description. Raises: FileError as `load_model`, in terms of the command line."""
    stored = find_model(run, arm)
    named = stored.described.backbone
    own = named.get("own") or named.get("import")
    if own is not None and backbone is None:
        raise FileError(f"{run} has a network of your own ({own}): add --backbone MODULE:FUNCTION, which returns it.")
    if own is None and backbone is not None:
        raise FileError(f"{run} has the catalogue's backbone '{named['name']}': leave --backbone out.")
    make = None if backbone is None else load_function(backbone, "function of --backbone")
    return load_stored(stored, backbone=make), stored.described
