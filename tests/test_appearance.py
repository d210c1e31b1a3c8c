"""How an image looks: upright, without transparency, and which of its frames are read; new images look the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_cases import fill, png16, shape
from PIL import Image, ImageCms

from nas_attn.config import DataConfig
from nas_attn.data.appearance import Deep, picture_of, read_colour
from nas_attn.data.dataset import Data, load_data
from nas_attn.data.deep import NotUnderstood
from nas_attn.data.entry import Reading
from nas_attn.errors import DataError
from nas_attn.model.preprocess import Preprocess

UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
"""How a camera stores an upright image under each of EXIF's orientations."""


pytestmark = pytest.mark.usefixtures("cache_home")


def loaded(root: Path, **options: Any) -> Data:
    return load_data(DataConfig(name=f"folder:{root}", image_size=16, **options))


def pixels_of(path: Path, channels: int = 3) -> torch.Tensor:
    """The pixels of a file as a new image, (C, 16, 16) from 0 to 255."""
    return (Preprocess(16, (0.0,) * channels, (1.0,) * channels)(path)[0] * 255).round()


def colours(values: np.ndarray, top: int = 255) -> np.ndarray:
    return np.stack([values, values / 2, values / 4], -1) * top


# --- orientation


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_image_is_turned_as_its_file_says(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.zeros((12, 18, 3), np.uint8)
    upright[:4, :6] = 250
    stored = np.ascontiguousarray(UPRIGHT[orientation](upright))
    Image.fromarray(stored).save(tmp_path / f"x.{suffix}", exif=exif, quality=95)
    found = pixels_of(tmp_path / f"x.{suffix}")
    assert found[:, :3, :3].min() > 200
    assert found[:, 9:].max() < 50
    assert found[:, :, 9:].max() < 50


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_image_of_16_bits_is_turned_too(orientation: int) -> None:
    upright = np.zeros((12, 18), np.uint16)
    upright[:4, :6] = 60000
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(UPRIGHT[orientation](upright)))
    image.info["exif"] = exif.tobytes()
    content = picture_of(image, Reading()).content
    assert isinstance(content, Deep)
    assert np.array_equal(content.values[..., 0], upright)


def test_the_plan_counts_what_was_turned(tmp_path: Path) -> None:
    def write(path: Path, values: np.ndarray, number: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6 if number % 2 else 1
        stored = np.rot90(colours(values)) if number % 2 else colours(values)
        Image.fromarray(np.ascontiguousarray(stored.astype(np.uint8))).save(f"{path}.jpg", exif=exif)

    data = loaded(fill(tmp_path / "x", write))
    assert data.facts.notes == ("Images that their files store on their side or mirrored, turned upright (EXIF): 6.",)
    of_left = data.train.pixels[data.train.targets == 0].float()
    assert of_left[:, 0, :, :7].mean((1, 2)).min() > 150
    assert of_left[:, 0, :, 9:].mean((1, 2)).max() < 60


# --- transparency


def transparent(kind: str) -> Image.Image:
    """An image whose left half is opaque and dark, with rubbish under its transparent right half."""
    alpha = np.zeros((16, 16), np.uint8)
    alpha[:, :8] = 255
    dark, junk = np.full((16, 16), 20, np.uint8), np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    grey = np.where(alpha > 0, dark, junk)
    if kind == "LA":
        return Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    if kind == "P":
        image = Image.fromarray((alpha == 0).astype(np.uint8)).convert("P")
        image.putpalette([20, 20, 20, 99, 5, 200])
        image.info["transparency"] = 1
        return image
    if kind == "P with levels":
        image = Image.fromarray((alpha == 0).astype(np.uint8)).convert("P")
        image.putpalette([20, 20, 20, 99, 5, 200])
        image.info["transparency"] = bytes([255, 0])
        return image
    whole = Image.merge("RGBA", [*[Image.fromarray(grey)] * 3, Image.fromarray(alpha)])
    if kind == "PA":
        image = Image.frombytes("PA", (16, 16), np.stack([np.zeros_like(alpha), alpha], -1).tobytes())
        image.putpalette([20, 20, 20])
        return image
    if kind == "RGB":
        image = Image.fromarray(np.where(alpha[..., None] > 0, dark[..., None], (9, 8, 7)).astype(np.uint8))
        image.info["transparency"] = (9, 8, 7)
        return image
    return whole


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "P with levels", "PA", "RGB"])
@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (200, 100, 50)])
def test_what_is_transparent_is_shown_on_the_background(kind: str, background: tuple[int, int, int]) -> None:
    picture = picture_of(transparent(kind), Reading(background=background))
    assert picture.transparent
    found = np.asarray(picture.content.convert("RGB"))
    assert (found[:, :8] == 20).all()
    assert (found[:, 8:] == background).all()
    grey = kind == "LA" and len(set(background)) == 1
    assert picture.content.mode == ("L" if grey else "RGB")


def test_an_opaque_alpha_channel_is_no_transparency() -> None:
    image = Image.new("RGBA", (4, 4), (1, 2, 3, 255))
    picture = picture_of(image, Reading())
    assert not picture.transparent
    assert np.asarray(picture.content).tolist() == [[[1, 2, 3]] * 4] * 4


@pytest.mark.parametrize("channels", [2, 4])
def test_transparency_of_16_bits_is_shown_on_the_background(tmp_path: Path, channels: int) -> None:
    values = np.full((16, 16, channels), 6000)
    values[:, :8, -1], values[:, 8:, -1] = 65535, 0
    values[:, 8:, 0] = 65000  # it does not count for the range
    (tmp_path / "x.png").write_bytes(png16(values))
    picture = next(iter(read(tmp_path / "x.png")))
    assert picture.content.bounds.high == 6000
    found = picture.content.scaled((0, 6000), (10, 10, 10))
    assert (found[:, :8] == 255).all()
    assert (found[:, 8:] == 10).all()


def read(path: Path, **options: Any) -> Any:
    from nas_attn.data.readers import read_pictures

    return read_pictures(lambda: path, path, Reading(**options))[0]


def test_a_shape_that_only_the_alpha_channel_has_is_seen_and_the_background_is_stated(tmp_path: Path) -> None:
    def write(path: Path, values: np.ndarray, number: int) -> None:
        pixels = np.zeros((16, 16, 4), np.uint8)
        pixels[..., 3] = values * 255
        Image.fromarray(pixels).save(f"{path}.png")

    root = fill(tmp_path / "x", write)
    data = loaded(root)
    assert data.facts.notes == ("Images with transparency, shown on white (--background): 12.",)
    left = data.train.pixels[data.train.targets == 0].float()
    assert left[..., :8].mean() < 60
    assert left[..., 8:].mean() > 200
    with pytest.raises(DataError, match=r"all 12 are nearly without contrast.* on black: --background"):
        loaded(root, background="black")
    assert loaded(root, background="#ff0000").facts.rendering.background == (255, 0, 0)


@pytest.mark.parametrize("text", ["", "red", "#12345", "#1234567", "#gggggg", "123456", "# 12345"])
def test_a_colour_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="'--background' must be white, black or #rrggbb"):
        read_colour(text)


# --- colours


def test_cmyk_ycbcr_hsv_and_lab_are_their_colours() -> None:
    plain = Image.fromarray(np.full((4, 4, 3), (200, 60, 30), np.uint8))
    lab = ImageCms.profileToProfile(
        plain, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    for image in (plain.convert("CMYK"), plain.convert("YCbCr"), plain.convert("HSV"), lab):
        found = np.asarray(picture_of(image, Reading()).content).astype(int)
        assert np.abs(found - (200, 60, 30)).max() <= 3, image.mode


def test_an_unknown_mode_is_refused_with_its_name() -> None:
    class Strange:
        mode, format, tile = "XYZ;9", None, ()
        has_transparency_data = False

        def load(self) -> None: ...

        def getexif(self) -> dict[int, int]:
            return {}

    with pytest.raises(NotUnderstood, match="is an image of mode XYZ;9, whose values have no known meaning"):
        picture_of(Strange(), Reading())  # type: ignore[arg-type]


# --- frames


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_the_first_frame_is_announced_or_all_are_read(tmp_path: Path, suffix: str) -> None:
    def write(path: Path, values: np.ndarray, number: int) -> None:
        frames = [
            Image.fromarray(colours(shape("left" in str(path), 10 * number + k)).astype(np.uint8)) for k in range(3)
        ]
        frames[0].save(f"{path}.{suffix}", save_all=True, append_images=frames[1:])

    root = fill(tmp_path / "x", write)
    first, every = loaded(root).facts, loaded(root, frames="all").facts
    assert (sum(first.class_counts), sum(every.class_counts)) == (12, 36)
    assert first.notes == (
        "Files of which the first of several frames or pages is read: 12, with 36 in all; --frames all reads each.",
    )
    assert every.notes == ("Files with several frames or pages, read as 36 images (--frames all): 12.",)
    assert all(count % 3 == 0 for count in (every.n_train, every.n_val, every.n_test))


def test_the_frames_of_a_file_stay_in_one_part(tmp_path: Path) -> None:
    """Each file has a grey level of its own, from which its frames differ a little."""

    def write(path: Path, values: np.ndarray, number: int) -> None:
        level = 10 * number + 100 * ("left" in str(path))
        frames = [Image.fromarray((values * 60 + level + k).astype(np.uint8)) for k in range(3)]
        frames[0].save(f"{path}.tif", save_all=True, append_images=frames[1:])

    data = loaded(fill(tmp_path / "x", write, n=9), frames="all")
    assert len(data.train) + len(data.val) + len(data.test) == 54
    for part in (data.train, data.val, data.test):
        levels = part.pixels.float().mean((1, 2, 3)).sort().values.reshape(-1, 3)
        assert (levels[:, 2] - levels[:, 0]).max() < 3, "the three frames of a file are within two levels"


def test_pages_that_are_reduced_copies_are_no_frames(tmp_path: Path) -> None:
    def write(path: Path, values: np.ndarray, number: int) -> None:
        page = Image.fromarray((values * 250).astype(np.uint8))
        small = page.resize((8, 8))
        small.encoderinfo = {"tiffinfo": {254: 1}}
        page.save(f"{path}.tif", save_all=True, append_images=[small])

    facts = loaded(fill(tmp_path / "x", write), frames="all").facts
    assert sum(facts.class_counts) == 12
    assert facts.notes == ()
