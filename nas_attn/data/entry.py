"""The records of the table of data sources, and what a reader is called with; no numpy, no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nas_attn.errors import DataError, in_one_line
from nas_attn.files import MOST_PIXELS
from nas_attn.placement import Shape

if TYPE_CHECKING:
    from nas_attn.data.arrays import ImageDataset

Progress = Callable[[int, int], None]
"""Called with the number of files read so far and their total number."""


SPACE_FOR_SMALL_IMAGES, SPACE_FOR_NATURAL_IMAGES = "densenet_attn", "resnet18_attn"
"""The shipped spaces that are searched if none is named."""


def no_progress(done: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Reading:
    """How image files become pixels; each has a setting of its name.

    Args:
        pixel_range: Values in the files that become black and white; None takes 0 and 255 for images of 8 bits, and the
            range of the whole set for others.
        background: Red, green and blue behind transparent images.
        frames: The frames of a file that are read: `first`, or `all`.
        max_pixels: Number of pixels above which an image is not read.
    """

    pixel_range: tuple[float, float] | None = None
    background: tuple[int, int, int] = (255, 255, 255)
    frames: Literal["first", "all"] = "first"
    max_pixels: int = MOST_PIXELS


AS_USUAL = Reading()


@dataclass(frozen=True)
class DataRequest:
    """The argument of a reader: which images are to be read.

    Args:
        path: The path behind the colon of `NAME:PATH`, with `~` replaced; it need not exist. The empty path for a
            source that takes none.
        image_size: Height and width in pixels that the images are resized to after reading; None keeps those that the
            reader returns. A reader may ignore it, or use it to decode large images at once at this size.
        root: Folder of downloaded data sets (`--data-root`); it need not exist.
        download: Whether a data set that is missing may be downloaded (`--download`).
        strict: Whether a damaged image is an error instead of being skipped and named in a note (`--strict-data`).
        reading: How image files become pixels; a reader of other data may ignore it.
        progress: To be called while many files are read, with the number done and their total.
        channels: Number of channels that the images are converted to after reading; None keeps their own. A reader may
            ignore it.
    """

    path: Path = Path()
    image_size: int | None = None
    root: Path = Path("data")
    download: bool = False
    strict: bool = False
    progress: Progress = no_progress
    reading: Reading = AS_USUAL
    channels: int | None = None


Reader = Callable[[DataRequest], "ImageDataset"]


@dataclass(frozen=True)
class DataSource:
    """One data source: its name, its reader, and the facts that a search needs before it reads.

    Args:
        name: Its key in the table: `--data NAME`, or `--data NAME:PATH` if it takes a path.
        read: Function that takes a `DataRequest` and returns an `ImageDataset`, or its location as "module:function",
            which is imported on use. It raises DataError for data that is missing or damaged.
        summary: One line for people.
        path: Whether it reads a "file" or a "folder" of the user's; None if it takes no path.
        default_image: Height and width in pixels that its images are resized to where no size is asked for; None keeps
            the size of the images. For sources whose images differ in size.
        mirror: Whether an image keeps its meaning when it is mirrored left to right. If not, `--augment crop-flip` is
            refused.
        space: Shipped space that is searched if the user names none.
        marks: Suffixes of its files, or names of files in its folders, by which a path without the name of a source is
            known to be one of its own; a source without marks is suggested for any other path.
        shape: Classes, channels and size of its images, where these are always the same.
    Raises: DataError if `path` is another word.
    """

    name: str
    read: str | Reader
    summary: str
    path: Literal["file", "folder"] | None = None
    default_image: int | None = None
    mirror: bool = True
    space: str = SPACE_FOR_NATURAL_IMAGES
    marks: tuple[str, ...] = ()
    shape: Shape | None = None

    def __post_init__(self) -> None:
        if self.path not in (None, "file", "folder"):
            raise DataError(f"The path of a data source must be 'file', 'folder' or None, but is {self.path!r}.")

    @property
    def form(self) -> str:
        """How a user writes it: `digits`, or `folder:PATH`."""
        return f"{self.name}:PATH" if self.path else self.name

    @property
    def reader(self) -> Reader:
        """The reader, imported if it is stated as "module:function". Raises: DataError if it cannot be imported."""
        if not isinstance(self.read, str):
            return self.read
        module, _, function = self.read.partition(":")
        try:
            found: Reader = getattr(import_module(module), function)
        except Exception as error:  # a plug-in's module may raise anything at import
            reason = f"{type(error).__name__}: {in_one_line(error)}"
            raise DataError(
                f"The reader {self.read} of data source '{self.name}' cannot be loaded: {reason}."
            ) from error
        return found
