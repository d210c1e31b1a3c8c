"""Every form of an image becomes the input that the training would have seen, or is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas_attn.errors import DataError
from nas_attn.model.preprocess import Preprocess

GREY = Preprocess(8, (0.25,), (0.5,))
COLOUR = Preprocess(6, (0.2, 0.3, 0.4), (0.5, 0.6, 0.7))
FOUR_CHANNELS = Preprocess(6, (0.2,) * 4, (0.5,) * 4)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("preprocess", [GREY, COLOUR], ids=["grey network", "colour network"])
@pytest.mark.parametrize("shape", [(11, 7), (11, 7, 1), (11, 7, 3)])
def test_every_form_of_one_image_is_the_same_input(preprocess, shape, tmp_path):
    image = pixels(*shape)
    picture = Image.fromarray(image.squeeze())
    expected = preprocess(picture)
    assert expected.shape == (1, len(preprocess.mean), preprocess.image_size, preprocess.image_size)
    file = tmp_path / "image.png"
    picture.save(file)
    channels_first = torch.tensor(image if image.ndim == 2 else image.transpose(2, 0, 1))
    for form in (image, channels_first, [image], [picture], (channels_first,)):
        assert torch.equal(preprocess(form), expected)
    for path in (file, str(file), [file]):  # a file is resized before its channels change, as in training
        torch.testing.assert_close(preprocess(path), expected, atol=0.02, rtol=0)
    for floating in (image / 255, (image / 255).astype(np.float16), channels_first / 255):
        torch.testing.assert_close(preprocess(floating), expected, atol=0.04, rtol=0)


def test_a_batch_and_a_list_of_all_forms_and_sizes():
    images = pixels(4, 9, 9, 3)
    expected = torch.cat([COLOUR(image) for image in images])
    assert torch.equal(COLOUR(images), expected)
    assert torch.equal(COLOUR(torch.tensor(images).permute(0, 3, 1, 2)), expected)
    mixed = COLOUR([Image.fromarray(images[0]), pixels(20, 5), torch.tensor(pixels(1, 3, 3)), images])
    assert mixed.shape == (7, 3, 6, 6)
    assert torch.equal(mixed[3:], expected)


def test_pil_images_of_any_size_and_mode():
    images = [
        Image.new(mode, size, 0) for mode, size in (("RGBA", (9, 5)), ("L", (3, 4)), ("P", (8, 8)), ("1", (7, 7)))
    ]
    assert COLOUR(images).shape == (4, 3, 6, 6)
    wide = Image.fromarray(np.full((4, 4), 257 * 100, np.uint16))
    assert torch.equal(GREY(wide), GREY(Image.new("L", (4, 4), 100)))


def test_a_network_for_other_channels_takes_exactly_those():
    image = pixels(9, 9, 4)
    assert FOUR_CHANNELS(image).shape == (1, 4, 6, 6)
    torch.testing.assert_close(FOUR_CHANNELS(image), FOUR_CHANNELS(image / 255))
    with pytest.raises(DataError, match=r"with C = 4, but is \(9, 9, 3\)"):
        FOUR_CHANNELS(image[..., :3])


def test_rounding_at_the_ends_of_the_range_is_no_error():
    torch.testing.assert_close(GREY(torch.full((8, 8), 1.0 + 1e-6)), GREY(torch.ones(8, 8)))


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.full((1, 1, 8, 8), 255.0), r"must lie between 0 and 1, but these lie between 255 and 255: divide"),
        (np.full((8, 8), -0.1), r"between 0 and 1, but these lie between -0\.1 and -0\.1"),
        (torch.full((8, 8), float("nan")), r"must lie between 0 and 1, but these lie between nan and nan"),
        ([np.zeros((8, 8)), np.full((8, 8), 1.5)], r"lie between 1\.5 and 1\.5"),
        (torch.zeros(1, 2, 8, 8), r"\(N, C, H, W\) with C = 1 or 3, but is \(1, 2, 8, 8\)\."),
        (torch.zeros(8, 8, 3), r"put the channels first by tensor\.permute\(2, 0, 1\)"),
        (torch.zeros(2, 2, 1, 8, 8), r"but is \(2, 2, 1, 8, 8\)\."),
        (torch.zeros(0, 1, 8, 8), r"but is \(0, 1, 8, 8\)\."),
        (torch.zeros(1, 8, 8, dtype=torch.int64), r"uint8 \(0 to 255\) or floating \(0 to 1\), but are torch\.int64"),
        (np.zeros((3, 8, 8), np.uint8), r"put the channels last by array\.transpose\(1, 2, 0\), or pass a tensor"),
        (np.zeros((8, 8, 4), np.uint8), r"\(N, H, W, C\) with C = 1 or 3, but is \(8, 8, 4\)\."),
        (np.zeros((8, 8), np.int32), "uint8 .* or floating .* but are int32"),
        (7, "must be paths, PIL images, numpy arrays or tensors, but got int"),
        ([7], "but got int"),
        ([], "At least one image is needed, but the list of images is empty"),
        (Path("absent.png"), r"absent\.png cannot be read: No such file"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused_in_one_sentence(images, sentence):
    with pytest.raises(DataError, match=sentence):
        GREY(images)


def test_a_file_that_is_no_image_is_named(tmp_path):
    file = tmp_path / "notes.png"
    file.write_text("no image")
    with pytest.raises(DataError, match=r"notes\.png cannot be read: no image\."):
        COLOUR([file])
