"""Files that are skipped say why; HEIC and DICOM are read by their packages, or name them."""

from __future__ import annotations

import builtins
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_cases import fill, shape
from PIL import Image

from nas_attn.config import DataConfig
from nas_attn.data.dataset import Data, load_data
from nas_attn.errors import DataError
from nas_attn.model.preprocess import Preprocess
from nas_attn.run.predict import image_files

pytestmark = pytest.mark.usefixtures("cache_home")


def loaded(root: Path, **options: Any) -> Data:
    return load_data(DataConfig(name=f"folder:{root}", image_size=16, **options))


def photo(suffix: str = "PNG", size: int = 16) -> bytes:
    stored = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(stored, suffix)
    return stored.getvalue()


def save_png(path: Path, values: np.ndarray, number: int) -> None:
    Image.fromarray((values * 250).astype(np.uint8)).save(f"{path}.png")


BAD = {
    "empty": (b"", "empty, 0 bytes"),
    "a cut PNG": (photo()[:400], "truncated"),
    "a cut JPEG": (photo("JPEG", 48)[:900], "truncated"),
    "a cut BMP": (photo("BMP")[:300], "truncated"),
    "text": (b"just words", "no image"),
    "a page": (b"\n<!DOCTYPE html><html></html>", "a page of HTML"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS: `git lfs pull`"),
    "an archive": (b"PK\x03\x04rest", "a ZIP archive or an .npz file"),
    "an array": (b"\x93NUMPY\x01\x00", "a numpy array"),
    "JPEG XL": (b"\xff\x0a\x00\x00", "JPEG XL"),
    "NIfTI": (b"\0" * 344 + b"n+1\0", "NIfTI"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG, a drawing without pixels"),
    "too large": (photo(size=60), r"3,600 pixels, more than the limit of 3,000: --max-pixels 3600 reads it"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_skipped_file_says_why(tmp_path: Path, case: str) -> None:
    content, reason = BAD[case]
    root = fill(tmp_path / "x", save_png)
    (root / "top" / "bad.jpg").write_bytes(content)
    data = loaded(root, max_pixels=3000)
    (note,) = data.facts.notes
    assert note.startswith(f"1 of 13 files are no images and were skipped: top/bad.jpg ({reason}")
    with pytest.raises(DataError, match=r"bad\.jpg cannot be read: "):
        Preprocess(16, (0.5,), (0.5,), max_pixels=3000)(root / "top" / "bad.jpg")


def test_the_limit_of_pixels_is_an_option_and_pillow_keeps_its_own(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    root = fill(tmp_path / "x", save_png)
    with pytest.raises(
        DataError, match=r"12 of 12 are none: .* \(256 pixels, .*: --max-pixels 256 reads it\) and 7 more"
    ):
        loaded(root, max_pixels=255)
    assert sum(loaded(root, max_pixels=256).facts.class_counts) == 12
    assert before == Image.MAX_IMAGE_PIXELS


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Let the import of a package fail, as if it were not installed."""
    real = builtins.__import__

    def without(name: str, *words: Any, **options: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named '{package}'")
        return real(name, *words, **options)

    monkeypatch.setattr(builtins, "__import__", without)


@pytest.mark.parametrize(
    ("content", "suffix", "sentence"),
    [
        (
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heic",
            r"HEIC, which the package pillow-heif reads: pip install 'nas_attn\[heif\]'",
        ),
        (b"\0" * 128 + b"DICM", "dcm", r"DICOM, which the package pydicom reads: pip install 'nas_attn\[dicom\]'"),
        (b"\0" * 128 + b"DICM", "", r"DICOM, which the package pydicom reads"),
    ],
)  # fmt: skip
def test_a_format_without_its_package_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, suffix: str, sentence: str
) -> None:
    file = tmp_path / ("x." + suffix if suffix else "IM000001")
    file.write_bytes(content)
    hide(monkeypatch, "pillow_heif" if suffix == "heic" else "pydicom")
    with pytest.raises(DataError, match=sentence):
        Preprocess(16, (0.5,), (0.5,))(file)


def test_heic_is_read(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")

    def write(path: Path, values: np.ndarray, number: int) -> None:
        image = heif.from_pillow(Image.fromarray((np.stack([values] * 3, -1) * 250).astype(np.uint8)).resize((64, 64)))
        image.save(f"{path}.heic", quality=95)

    root = fill(tmp_path / "x", write, n=4)
    data = loaded(root)
    left = data.train.pixels[data.train.targets == 0].float()
    assert left[..., :7].mean() > left[..., 9:].mean() + 100
    assert len(list(image_files([root]))) == 8


# --- DICOM


def dicom(path: Path, values: np.ndarray, **changes: Any) -> None:
    """Write a DICOM file of 12 bits; `changes` are elements of its header, `frames` the number of frames."""
    pydicom = pytest.importorskip("pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    file = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    frames = changes.pop("frames", 1)
    elements = {
        "Rows": values.shape[0], "Columns": values.shape[1], "SamplesPerPixel": 1, "BitsAllocated": 16,
        "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0, "PhotometricInterpretation": "MONOCHROME2",
    }  # fmt: skip
    for name, value in {**elements, **changes}.items():
        setattr(file, name, value)
    if frames > 1:
        file.NumberOfFrames = frames
    kind = np.uint8 if file.BitsAllocated == 8 else np.uint16
    file.PixelData = np.stack([values] * frames).astype(kind).tobytes()
    file.save_as(path, enforce_file_format=True)


def bright_left(data: Data) -> float:
    """How much brighter the left half is in the images of `left`."""
    left = data.train.pixels[data.train.targets == 0].float()
    return float(left[..., :8].mean() - left[..., 8:].mean())


DICOM: dict[str, tuple[Callable[[Path, np.ndarray, int], None], tuple[float, float] | None]] = {
    "12 bits": (lambda path, v, n: dicom(Path(f"{path}.dcm"), v * 4000), (0, 4095)),
    "without a suffix": (lambda path, v, n: dicom(path, v * 4000), (0, 4095)),
    "8 bits": (
        lambda path, v, n: dicom(Path(f"{path}.dcm"), v * 250, BitsAllocated=8, BitsStored=8, HighBit=7), (0, 255),
    ),
    "rescaled": (
        lambda path, v, n: dicom(Path(f"{path}.dcm"), v * 4000, RescaleSlope="2", RescaleIntercept="-1024"), None,
    ),
    "a fractional slope, one image blank": (
        lambda path, v, n: dicom(
            Path(f"{path}.dcm"), v * 4000 * (n != 1), RescaleSlope="0.5", RescaleIntercept="0", Modality="CT"
        ),
        None,
    ),
    "a slope for each image, one blank": (
        lambda path, v, n: dicom(
            Path(f"{path}.dcm"), v * 4000 * (n != 1), RescaleSlope="1" if n == 1 else "1.9375", RescaleIntercept="0",
            Modality="PT",
        ),
        None,
    ),
    "bright is low in some": (
        lambda path, v, n: dicom(
            Path(f"{path}.dcm"),
            (1 - v if n % 2 else v).clip(0, 1) * 4095,
            PhotometricInterpretation=f"MONOCHROME{1 if n % 2 else 2}",
        ),
        (0, 4095),
    ),
    "bright is low, 8 bits": (
        lambda path, v, n: dicom(
            Path(f"{path}.dcm"), 255 - v * 250, BitsAllocated=8, BitsStored=8, HighBit=7,
            PhotometricInterpretation="MONOCHROME1",
        ),
        (0, 255),
    ),
    "colours": (
        lambda path, v, n: dicom(
            Path(f"{path}.dcm"), np.stack([v * 250] * 3, -1), BitsAllocated=8, BitsStored=8, HighBit=7,
            SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation="RGB",
        ),
        (0, 255),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DICOM)
def test_dicom_is_read_as_its_header_says(tmp_path: Path, case: str) -> None:
    write, ends = DICOM[case]
    data = loaded(fill(tmp_path / "x", write))
    assert bright_left(data) > 120
    deep_range = data.facts.rendering.deep_range
    if ends is None:
        assert deep_range[0] <= 0 < deep_range[1]
        assert deep_range[1] - deep_range[0] > {"rescaled": 6000}.get(case, 1890), "the slope counts"
    else:
        assert deep_range == ends


def test_dicom_frames_are_announced_or_all_read(tmp_path: Path) -> None:
    root = fill(tmp_path / "x", lambda path, v, n: dicom(Path(f"{path}.dcm"), v * 4000, frames=3))
    assert any("12, with 36 in all" in note for note in loaded(root).facts.notes)
    assert sum(loaded(root, frames="all").facts.class_counts) == 36


def test_a_new_dicom_image_is_read_like_the_training_images(tmp_path: Path) -> None:
    write = DICOM["rescaled"][0]
    root = fill(tmp_path / "x", write)
    data = loaded(root)
    found = Preprocess(16, (0.0,), (1.0,), data.facts.rendering)(root / "left" / "0.dcm")
    stored = (found[0] * 255).round().flatten().byte().tolist()
    everything = [row.flatten().tolist() for part in (data.train, data.val, data.test) for row in part.pixels]
    assert stored in everything
    assert [file.name for file in image_files([root / "left"])] == [f"{n}.dcm" for n in range(6)]


def test_a_file_that_is_only_called_dicom_is_skipped_with_the_reason(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    (tmp_path / "x.dcm").write_bytes(b"no scan")
    with pytest.raises(DataError, match=r"x\.dcm cannot be read: no DICOM file, though its name ends like one"):
        Preprocess(16, (0.5,), (0.5,))(tmp_path / "x.dcm")


def test_dicom_over_the_limit_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    dicom(tmp_path / "x.dcm", shape(True) * 4000)
    with pytest.raises(DataError, match="256 pixels, more than the limit of 100: --max-pixels 256 reads it"):
        Preprocess(16, (0.5,), (0.5,), max_pixels=100)(tmp_path / "x.dcm")


def test_a_file_that_is_skipped_has_no_say_in_the_range(tmp_path: Path) -> None:
    def write(path: Path, values: np.ndarray, number: int) -> None:
        pages = [Image.fromarray((values * 1000).astype(np.uint16)) for _ in range(2)]
        pages[0].save(f"{path}.tif", save_all=True, append_images=pages[1:])

    root = fill(tmp_path / "x", write)
    bright = [Image.fromarray((shape(True) * 60000).astype(np.uint16)) for _ in range(2)]
    bright[0].save(root / "top" / "cut.tif", save_all=True, append_images=bright[1:])
    whole = (root / "top" / "cut.tif").read_bytes()
    second = whole.rfind(np.asarray(bright[1]).tobytes())
    moved = whole[:second] + whole[second + 512 :] if second > 0 else whole[:-300]
    (root / "top" / "cut.tif").write_bytes(moved)
    facts = loaded(root, frames="all").facts
    assert any(note.startswith("1 of 13 files are no images and were skipped: top/cut.tif") for note in facts.notes)
    assert facts.rendering.deep_range == (0, 1023)
