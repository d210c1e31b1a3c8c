"""The range of pixels: found once for a set, stated in the plan, never guessed per image; the same for new images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_cases import fill, png16, shape, tiff
from PIL import Image

from nas_attn.config import DataConfig
from nas_attn.data.dataset import Data, load_data
from nas_attn.data.entry import Reading
from nas_attn.data.memory import read_memory
from nas_attn.data.pixel_range import Bounds, find_range, read_range
from nas_attn.errors import DataError
from nas_attn.model.preprocess import Preprocess

pytestmark = pytest.mark.usefixtures("cache_home")


def loaded(root: Path, **options: Any) -> Data:
    return load_data(DataConfig(name=f"folder:{root}", image_size=16, **options))


def in_order(data: Data) -> torch.Tensor:
    """All pixels, sorted by their content, so that sets of equal images are equal."""
    rows = torch.cat([part.pixels for part in (data.train, data.val, data.test)]).flatten(1)
    return torch.from_numpy(np.unique(rows.numpy(), axis=0))


def expected(scale: float, low: float = 0, high: float = 0) -> torch.Tensor:
    """The pixels of the shapes whose values are `scale` times as large, from `low` to `high`."""
    values = [np.rint((shape(left, n) * scale - low) / (high - low) * 255) for left in (True, False) for n in range(6)]
    return torch.from_numpy(np.unique(np.stack(values).reshape(12, -1).clip(0, 255).astype(np.uint8), axis=0))


def grey_png(path: Path, values: np.ndarray) -> None:
    Image.fromarray(values.astype(np.uint16)).save(f"{path}.png")


WHOLE = {
    "8 bits in 16": (230, 255),
    "10 bits in 16": (1000, 1023),
    "12 bits in 16": (4000, 4095),
    "14 bits in 16": (16000, 16383),
    "16 bits": (65000, 65535),
}


@pytest.mark.parametrize("case", WHOLE)
def test_whole_numbers_have_the_fewest_usual_bits_that_contain_all(tmp_path: Path, case: str) -> None:
    scale, top = WHOLE[case]
    data = loaded(fill(tmp_path / "x", lambda path, values, _: grey_png(path, values * scale)))
    off = (in_order(data).int() - expected(scale, 0, top).int()).abs()
    assert off.max() <= 1 + 255 // top
    assert data.facts.rendering.deep_range == (0, top)
    (note,) = data.facts.notes
    assert note.startswith(f"Pixel range: 0:{top} for the 12 images of more than 8 bits a channel (")
    assert note.endswith("; --pixel-range changes it.")


FLOATS = {
    "0 to 1": (lambda v: v, (0, 1)),
    "-1 to 1": (lambda v: 2 * v - 1, (-1, 1)),
    "0 to 255": (lambda v: 250 * v, (0, 255)),
}


@pytest.mark.parametrize("case", FLOATS)
@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
def test_floating_values_of_a_usual_range_have_that_range(tmp_path: Path, case: str, kind: str) -> None:
    change, ends = FLOATS[case]
    root = fill(
        tmp_path / "x", lambda path, values, _: Path(f"{path}.tif").write_bytes(tiff(change(values).astype(kind)))
    )
    data = loaded(root)
    assert data.facts.rendering.deep_range == ends
    assert 0.4 < data.facts.mean[0] < 0.6
    assert data.facts.std[0] > 0.3


def test_other_floating_values_have_the_range_of_the_training_images(tmp_path: Path) -> None:
    for part, scale in (("train", 3000.0), ("val", 3100.0), ("test", 4000.0)):
        fill(
            tmp_path / "x" / part,
            lambda path, values, _, scale=scale: Path(f"{path}.tif").write_bytes(tiff((values * scale).astype("f4"))),
        )
    data = loaded(tmp_path / "x")
    train = np.stack([shape(left, n) for left in (True, False) for n in range(6)]).astype("f4") * 3000
    assert data.facts.rendering.deep_range == pytest.approx((train.min(), train.max()))
    range_note, cut_note = data.facts.notes[:2]
    assert "36 images of floating values (the smallest and the largest value in the training images)" in range_note
    assert cut_note.startswith("Images with values outside of ")
    assert int(cut_note.rstrip(".").rpartition(" ")[2]) >= 12, "all of test are brighter"


ODD = {
    "colours of 16 bits, PNG": (lambda v: png16(np.stack([v, v / 2, v / 4], -1) * 4000), "png", (0, 4095)),
    "colours of 16 bits, TIFF": (
        lambda v: tiff((np.stack([v, v / 2, v / 4], -1) * 4000).astype("u2")), "tif", (0, 4095),
    ),
    "colours of 16 bits, TIFF in planes": (
        lambda v: tiff((np.stack([v, v / 2, v / 4], -1) * 4000).astype("u2"), separate=True), "tif", (0, 4095),
    ),
    "colours of 16 bits, big-endian": (
        lambda v: tiff((np.stack([v, v / 2, v / 4], -1) * 4000).astype("u2"), order=">"), "tif", (0, 4095),
    ),
    "floating colours": (lambda v: tiff(np.stack([v, v / 2, v / 4], -1).astype("f4")), "tif", (0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_colours_of_more_than_8_bits_keep_all_of_them(tmp_path: Path, case: str) -> None:
    write, suffix, ends = ODD[case]
    root = fill(tmp_path / "x", lambda path, values, _: Path(f"{path}.{suffix}").write_bytes(write(values)))
    data = loaded(root)
    assert (data.facts.in_channels, data.facts.rendering.deep_range) == (3, ends)
    red, green, blue = data.facts.mean
    assert red == pytest.approx(2 * green, abs=0.01)
    assert green == pytest.approx(2 * blue, abs=0.01)
    assert 0.4 < red < 0.6


def test_big_endian_grey_is_read_like_little_endian(tmp_path: Path) -> None:
    one, other = (
        loaded(
            fill(
                tmp_path / name,
                lambda path, values, _, order=order: Path(f"{path}.tif").write_bytes(
                    tiff((values * 4000).astype("u2"), order=order)
                ),
            )
        )
        for name, order in (("little", "<"), ("big", ">"))
    )
    assert one.facts.fingerprint == other.facts.fingerprint


def test_where_white_is_zero_bright_is_low(tmp_path: Path) -> None:
    def write(path: Path, values: np.ndarray, number: int) -> None:
        dark = number % 2
        stored = ((1 - values if dark else values) * 4095).clip(0, 4095).astype("u2")
        Path(f"{path}.tif").write_bytes(tiff(stored, photometric=1 - dark))

    data = loaded(fill(tmp_path / "x", write))
    of_class = [data.train.pixels[data.train.targets == label].float() for label in (0, 1)]
    assert of_class[0][..., 8:, :8].amin(0).mean() > 190, "the left half is bright in every image"
    assert of_class[1][..., :8, 8:].amin(0).mean() > 190, "the upper half is bright in every image"


def test_images_of_8_bits_beside_others_keep_their_own_range_and_it_is_said(tmp_path: Path) -> None:
    def write(path: Path, values: np.ndarray, number: int) -> None:
        stored = (values * 250).astype(np.uint8) if number % 2 else (values * 4000).astype(np.uint16)
        Image.fromarray(stored).save(f"{path}.png")

    root = fill(tmp_path / "x", write)
    (note,) = loaded(root).facts.notes
    assert "0:4095 for the 6 images of more than 8 bits" in note
    assert "and 0:255 for the 6 of 8 bits beside them" in note
    means = loaded(root).train.pixels.float().mean((1, 2, 3))
    assert means.max() - means.min() < 10
    stated = loaded(root, pixel_range="0:4095").facts
    assert stated.notes == (
        "Pixel range: 0:4095 for all images, 6 of 8 bits and 6 of more or of floating values, as stated by "
        "--pixel-range.",
    )


def test_whole_numbers_beside_floating_values_are_refused(tmp_path: Path) -> None:
    def write(path: Path, values: np.ndarray, number: int) -> None:
        stored = values.astype("f4") if number % 2 else (values * 4000).astype("u2")
        Path(f"{path}.tif").write_bytes(tiff(stored))

    with pytest.raises(DataError, match=r"left/0\.tif has whole numbers and left/1\.tif floating values: convert"):
        loaded(fill(tmp_path / "x", write))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.where(shape(True) > 0.5, np.nan, 1).astype("f4"), r"nan\.tif has values of mode F that are no finite"),
        (np.where(shape(True) > 0.5, np.inf, 1).astype("f4"), r"nan\.tif has values of mode F that are no finite"),
        (shape(True).astype("c8"), r"nan\.tif is a TIFF of complex values with 64 bits a pixel"),
    ],
)  # fmt: skip
def test_values_without_a_meaning_are_refused_with_file_and_mode(
    tmp_path: Path, values: np.ndarray, message: str
) -> None:
    root = fill(tmp_path / "x", lambda path, values, _: Path(f"{path}.tif").write_bytes(tiff(values.astype("f4"))))
    (root / "top" / "nan.tif").write_bytes(tiff(values))
    with pytest.raises(DataError, match=message):
        loaded(root)
    with pytest.raises(DataError, match=message):
        Preprocess(16, (0.5,), (0.5,))(root / "top" / "nan.tif")


def of_12_bits(colours: Image.Image) -> bytes:
    """A JPEG 2000 file whose header states 12 bits a channel."""
    stored = io.BytesIO()
    colours.save(stored, "JPEG2000")
    content = bytearray(stored.getvalue())
    start = content.find(b"\xff\x4f\xff\x51")
    content[start + 42 : start + 51 : 3] = bytes([11]) * 3
    return bytes(content)


def of_16_bits(colours: Image.Image) -> bytes:
    """An SGI file of 16 bits a channel."""
    stored = io.BytesIO()
    colours.save(stored, "SGI", bpc=2)
    return stored.getvalue()


CUT = {
    "PPM": lambda colours: b"P6\n16 16\n65535\n" + (np.asarray(colours).astype(">u2") * 257).tobytes(),
    "JPEG2000": of_12_bits,
    "SGI": of_16_bits,
}


@pytest.mark.parametrize("kind", CUT)
def test_a_colour_format_of_which_pillow_keeps_8_bits_is_refused(tmp_path: Path, kind: str) -> None:
    colours = Image.fromarray((np.stack([shape(True)] * 3, -1) * 250).astype(np.uint8))
    file = tmp_path / "x.img"
    file.write_bytes(CUT[kind](colours))
    with pytest.raises(
        DataError, match=rf"x\.img has more than 8 bits a channel \({kind}, mode RGB\), of which Pillow"
    ):
        Preprocess(16, (0.5,) * 3, (0.5,) * 3)(file)


def test_the_stated_range_is_that_of_every_image(tmp_path: Path) -> None:
    root = fill(tmp_path / "x", lambda path, values, _: grey_png(path, values * 4000))
    data = loaded(root, pixel_range="0:8000")
    assert (in_order(data).int() - expected(4000, 0, 8000).int()).abs().max() <= 1
    assert data.facts.notes == ("Pixel range: 0:8000 for all images, as stated by --pixel-range.",)
    digits = load_data(DataConfig(pixel_range="0:510")).facts
    assert digits.mean[0] == pytest.approx(load_data(DataConfig()).facts.mean[0] / 2, abs=0.01)
    assert digits.rendering.range == (0, 510)


@pytest.mark.parametrize("text", ["0", "0:", "a:b", "5:1", "1:1", "0:inf", "nan:1", "0:1:2"])
def test_a_range_that_does_not_ascend_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=rf"'--pixel-range' must be two numbers that ascend, .* but got '{text}'"):
        read_range(text)


@pytest.mark.parametrize(
    ("train", "others", "ends"),
    [
        ([(0, 900, True)], [(0, 3000, True)], (0, 4095)),
        ([(29000, 31000, True)], [(0, 40000, True)], (29000, 31000)),
        ([(-1000, 3000, True)], [], (-1000, 3000)),
        ([(0, 100_000, True)], [], (0, 100_000)),
        ([(0.0, 0.3, False)], [], (0.0, 0.3)),
        ([(0.0, 0.9, False)], [(0.0, 1.5, False)], (0.0, 0.9)),
        ([(7, 7, True)], [], (0, 255)),
        ([(5.0, 5.0, False)], [], (0, 255)),
        ([(-7.0, -7.0, False)], [], (-7.0, -6.0)),
    ],
)  # fmt: skip
def test_the_range_of_a_set(train: list, others: list, ends: tuple[float, float]) -> None:
    found = find_range([Bounds(*one) for one in train], [Bounds(*one) for one in others], where="train")
    assert found.pair == ends


# --- new images are read like those of the training


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_new_image_is_scaled_like_the_training_images(tmp_path: Path, suffix: str) -> None:
    def write(path: Path, values: np.ndarray, number: int) -> None:
        stored = (values * 4000).astype("u2")
        Path(f"{path}.{suffix}").write_bytes(png16(stored[..., None]) if suffix == "png" else tiff(stored))

    root = fill(tmp_path / "x", write)
    data = loaded(root)
    preprocess = Preprocess(16, (0.0,), (1.0,), data.facts.rendering)
    file = root / "left" / f"0.{suffix}"
    found = (preprocess(file) * 255).round().to(torch.uint8).reshape(1, -1)
    assert any(torch.equal(found[0], row) for row in in_order(data))
    with Image.open(file) as image:
        assert torch.equal(preprocess(image), preprocess(file))
    with Image.open(file) as image:
        assert torch.equal(preprocess(np.asarray(image)), preprocess(file))


def test_a_pil_image_of_16_bits_a_channel_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png16(np.stack([shape(True)] * 3, -1) * 4000))
    preprocess = Preprocess(16, (0.0,) * 3, (1.0,) * 3, rendering_of(0, 4095))
    with Image.open(tmp_path / "x.png") as image:
        assert torch.equal(preprocess(image), preprocess(tmp_path / "x.png"))
    assert preprocess(tmp_path / "x.png").std() > 0.3


def rendering_of(low: float, high: float) -> Any:
    from nas_attn.data.rendering import Rendering

    return Rendering((low, high))


def test_a_new_image_far_outside_of_the_range_is_refused(tmp_path: Path) -> None:
    grey_png(tmp_path / "x", shape(True) * 60000)
    preprocess = Preprocess(16, (0.0,), (1.0,), rendering_of(0, 255))
    with pytest.raises(DataError, match=r"x\.png must have values like the training images, 0:255, but has values of"):
        preprocess(tmp_path / "x.png")
    grey_png(tmp_path / "y", shape(True) * 255)
    assert preprocess(tmp_path / "y.png").max() > 0.9, "values of 8 bits in a file of 16 are understood"


def test_without_a_known_range_16_bits_are_read_as_before_and_floating_values_are_refused(tmp_path: Path) -> None:
    preprocess = Preprocess(16, (0.0,), (1.0,))
    grey_png(tmp_path / "x", np.full((16, 16), 257 * 100))
    assert preprocess(tmp_path / "x.png").mul(255).round().unique().tolist() == [100]
    (tmp_path / "y.tif").write_bytes(tiff(shape(True).astype("f4") * 7))
    with pytest.raises(DataError, match=r"y\.tif has values of .* that are not of 8 or 16 bits"):
        preprocess(tmp_path / "y.tif")


# --- arrays and images in memory


@pytest.mark.parametrize(
    ("scale", "kind", "ends"),
    [(4000, "u2", (0, 4095)), (1, "f4", (0, 1)), (250, "u1", (0, 255)), (1000, "i4", (0, 1023))],
)
def test_an_npz_of_other_types_has_one_range(tmp_path: Path, scale: float, kind: str, ends: tuple[int, int]) -> None:
    images = np.stack([shape(number % 2 == 0, number) for number in range(40)])
    np.savez(tmp_path / "x.npz", train_images=(images * scale).clip(0).astype(kind), train_labels=np.arange(40) % 2)
    facts = load_data(DataConfig(name=f"npz:{tmp_path / 'x.npz'}")).facts
    assert facts.rendering.deep_range == ends
    assert 0.4 < facts.mean[0] < 0.6
    assert len(facts.notes) == (kind != "u1")


def test_pil_images_in_memory_have_one_range() -> None:
    images = [Image.fromarray((shape(n % 2 == 0, n) * 4000).clip(0).astype(np.uint16)) for n in range(8)]
    dataset = read_memory([(image, n % 2) for n, image in enumerate(images)], None)
    assert dataset.pixel_range == (0, 4095)
    assert dataset.parts["train"].pixels.shape == (8, 16, 16, 1)
    assert dataset.parts["train"].pixels.max() > 200
    assert dataset.notes[0].startswith("Pixel range of the images of more than 8 bits: 0:4095, 12 bits")


def test_a_stated_range_is_that_of_tensors_and_pil_images_in_memory() -> None:
    values = [shape(n % 2 == 0, n) * 4000 for n in range(8)]
    reading = Reading(pixel_range=(0, 8000))
    tensors = [(torch.from_numpy(one.astype("f4")), n % 2) for n, one in enumerate(values)]
    images = [(Image.fromarray(one.clip(0).astype(np.uint16)), n % 2) for n, one in enumerate(values)]
    of_tensors, of_images = (read_memory(pairs, None, reading) for pairs in (tensors, images))
    off = of_tensors.parts["train"].pixels.astype(int) - of_images.parts["train"].pixels
    assert np.abs(off).max() <= 1
    assert 100 < of_tensors.parts["train"].pixels.max() < 140
    assert of_images.notes == ("Pixel range: 0:8000 for all images, as stated by pixel_range.",)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_images_outside_of_the_stated_range_are_counted_in_every_form(tmp_path: Path, kind: str) -> None:
    images = [np.full((8, 8), value, kind) for value in (20, 60, 90, 250)]
    images = [np.where(np.arange(8) < 4, image, image - 20).astype(kind) for image in images]
    reading, note = Reading(pixel_range=(10, 100)), "Images with values outside of 10:100, which are cut off: 2."
    arrays = [(image, number % 2) for number, image in enumerate(images)]
    pictures = [(Image.fromarray(image), number % 2) for number, image in enumerate(images)]
    assert note in read_memory(arrays, None, reading).notes
    assert note in read_memory(pictures, None, reading).notes
    np.savez(tmp_path / "x.npz", train_images=np.stack(images * 10), train_labels=np.arange(40) % 2)
    facts = load_data(DataConfig(name=f"npz:{tmp_path / 'x.npz'}", pixel_range="10:100", allow_blank=True)).facts
    assert note.replace("2.", "20.") in facts.notes
    root = fill(tmp_path / "f", lambda path, _, n: Image.fromarray(images[n % 4]).save(f"{path}.png"))
    notes = loaded(root, pixel_range="10:100", allow_blank=True).facts.notes
    assert any(one.startswith("Images with values outside of 10:100, which are cut off: ") for one in notes)


def test_nan_in_memory_is_refused_also_under_a_stated_range() -> None:
    pairs = [(torch.full((1, 4, 4), float("nan")), 0)]
    with pytest.raises(DataError, match="must be of finite numbers"):
        read_memory(pairs, None, Reading(pixel_range=(0, 1)))
    with pytest.raises(DataError, match="float from 0 to 1, but is float32 from nan to nan"):
        read_memory(pairs, None)
