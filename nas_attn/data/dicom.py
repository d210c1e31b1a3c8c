"""DICOM files, by the optional package pydicom: rescaled as their header says, MONOCHROME1 as dark on bright."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.data.appearance import Picture, deep_picture
from nas_attn.data.deep import NotUnderstood
from nas_attn.data.entry import Reading
from nas_attn.data.pixel_range import scaled
from nas_attn.data.tree import IMAGES
from nas_attn.data.unreadable import Unreadable, needs, over_limit
from nas_attn.errors import first_line

SUFFIXES = frozenset({".dcm", ".dicom"})
_MAGIC_AT = 128


@dataclass(frozen=True)
class DicomPictures:
    """The pictures of a DICOM file that were asked for, and the number of its frames."""

    pictures: tuple[Picture, ...]
    n_frames: int


def is_dicom(source: Path | IO[bytes], path: Path) -> bool:
    """Return whether a file is DICOM: by its suffix, or by its first bytes if the suffix is not that of an image."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return True
    if suffix[1:] in IMAGES:
        return False
    return _head(source)[_MAGIC_AT:] == b"DICM"


def read_dicom(source: Path | IO[bytes], path: Path, reading: Reading, *, decode: bool = True) -> DicomPictures:
    """Return the pictures of a DICOM file.

    Args:
        decode: Whether the pixels are wanted, or only the number of frames.
    Raises: Unreadable without the package, or for a file that it cannot decode; NotUnderstood for colours without a
        known meaning.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError:
        raise Unreadable(needs("DICOM", "pydicom", "dicom")) from None
    try:
        header = pydicom.dcmread(source, stop_before_pixels=not decode)
    except InvalidDicomError:
        raise Unreadable("no DICOM file, though its name ends like one") from None
    n_frames = int(header.get("NumberOfFrames") or 1)
    if not decode:
        return DicomPictures((), n_frames)
    size = int(header.get("Rows") or 0) * int(header.get("Columns") or 0)
    if not size:
        raise Unreadable("DICOM without pixels")
    if size > reading.max_pixels:
        raise Unreadable(over_limit(size, reading.max_pixels))
    values = _values(header)
    frames = values[None] if n_frames == 1 else values
    wanted = frames if reading.frames == "all" else frames[:1]
    return DicomPictures(tuple(_picture(frame, header, reading) for frame in wanted), n_frames)


def _values(header: Any) -> NDArray[Any]:
    """Return the pixels as the header means them: decompressed, colours as RGB, grey values rescaled."""
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

    try:
        values: NDArray[Any] = header.pixel_array  # YCbCr becomes RGB
    except Exception as error:  # a codec that is missing, or damage: anything
        raise Unreadable(f"DICOM that cannot be decoded: {first_line(error)}") from None
    meaning = str(header.get("PhotometricInterpretation"))
    if meaning == "PALETTE COLOR":
        return np.asarray(apply_color_lut(values, header))
    return values if int(header.get("SamplesPerPixel") or 1) > 1 else np.asarray(apply_modality_lut(values, header))


def _picture(values: NDArray[Any], header: Any, reading: Reading) -> Picture:
    """Return one frame, of 8 bits if it is stored so and not rescaled."""
    from PIL import Image as pillow

    meaning = str(header.get("PhotometricInterpretation"))
    if values.ndim == 3 and values.shape[-1] != 3:
        raise NotUnderstood(f"has {values.shape[-1]} values a pixel ({meaning})")
    inverted = meaning == "MONOCHROME1"
    if values.dtype == np.uint8:
        pixels = values if reading.pixel_range is None else scaled(values, *reading.pixel_range)
        return Picture(pillow.fromarray(255 - pixels if inverted else pixels))
    return deep_picture(values, whole=_has_whole_numbers(values, header), what=f"DICOM {meaning}", inverted=inverted)


def _has_whole_numbers(values: NDArray[Any], header: Any) -> bool:
    """Return whether the header means whole numbers, whatever the values of this one image are.

    Images of positron emission have a slope for each slice, so that a blank one may have a whole slope among fractional
    ones: they are floating.
    """
    if values.dtype.kind in "iu":
        return True
    rescaling = [float(header.get(name) or 0) for name in ("RescaleSlope", "RescaleIntercept")]
    return (
        header.get("RescaleSlope") is not None
        and header.get("Modality") != "PT"
        and all(map(float.is_integer, rescaling))
    )


def _head(source: Path | IO[bytes]) -> bytes:
    """Return the first bytes of a file, up to the word that marks DICOM."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(_MAGIC_AT + 4)
    head = source.read(_MAGIC_AT + 4)
    source.seek(0)
    return head
