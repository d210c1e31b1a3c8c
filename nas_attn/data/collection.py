"""The pictures of a set while its files are read: their pixels, and what a plan says about them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas_attn.data.appearance import Colour, Deep, Picture, colour_in_words
from nas_attn.data.entry import Reading
from nas_attn.data.pixel_range import EIGHT_BITS, FoundRange, cut_note, find_range, in_words
from nas_attn.data.room import room_for
from nas_attn.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


FIRST_FRAMES = "Files of which the first of several frames or pages is read"


class Collection:
    """Pictures of one size, each put at its own place by any thread; those of more than 8 bits are scaled at the end.

    Args:
        n: Number of places.
        size: Height and width that the pictures are resized to.
        folder: Folder of a file for the pixels; None keeps them in memory.
    """

    def __init__(self, n: int, size: int, reading: Reading, folder: Path | None) -> None:
        self.size = size
        self.room = room_for((n, size, size, 3), folder)
        self.digests = np.zeros(n, np.uint64)
        self.is_grey = np.ones(n, np.bool_)
        self._reading = reading
        self._is_turned, self._is_transparent, self._is_deep = (np.zeros(n, np.bool_) for _ in range(3))
        self._n_frames = np.ones(n, np.int64)
        self._deep: dict[int, Deep] = {}
        self._cut: set[int] = set()

    def put(self, place: int, picture: Picture, *, n_frames: int = 1) -> None:
        """Store a picture of a file with so many frames, resized."""
        content = picture.content
        self._n_frames[place] = n_frames
        self._is_turned[place], self._is_transparent[place] = picture.turned, picture.transparent
        if picture.cut:
            self._cut.add(place)
        if isinstance(content, Deep):
            self._is_deep[place] = True
            self.digests[place] = digest_of(content)
            small = content.resized(self.size)
            if self._reading.pixel_range is None:
                self._deep[place] = small
            else:
                self._scale(place, small, self._reading.pixel_range)
            return
        small_image = np.asarray(resized_image(content, self.size))
        self.is_grey[place] = small_image.ndim == 2
        self.digests[place] = self.room.put(place, small_image[..., None] if small_image.ndim == 2 else small_image)

    def alike(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which of the places `kept` hold pictures that may be equal to another one after they were resized.

        The checksums of all others differ.
        """
        plain = kept[~self._is_deep[kept]]
        _, group, sizes = np.unique(self.digests[plain], return_inverse=True, return_counts=True)
        several: NDArray[np.int64] = plain[sizes[group] > 1]
        return several

    def scale_deep(
        self, kept: NDArray[np.int64], in_train: NDArray[np.bool_], names: Sequence[str], where: str
    ) -> FoundRange | None:
        """Scale the pictures of more than 8 bits at the places `kept` by the range of all; None if there are none.

        Args:
            in_train: Whether the picture of a place is in the training part, or the part that it is split off from.
            names: The file of each place.
            where: Name of these pictures in the plan.
        Raises: DataError if some have whole and others have floating values.
        """
        stated = self._reading.pixel_range
        if stated is not None:
            return FoundRange(*stated, "as stated by --pixel-range")
        self._deep = {place: self._deep[place] for place in kept.tolist() if place in self._deep}
        if not self._deep:
            return None
        self._refuse_mixture(names)
        train = [deep.bounds for place, deep in self._deep.items() if in_train[place]]
        others = [deep.bounds for place, deep in self._deep.items() if not in_train[place]]
        found = find_range(train or others, others if train else (), where=where)
        for place, deep in self._deep.items():
            self._scale(place, deep, found.pair)
        self._deep.clear()
        return found

    def notes(self, kept: NDArray[np.int64], found: FoundRange | None) -> tuple[str, ...]:
        """Return what a user should know about the pictures at the places `kept`."""
        notes = [*self._range_notes(kept, found)] if found is not None else []
        n_turned, n_transparent = int(self._is_turned[kept].sum()), int(self._is_transparent[kept].sum())
        notes += notes_on_looks(n_turned, n_transparent, self._reading.background)
        return (*notes, *self._frame_notes(kept))

    def _scale(self, place: int, deep: Deep, pixel_range: tuple[float, float]) -> None:
        pixels = deep.scaled(pixel_range, self._reading.background)
        self.room.put(place, pixels)
        self.is_grey[place] = pixels.shape[-1] == 1
        if deep.bounds.low < pixel_range[0] or deep.bounds.high > pixel_range[1]:
            self._cut.add(place)

    def _frame_notes(self, kept: NDArray[np.int64]) -> list[str]:
        """Return the notes on files of several frames."""
        several = self._n_frames[kept]
        several = several[several > 1]
        if not len(several):
            return []
        if self._reading.frames == "all":
            n_files = round(float((1 / several).sum()))
            return [f"Files with several frames or pages, read as {len(several)} images (--frames all): {n_files}."]
        return [f"{FIRST_FRAMES}: {len(several)}, with {int(several.sum()):,} in all; --frames all reads each."]

    def _range_notes(self, kept: NDArray[np.int64], found: FoundRange) -> list[str]:
        """Return the notes on the range of the pixels."""
        n_deep = int(self._is_deep[kept].sum())
        n_plain, n_cut = len(kept) - n_deep, len(self._cut.intersection(kept.tolist()))
        if self._reading.pixel_range is not None:
            both = f", {n_plain:,} of 8 bits and {n_deep:,} of more or of floating values" if n_plain and n_deep else ""
            notes = [f"Pixel range: {in_words(found.pair)} for all images{both}, {found.basis}."]
        else:
            kind = "of more than 8 bits a channel" if found.whole else "of floating values"
            beside = f", and {in_words(EIGHT_BITS)} for the {n_plain:,} of 8 bits beside them" if n_plain else ""
            notes = [
                f"Pixel range: {in_words(found.pair)} for the {n_deep:,} images {kind} ({found.basis}){beside}; "
                "--pixel-range changes it."
            ]
        if n_cut:
            notes.append(cut_note(found.pair, n_cut))
        return notes

    def _refuse_mixture(self, names: Sequence[str]) -> None:
        """Refuse whole numbers beside floating values: one range cannot suit both."""
        first = {deep.bounds.whole: place for place, deep in sorted(self._deep.items(), reverse=True)}
        if len(first) == 2:
            raise DataError(
                "Images of more than 8 bits must be all of whole numbers or all of floating point, but "
                f"{names[first[True]]} has whole numbers and {names[first[False]]} floating values: convert some, or "
                "state one range for all by --pixel-range LOW:HIGH."
            )


def notes_on_looks(n_turned: int, n_transparent: int, background: Colour) -> list[str]:
    """Return a note on images that were turned, and one on those that are transparent in part."""
    notes = []
    if n_turned:
        notes.append(f"Images that their files store on their side or mirrored, turned upright (EXIF): {n_turned}.")
    if n_transparent:
        shown = colour_in_words(background)
        notes.append(f"Images with transparency, shown on {shown} (--background): {n_transparent}.")
    return notes


def resized_image(image: Image, size: int) -> Image:
    """Return an image of 8 bits at `size` x `size`."""
    from PIL.Image import Resampling

    return image.resize((size, size), Resampling.BILINEAR)


def digest_of(content: Image | Deep | NDArray[np.uint8]) -> int:
    """Return a number of 64 bits that equal pictures share: of shape and values, before they are resized."""
    if isinstance(content, Deep):
        found = hashlib.sha1(f"{content.values.shape}{content.inverted}".encode(), usedforsecurity=False)
        found.update(content.values.tobytes())
        found.update(b"" if content.coverage is None else content.coverage.tobytes())
    elif isinstance(content, np.ndarray):
        found = hashlib.sha1(str(content.shape).encode(), usedforsecurity=False)
        found.update(np.ascontiguousarray(content).data)
    else:
        found = hashlib.sha1(f"{content.mode}{content.size}".encode(), usedforsecurity=False)
        found.update(content.tobytes())
    return int.from_bytes(found.digest()[:8], "little")
