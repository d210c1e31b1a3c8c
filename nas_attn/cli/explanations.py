"""The output of `nas-attn explain`: a figure of what found #1 looks at, beside the network without attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nas_attn.cli.networks import load_arm
from nas_attn.errors import ConfigError
from nas_attn.explain.drawing import alternative_text, draw, row_titles
from nas_attn.explain.explanation import explain
from nas_attn.explain.grad_cam import check_captum
from nas_attn.explain.samples import choose_samples
from nas_attn.model.build import AttentionModel
from nas_attn.records import BARE, FOUND
from nas_attn.report.chart import Chart, style
from nas_attn.run.folder import load_run
from nas_attn.run.predict import image_files

NAME = "maps"
"""Stem of the figure's files."""

MOST_IMAGES = 24
"""A figure of more rows is not readable."""


def print_explanation(
    run: Path, images: Sequence[Path], *, n_images: int, data_root: str, backbone: str | None, say: Callable[[str], Any]
) -> None:
    """Write figures/maps.{svg,png,pdf} of a run, and print which images, networks and files they are.

    Grad-CAM is that of the true class; where that is not known, of the class that found #1 predicts.

    Args:
        images: Image files or folders; empty takes test images of the run.
        n_images: Number of test images.
        data_root: Folder of torchvision's data sets.
        backbone: Function `module:name` that returns the user's own network.
        say: Prints a line.
    Raises: RunError if the folder is no run; FileError if it lacks one of both networks; DataError if an image cannot
        be read; ConfigError without the package captum, or for too many images.
    """
    check_captum()
    record = load_run(run)
    files = list(image_files(images))
    if len(files) > MOST_IMAGES:
        raise ConfigError(f"At most {MOST_IMAGES} images fit one figure, but got {len(files)}: name fewer.")
    found, plain = (load_arm(run, arm, backbone)[0] for arm in (FOUND, BARE))
    samples = None if files else choose_samples(record, n_images, root=data_root)
    inputs = _inputs(found, files if samples is None else samples.pixels)
    of_found = explain(found, inputs)
    if samples is not None:
        true = zip(samples.classes, of_found.predicted, strict=True)
        of_found = explain(found, inputs, classes=[second if first is None else first for first, second in true])
    of_none = explain(plain, inputs, classes=of_found.classes)
    networks = BARE, FOUND
    titles = row_titles(
        of_found,
        of_none,
        networks=networks,
        truths=() if samples is None else samples.truths,
        names=[file.name for file in files] if samples is None else samples.names,
    )
    with style():
        figure = draw(of_found, of_none, titles=titles, networks=networks)
    written = Chart(NAME, alternative_text(of_found, of_none), figure).write(run / "figures")
    for line in (*_networks(found, plain), *([] if samples is None else [samples.about]), *map(str, written)):
        say(line)


def _inputs(model: AttentionModel, images: Any) -> torch.Tensor:
    """Return images as the network takes them."""
    assert model.preprocess is not None, "a loaded model has it"
    return model.preprocess(images)


def _networks(*models: AttentionModel) -> list[str]:
    return [f"Network: {model.about}" for model in models]
