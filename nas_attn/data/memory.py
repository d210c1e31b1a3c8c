"""Images that are in memory already: torch data sets, loaders, or lists of images with labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas_attn.data.appearance import Deep, picture_of, reopener
from nas_attn.data.arrays import PARTS, ImageDataset, LabelledImages, Pixels, resized, with_channels
from nas_attn.data.catalog import DATA, register_data
from nas_attn.data.collection import notes_on_looks
from nas_attn.data.deep import NotUnderstood
from nas_attn.data.entry import AS_USUAL, DataRequest, DataSource, Reading
from nas_attn.data.pixel_range import Range, cut_note, find_range, in_words, outside, scaled
from nas_attn.errors import DataError, in_one_line

NAME = "memory"
"""Name of the data source that holds images in memory, while a search runs."""

_N_TWICE = 8


@dataclass(frozen=True, eq=False)
class _Seen:
    """An image, (H, W, C); of more than 8 bits it is not yet scaled. See `nas_attn.data.appearance.Picture`."""

    content: Pixels | Deep
    turned: bool = False
    transparent: bool = False
    cut: bool = False


Found = tuple[_Seen, Any]
"""An image with its label."""

Example = tuple[Pixels, Any]
"""An image, (H, W, C), with its label."""


@dataclass(frozen=True)
class Held:
    """A reader that returns the images that it holds; it is sent to the workers with them."""

    dataset: ImageDataset

    def __call__(self, request: DataRequest) -> ImageDataset:
        """Return the images."""
        return self.dataset


@contextmanager
def data_source_of(data: Any, image_size: int | None, reading: Reading = AS_USUAL) -> Iterator[Any]:
    """Context manager: yield the name of a data source that holds `data`; a name, or None, is yielded as it is.

    Args:
        data: `(train, val, test)`, each a torch data set, a loader, or a sequence of images with labels, and None for a
            val or test part that is to be split off; or an `ImageDataset`. A single set is split.
        image_size: Height and width of the images; needed only if they differ in size.
        reading: How PIL images become pixels.
    Raises: DataError as `read_memory`.
    """
    if data is None or isinstance(data, str):
        yield data
        return
    held = data if isinstance(data, ImageDataset) else read_memory(data, image_size, reading)
    before = DATA.get(NAME) if NAME in DATA else None
    register_data(DataSource(NAME, Held(held), "Images in the memory of this process"))
    try:
        yield NAME
    finally:
        DATA.unregister(NAME)
        if before is not None:
            register_data(before)


def read_memory(data: Any, image_size: int | None, reading: Reading = AS_USUAL) -> ImageDataset:
    """Return the images of `(train, val, test)`, or of a single set.

    An image is a PIL image, a tensor (C, H, W) or (H, W), or an array (H, W, C) or (H, W): uint8, or float from 0 to 1.
    PIL images of more than 8 bits have one range for all of them, as those of files.
    A label is a class number, or a vector of 0 and 1 where an image may have several. Class names are those of the data
    set (`classes`), otherwise the numbers.

    Raises: DataError, in one sentence, for other images and labels, images that change from one reading to the next,
    sizes that differ without `image_size`, and sets that are empty.
    """
    sets = data if isinstance(data, tuple) else (data,)
    if not 1 <= len(sets) <= len(PARTS) or sets[0] is None:
        raise DataError(
            f"data=... must be (train, val, test), with None for val or test to be split off, but got "
            f"{len(sets)} set{'s' * (len(sets) != 1)}{' without train' * (sets[:1] == (None,))}."
        )
    read = {part: _read(one, part, reading) for part, one in zip(PARTS, sets, strict=False) if one is not None}
    found, pixel_range, notes = _scaled(read, reading)
    names = _class_names(sets[0])
    channels = max(image.shape[-1] for examples in found.values() for image, _ in examples)
    sizes = {image.shape[:2] for examples in found.values() for image, _ in examples}
    if len(sizes) > 1 and image_size is None:
        shown = ", ".join(f"{height}x{width}" for height, width in sorted(sizes)[:3])
        raise DataError(f"All images in memory must have one size, but they have {shown}: state image_size.")
    size = image_size if len(sizes) > 1 else None
    parts = {part: _part(examples, channels, size, part) for part, examples in found.items()}
    if names is None:
        labels = [part.labels for part in parts.values()]
        columns = labels[0].shape[1] if labels[0].ndim == 2 else 1 + max(int(part.max()) for part in labels)
        names = tuple(map(str, range(columns)))
    return ImageDataset(names, parts, notes=notes, pixel_range=pixel_range)


def _scaled(
    read: Mapping[str, Sequence[Found]], reading: Reading
) -> tuple[dict[str, list[Example]], Range | None, tuple[str, ...]]:
    """Return the images as pixels, the range of those of more than 8 bits, and notes on how they look."""
    contents = {part: [image.content for image, _ in several] for part, several in read.items()}
    deep = {part: [each.bounds for each in several if isinstance(each, Deep)] for part, several in contents.items()}
    pixel_range = reading.pixel_range
    notes: tuple[str, ...] = ()
    if pixel_range is not None:
        notes = (f"Pixel range: {in_words(pixel_range)} for all images, as stated by pixel_range.",)
    others = [bounds for part, several in deep.items() if part != "train" for bounds in several]
    if pixel_range is None and (deep["train"] or others):
        chosen = find_range(deep["train"] or others, others, where="the training images")
        pixel_range = chosen.pair
        notes = (f"Pixel range of the images of more than 8 bits: {in_words(pixel_range)}, {chosen.basis}; "
                 "pixel_range changes it.",)  # fmt: skip

    def pixels(content: Pixels | Deep) -> Pixels:
        if not isinstance(content, Deep):
            return content
        assert pixel_range is not None, "there is an image of more than 8 bits"
        return content.scaled(pixel_range, reading.background)

    seen = [image for several in read.values() for image, _ in several]
    n_turned, n_transparent = sum(image.turned for image in seen), sum(image.transparent for image in seen)
    n_cut = sum(image.cut or _lies_outside(image.content, pixel_range) for image in seen)
    if n_cut and pixel_range is not None:
        notes += (cut_note(pixel_range, n_cut),)
    notes += tuple(notes_on_looks(n_turned, n_transparent, reading.background))
    return (
        {part: [(pixels(image.content), label) for image, label in several] for part, several in read.items()},
        pixel_range,
        notes,
    )


def _lies_outside(content: Pixels | Deep, ends: Range | None) -> bool:
    """Return whether an image of more than 8 bits has values outside of the range."""
    if ends is None or not isinstance(content, Deep):
        return False
    return content.bounds.low < ends[0] or content.bounds.high > ends[1]


def _read(source: Any, part: str, reading: Reading) -> list[Found]:
    """Return the images of one set; those of a loader in an order of their own, since it may shuffle them."""
    from torch.utils.data import DataLoader

    try:
        _refuse_random(source.dataset if isinstance(source, DataLoader) else source, part)
        if isinstance(source, DataLoader):
            examples = sorted((_example(pair, part, reading) for pair in _unbatched(source)), key=_digest)
        else:
            examples = [_example(pair, part, reading) for pair in _each(source)]
    except DataError:
        raise
    except Exception as error:  # the data set is the user's: reading it may raise anything
        raise DataError(f"The set '{part}' raised {type(error).__name__} when read: {in_one_line(error)}.") from error
    if not examples:
        raise DataError(f"A data set must have images, but the set '{part}' has none.")
    return examples


def _each(source: Any) -> Iterator[Any]:
    """Yield the examples of a data set by their numbers, or of anything else that can be iterated."""
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return (source[number] for number in range(len(source)))
    if isinstance(source, Iterable):
        return iter(source)
    raise DataError(
        f"A set of images must be a torch data set, a loader or a sequence of (image, label), but is a "
        f"{type(source).__name__}."
    )


def _unbatched(loader: Iterable[Any]) -> Iterator[Any]:
    """Yield the examples of a loader's batches."""
    for batch in loader:
        images, labels = _pair(batch)
        yield from zip(images, labels, strict=True)


def _pair(found: Any) -> tuple[Any, Any]:
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise DataError(f"A set of images must return (image, label), but returns a {type(found).__name__}.")
    return found[0], found[1]


def _example(found: Any, part: str, reading: Reading) -> Found:
    image, label = _pair(found)
    return _seen(image, part, reading), _plain(label)


def _plain(value: Any) -> Any:
    """Return a tensor as an array; anything else as it is."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def _seen(image: Any, part: str, reading: Reading) -> _Seen:
    """Return an image with what is known about it. Raises: DataError for another shape, type or range."""
    if hasattr(image, "convert") and hasattr(image, "mode"):
        return _of_pil(image, part, reading)
    stated = reading.pixel_range
    values = _as_array(image)
    is_cut = stated is not None and values.dtype.kind in "iuf" and bool(outside(values, stated).any())
    return _Seen(_pixels(image, part, stated), cut=is_cut)


def _pixels(image: Any, part: str, stated: Range | None) -> Pixels:
    """Return a tensor or an array as (H, W, C) uint8. Raises: DataError for another shape, type or range."""
    is_tensor = hasattr(image, "detach")
    array = np.asarray(_plain(image))
    if array.ndim == 2:
        array = array[..., None]
    elif array.ndim == 3 and is_tensor:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        layout = "(C, H, W)" if is_tensor else "(H, W, C)"
        raise DataError(
            f"An image of '{part}' must be a PIL image, or {layout} or (H, W) with 1 or 3 channels, but is "
            f"{type(image).__name__} of {tuple(np.shape(image))}."
        )
    if stated is not None and array.dtype.kind in "iuf":
        if not np.isfinite(array).all():
            raise DataError(
                f"An image of '{part}' must be of finite numbers, but some are NaN or infinite: replace those."
            )
        return scaled(array, *stated)
    if array.dtype == np.uint8:
        return array
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind != "f" or not (low >= 0 and high <= 1):
        raise DataError(
            f"An image of '{part}' must be uint8, or float from 0 to 1, but is {array.dtype} from {low:.3g} to "
            f"{high:.3g}: leave Normalize out, since the search normalises by itself."
        )
    found: Pixels = np.rint(array * 255).astype(np.uint8)
    return found


def _of_pil(image: Any, part: str, reading: Reading) -> _Seen:
    """Return a PIL image: grey stays grey, everything else is RGB. Raises: DataError for other modes."""
    try:
        picture = picture_of(image, reading, reopener(image))
    except NotUnderstood as error:
        raise DataError(f"An image of '{part}' {error}: convert it.") from None
    content: Pixels | Deep
    if isinstance(picture.content, Deep):
        content = picture.content
    else:
        plain = np.asarray(picture.content)
        content = plain[..., None] if plain.ndim == 2 else plain
    return _Seen(content, picture.turned, picture.transparent, picture.cut)


def _digest(example: Found) -> bytes:
    """Return the SHA-256 of an image with its label."""
    image, label = example
    values = image.content.values if isinstance(image.content, Deep) else image.content
    shown = f"{values.shape}{np.asarray(label).tolist()}".encode()
    return hashlib.sha256(shown + np.ascontiguousarray(values).tobytes()).digest()


def _refuse_random(source: Any, part: str) -> None:
    """Refuse a data set whose first images differ when they are read again: a resumed run would train on others."""
    if not hasattr(source, "__getitem__") or not hasattr(source, "__len__"):
        return
    for number in range(min(len(source), _N_TWICE)):
        first, again = (_as_array(_pair(source[number])[0]) for _ in range(2))
        if not np.array_equal(first, again, equal_nan=first.dtype.kind == "f"):
            raise DataError(
                f"An image must be the same whenever it is read, but the set '{part}' changes it: leave random "
                "transforms out, and use augment='crop-flip' or 'crop'."
            )


def _as_array(value: Any) -> Any:
    return np.asarray(_plain(value))


def _part(examples: Sequence[Example], channels: int, size: int | None, part: str) -> LabelledImages:
    """Return the images of a part as arrays."""
    images = [with_channels(image[None], channels) for image, _ in examples]
    if size is not None:
        images = [resized(image, size) for image in images]
    labels = np.asarray([label for _, label in examples])
    if labels.dtype.kind == "f" and np.array_equal(labels, np.rint(labels)):  # a vector of 0.0 and 1.0
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iub":
        raise DataError(f"The labels of '{part}' must be whole numbers, but are {labels.dtype}.")
    return LabelledImages(np.concatenate(images), labels)


def _class_names(source: Any) -> tuple[str, ...] | None:
    """Return the class names of a data set, also of one inside a loader or a `Subset`; None if it has none."""
    while source is not None:
        names = getattr(source, "classes", None)
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
        source = None if isinstance(source, Mapping) else getattr(source, "dataset", None)
    return None
