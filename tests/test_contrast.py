"""Sets, parts and classes whose images are all alike or nearly without contrast: refused, unless they are accepted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_cases import fill, shape
from PIL import Image

from nas_attn.config import DataConfig
from nas_attn.data.contrast import contrast
from nas_attn.data.dataset import DataFacts, describe
from nas_attn.errors import DataError

pytestmark = pytest.mark.usefixtures("cache_home")


def facts_of(root: Path, **options: Any) -> DataFacts:
    return describe(DataConfig(name=f"folder:{root}", image_size=16, **options))


def save(make: Callable[[np.ndarray, str, int], np.ndarray]) -> Callable[[Path, np.ndarray, int], None]:
    def write(path: Path, values: np.ndarray, number: int) -> None:
        Image.fromarray(make(values, path.parent.name, number).astype(np.uint8)).save(f"{path}.png")

    return write


def noise(number: int) -> np.ndarray:
    return 127 + np.random.default_rng(number).integers(-3, 4, (16, 16, 3))


ONE = shape(True) * 250
REFUSED = {
    "black": (save(lambda v, name, n: np.zeros((16, 16))), "the data set", "all 12 are nearly without contrast"),
    "grey with faint noise": (
        save(lambda v, name, n: noise(n)), "the data set", "all 12 are nearly without contrast, at most 6 of 255",
    ),
    "one picture": (save(lambda v, name, n: ONE), "the data set", "all 12 are the same picture, such as left/0"),
    "one class of one shade": (
        save(lambda v, name, n: np.full((16, 16), n) if name == "top" else v * 250), "'top'", "all 6 are nearly",
    ),
    "one class of one picture": (
        save(lambda v, name, n: ONE if name == "top" else v * 250), "'top'", "all 6 are the same picture",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learnt_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    write, whose, message = REFUSED[case]
    root = fill(tmp_path / "x", write)
    with pytest.raises(DataError, match=rf"^The images of {whose} must differ and have contrast, but {message}"):
        facts_of(root)
    facts = facts_of(root, allow_blank=True)
    assert any(note.startswith(f"Accepted by --allow-blank, of {whose}: {message}") for note in facts.notes)


def test_a_part_without_contrast_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "x" / "train", save(lambda v, name, n: v * 250))
    fill(tmp_path / "x" / "test", save(lambda v, name, n: np.full((16, 16), 40 * n)))
    with pytest.raises(DataError, match=r"^The images of the part test must .* such as test/left/0\.png"):
        facts_of(tmp_path / "x")


def test_the_sentence_names_what_changes_how_files_are_read(tmp_path: Path) -> None:
    def write(path: Path, values: np.ndarray, number: int) -> None:
        black, shown = Image.new("L", (16, 16)), Image.fromarray((values * 250).astype(np.uint8))
        black.save(f"{path}.gif", save_all=True, append_images=[shown])

    root = fill(tmp_path / "x", write)
    message = (
        r"\(values of 0:255: --pixel-range, the first frame of several: --frames all, on white: --background\), or "
        r"accept them by --allow-blank\.$"
    )
    with pytest.raises(DataError, match=message):
        facts_of(root)
    notes = facts_of(root, frames="all").notes
    assert any(note.startswith("Images nearly without contrast: 12, such as left/0.gif") for note in notes)


def test_a_drawn_shape_per_class_is_accepted_with_a_note(tmp_path: Path) -> None:
    facts = facts_of(fill(tmp_path / "x", save(lambda v, name, n: shape(name == "left") * 250)))
    assert facts.notes[-1] == "The images of each class are all the same picture."


def test_dark_images_with_a_few_bright_points_have_contrast(tmp_path: Path) -> None:
    def draw(values: np.ndarray, name: str, number: int) -> np.ndarray:
        pixels = np.full((16, 16), 3)
        pixels[number, 5 if name == "left" else 9] = 60
        return pixels

    assert facts_of(fill(tmp_path / "x", save(draw))).notes == ()


def test_contrast_is_that_of_the_channel_that_varies_most() -> None:
    pixels = np.zeros((3, 4, 5, 3), np.uint8)
    pixels[0] = (255, 0, 90)  # one colour
    pixels[1, 2, 3, 2] = 17
    assert contrast(pixels).tolist() == [0, 17, 0]
