"""The output of `nas-attn init`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nas_attn.run.init import write_space_file


def print_space_file(
    words: Sequence[str],
    *,
    image_size: int | None,
    num_classes: int,
    in_channels: int,
    out: Path | None,
    say: Callable[[str], Any],
) -> None:
    """Write a space file for a network, and say what is in it and what to do with it.

    Args:
        words: The network, then its options as KEY=VALUE.
        say: Prints a line.
    Raises: SpaceError or FileError as `write_space_file`.
    """
    path, made = write_space_file(
        words, image_size=image_size, num_classes=num_classes, in_channels=in_channels, out=out
    )
    table = made.table
    size = f"{table.image_size}x{table.image_size}"
    say(f"Network: {table.backbone}, {table.n_parameters:,} parameters, images of {size}.")
    say(f"Space: {made.in_words}.")
    say(f"{path}: edit it, then: nas-attn search --space {path} --data folder:PATH --dry-run")
