"""What is read from a file, from memory and by a trained network is the same picture, or is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas_attn.data.appearance import picture_of, reopener
from nas_attn.data.decode import ImageFile, decode_all, decode_image
from nas_attn.data.dicom import is_dicom
from nas_attn.data.entry import AS_USUAL
from nas_attn.data.named_files import NamedFiles
from nas_attn.data.pixel_range import EIGHT_BITS
from nas_attn.data.rendering import Rendering
from nas_attn.errors import DataError
from nas_attn.model.preprocess import Preprocess


def file_of(path: Path) -> ImageFile:
    status = path.stat()
    return ImageFile(path, "train", 0, status.st_size, status.st_mtime_ns)


def network(rendering: Rendering) -> Preprocess:
    return Preprocess(4, (0.0,), (1.0,), rendering)


def test_a_tiff_without_a_page_is_skipped_with_its_reason(tmp_path):
    empty, good = tmp_path / "a.tif", tmp_path / "b.png"
    empty.write_bytes(b"II*\0" + bytes(5000))
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(good)
    decoded = decode_all(tmp_path, [file_of(empty), file_of(good)], 8)
    assert list(decoded.kept) == [1]
    assert "it has no page" in decoded.skipped[0]
    with pytest.raises(DataError, match="it has no page"):
        decode_image(empty, 8)


def test_colours_of_16_bits_are_whole_whether_the_image_is_loaded_or_not(tmp_path):
    path = tmp_path / "deep.png"
    values = np.linspace(0, 4095, 8 * 8 * 3).astype(">u2").reshape(8, 8, 3)
    path.write_bytes(png_of_16_bits(values))
    fresh = picture_of(image := Image.open(path), AS_USUAL, reopener(image)).content.scaled((0, 4095), (255, 255, 255))
    loaded = Image.open(path)
    loaded.load()
    again = picture_of(loaded, AS_USUAL, reopener(loaded)).content.scaled((0, 4095), (255, 255, 255))
    assert fresh.max() == 255
    assert np.array_equal(fresh, again)


def png_of_16_bits(values: np.ndarray) -> bytes:
    """Return a PNG of colours with 16 bits a channel. Shape: (H, W, 3), big-endian."""

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_uint8_values_are_scaled_by_the_stated_range_in_every_form():
    process = network(Rendering((0, 63), (0, 63)))
    values = np.full((4, 4), 63, np.uint8)
    for form in (values, Image.fromarray(values), values.astype(np.uint16), torch.tensor(values)):
        assert float(process(form).max()) == pytest.approx(1.0)


def test_floating_values_of_the_training_images_range_are_scaled_in_every_form():
    process = network(Rendering((-1, 1)))
    for value, wanted in ((0.0, 0.5), (-0.5, 0.25), (1.0, 1.0)):
        values = np.full((4, 4), value, np.float32)
        for form in (values, Image.fromarray(values), torch.tensor(values)):
            assert float(process(form).mean()) == pytest.approx(wanted, abs=0.003)
    with pytest.raises(DataError, match="must have values like the training images"):
        process(np.full((4, 4), 90.0, np.float32))


def test_fractions_stay_fractions_where_the_training_images_had_whole_numbers():
    values = np.full((4, 4), 0.5, np.float32)
    for rendering in (Rendering(), Rendering(EIGHT_BITS), Rendering((0, 4095))):
        assert float(network(rendering)(values).mean()) == pytest.approx(0.5)


def test_a_floating_image_is_not_black_to_a_network_of_8_bits(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(path)
    with pytest.raises(DataError, match="floating values of 0:1, but the training images have 0:255: multiply by 255"):
        network(Rendering(EIGHT_BITS))(path)


def test_a_cell_too_long_for_a_name_names_no_file(tmp_path):
    assert not NamedFiles(tmp_path).is_file("a long caption " * 40)


def test_a_dicom_is_known_by_its_first_bytes_under_any_suffix_but_that_of_an_image(tmp_path):
    for name, wanted in (("a.ima", True), ("a", True), ("a.17", True), ("a.dcm", True), ("a.png", False)):
        path = tmp_path / name
        path.write_bytes(bytes(128) + b"DICM" + bytes(100))
        assert is_dicom(path, path) is wanted


@pytest.mark.parametrize("suffix", ["webp", "jpg", "png"])
def test_the_reason_of_a_cut_file_is_that_it_is_cut(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="truncated"):
        decode_image(path, 8)
