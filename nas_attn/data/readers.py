"""Opens image files: by Pillow, HEIC by pillow-heif and DICOM by pydicom where these are installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nas_attn.data.appearance import Picture, picture_of
from nas_attn.data.dicom import is_dicom, read_dicom
from nas_attn.data.entry import Reading
from nas_attn.data.tiff import has_deep_planes, is_tiff, read_tiff
from nas_attn.data.unreadable import Unreadable, is_heif, kind_of, needs

if TYPE_CHECKING:
    from PIL.Image import Image

Source = Path | IO[bytes]
"""A file, or the content of one."""

_ONE_PICTURE = frozenset({"JPEG", "MPO", "PSD", "BMP", "ICO", "ICNS", "PPM"})
"""Formats of one picture a file: the others in an MPO are previews and depth maps, those in a PSD its layers."""

HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})

_HEAD = 512
_SUBFILE, _REDUCED_OR_MASK = 254, 0b101


class _ForeignTiff(Exception):
    """A TIFF that Pillow does not read, or reads wrong."""


@contextmanager
def pixel_limit(max_pixels: int) -> Iterator[None]:
    """Context manager: let Pillow refuse images of more than `max_pixels`, in all threads."""
    from PIL import Image as pillow

    before = pillow.MAX_IMAGE_PIXELS
    pillow.MAX_IMAGE_PIXELS = max_pixels / 2  # type: ignore[assignment]  # Pillow warns from here, and refuses at twice
    try:
        yield
    finally:
        pillow.MAX_IMAGE_PIXELS = before


def read_pictures(
    source: Callable[[], Source], path: Path, reading: Reading, *, draft: int | None = None
) -> tuple[Iterator[Picture], int]:
    """Return the pictures of a file, one or all of its frames, and the number of frames that the file has.

    Args:
        source: Opens the file anew at each call.
        path: Its name.
        draft: Least height and width that are needed; a JPEG is decoded at a half, a quarter or an eighth.
    Raises: Unreadable, NotUnderstood, or whatever a damaged file makes Pillow raise.
    """
    opened = source()
    if is_dicom(opened, path):
        found = read_dicom(opened, path, reading)
        return iter(found.pictures), found.n_frames
    try:
        image = _open(opened)
    except _ForeignTiff:
        pictures, n = read_tiff(source(), reading)
        return iter(pictures), n
    frames = _frames(image)
    wanted = frames if reading.frames == "all" else frames[:1]
    return _pictures(image, source, reading, wanted, draft), len(frames)


def n_pictures(source: Callable[[], Source], path: Path, reading: Reading) -> int:
    """Return how many pictures `read_pictures` yields; nothing is decoded."""
    if reading.frames == "first":
        return 1
    opened = source()
    if is_dicom(opened, path):
        return read_dicom(opened, path, reading, decode=False).n_frames
    try:
        with _open(opened) as image:
            return len(_frames(image))
    except _ForeignTiff:
        return read_tiff(source(), reading)[1]


def _pictures(
    image: Image, source: Callable[[], Source], reading: Reading, frames: list[int], draft: int | None
) -> Iterator[Picture]:
    with closing(image):
        if draft is not None and len(frames) == 1:
            image.draft("RGB", (draft, draft))
        for frame in frames:
            if frame:
                image.seek(frame)
            yield picture_of(image, reading, lambda frame=frame: _at(source, frame))  # type: ignore[misc]


def _at(source: Callable[[], Source], frame: int) -> Image:
    """Return a frame of a file that is opened anew."""
    image = _open(source())
    if frame:
        image.seek(frame)
    return image


def _open(source: Source) -> Image:
    """Return an image that is not loaded yet.

    Raises: _ForeignTiff for a TIFF that Pillow does not read; Unreadable with what any other file is instead.
    """
    from PIL import Image as pillow
    from PIL import UnidentifiedImageError

    try:
        image = pillow.open(source)
        if image.format == "TIFF" and has_deep_planes(image.tag_v2):  # type: ignore[attr-defined]
            image.close()
            raise _ForeignTiff
        return image
    except UnidentifiedImageError:
        head = head_of(source)
        if is_tiff(head):
            raise _ForeignTiff from None
        if not is_heif(head):
            raise Unreadable(kind_of(head)) from None
    _register_heif()
    try:
        return pillow.open(source)
    except UnidentifiedImageError:
        raise Unreadable("a HEIC file that pillow-heif does not read") from None


def _register_heif() -> None:
    """Let Pillow open HEIC files. Raises: Unreadable that names the package if it is missing."""
    try:
        import pillow_heif
    except ImportError:
        raise Unreadable(needs("HEIC", "pillow-heif", "heif")) from None
    pillow_heif.register_heif_opener()


def _frames(image: Image) -> list[int]:
    """Return the numbers of the frames of a file; reduced copies and masks of a TIFF are none."""
    if image.format in _ONE_PICTURE:
        return [0]
    n = int(getattr(image, "n_frames", 1))
    if n == 1 or image.format != "TIFF":
        return list(range(n))
    pages: Any = image
    found = []
    for number in range(n):
        pages.seek(number)
        if not pages.tag_v2.get(_SUBFILE, 0) & _REDUCED_OR_MASK:
            found.append(number)
    pages.seek(0)
    return found or [0]


def head_of(source: Source) -> bytes:
    """Return the first bytes of a file."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(_HEAD)
    source.seek(0)
    head = source.read(_HEAD)
    source.seek(0)
    return head
