"""Images in the memory of the caller: data sets, loaders, arrays, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from nas_attn.config import DataConfig
from nas_attn.data.dataset import describe
from nas_attn.data.memory import data_source_of, read_memory
from nas_attn.errors import DataError

TARGETS = torch.arange(60) % 5
IMAGES = torch.randint(0, 256, (60, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
SETS = TensorDataset(IMAGES, TARGETS), None, TensorDataset(IMAGES[:40], TARGETS[:40])


class Named(torch.utils.data.Dataset):
    """Returns what the test gives, and has class names."""

    classes = ("ant", "bee")

    def __init__(self, images: list[Any], change: Callable[[Any], Any] = lambda image: image) -> None:
        self.images, self.change = images, change

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        if number >= len(self):
            raise IndexError
        return self.change(self.images[number]), number % 2


class Stream(IterableDataset):
    """Images that come one after the other."""

    def __iter__(self):
        return iter([(IMAGES[number], int(TARGETS[number])) for number in range(20)])


ARRAY = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(ARRAY), ARRAY),
        (Image.fromarray(ARRAY).convert("RGBA"), ARRAY),
        (ARRAY, ARRAY),
        (torch.from_numpy(ARRAY).permute(2, 0, 1), ARRAY),
        (torch.from_numpy(ARRAY).permute(2, 0, 1) / 255, ARRAY),
        (torch.from_numpy(ARRAY[..., 0]).double() / 255, ARRAY[..., :1]),
        (Image.fromarray(ARRAY[..., 0]), ARRAY[..., :1]),
        (Image.fromarray(ARRAY[..., 0].astype(np.uint16) * 257), ARRAY[..., :1]),
    ],
    ids=["pil", "rgba", "array", "tensor", "float", "grey float", "grey pil", "16 bit"],
)
def test_an_image_may_be_written_in_many_ways(image, expected):
    part = read_memory(Named([image] * 4), None).parts["train"]
    assert part.pixels.shape == (4, *expected.shape)
    assert np.array_equal(part.pixels[0], expected)
    assert part.labels.tolist() == [0, 1, 0, 1]


def test_sets_loaders_and_streams_are_read_and_missing_parts_split_off():
    found = read_memory((TensorDataset(IMAGES, TARGETS), DataLoader(Stream(), batch_size=7), None), None)
    assert {part: len(images) for part, images in found.parts.items()} == {"train": 60, "val": 20}
    assert np.array_equal(found.parts["train"].pixels[..., 0], IMAGES[:, 0].numpy())
    assert found.class_names == ("0", "1", "2", "3", "4")
    with data_source_of(SETS, None) as name:
        facts = describe(DataConfig(name=name))
    assert (facts.n_train, facts.n_val, facts.n_test) == (50, 10, 40)


def test_a_loader_that_shuffles_gives_the_same_data_at_each_start():
    def fingerprint() -> str:
        loader = DataLoader(TensorDataset(IMAGES, TARGETS), batch_size=8, shuffle=True)
        with data_source_of((loader, None, None), None) as name:
            return describe(DataConfig(name=name)).fingerprint

    assert fingerprint() == fingerprint()


def test_class_names_come_from_the_data_set_also_inside_a_subset_and_a_loader():
    named = Named([IMAGES[0]] * 8)
    for source in (named, Subset(named, range(6)), DataLoader(Subset(named, range(6)), batch_size=2)):
        assert read_memory(source, None).class_names == ("ant", "bee")


def test_vectors_of_labels_are_several_labels_per_image():
    labels = torch.stack([TARGETS % 2, TARGETS % 3 // 2], 1).float()
    found = read_memory((TensorDataset(IMAGES, labels), None, None), None)
    assert found.task == "multi-label"
    assert found.parts["train"].labels.shape == (60, 2)


def test_images_of_several_sizes_are_resized_to_the_stated_size_and_grey_becomes_colour():
    images = [ARRAY, ARRAY[:4], ARRAY[..., 0], ARRAY]
    with pytest.raises(DataError, match="must have one size, but they have 4x6, 8x6: state image_size"):
        read_memory(Named(images), None)
    assert read_memory(Named(images), 16).parts["train"].pixels.shape == (4, 16, 16, 3)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (Named([IMAGES[0] / 255 - 0.5] * 4), "float from 0 to 1, but is float32 from -0.4.* leave Normalize out"),
        (
            Named([torch.zeros(2, 8, 8)] * 4),
            r"\(C, H, W\) or \(H, W\) with 1 or 3 channels, but is Tensor of \(2, 8, 8\)",
        ),
        (
            Named([IMAGES[0]] * 9, lambda image: torch.rand(1, 8, 8)),
            "the set 'train' changes it: leave random transforms out",
        ),
        (Named([ARRAY], lambda image: 1 / 0), "The set 'train' raised ZeroDivisionError when read: division by zero"),
        (
            DataLoader(Named([IMAGES[0]] * 9, lambda image: torch.rand(1, 8, 8)), batch_size=3),
            "the set 'train' changes it: leave random transforms out",
        ),
        ((SETS[0], [], None), "must have images, but the set 'val' has none"),
        ((None, SETS[0], None), r"must be \(train, val, test\), .* but got 3 sets without train"),
        ((SETS[0],) * 4, "but got 4 sets"),
        (5, "must be a torch data set, a loader or a sequence of .* but is a int"),
        ([(ARRAY, 0, 1)], r"must return \(image, label\), but returns a tuple"),
        ([(ARRAY, "cat"), (ARRAY, "dog")], "The labels of 'train' must be whole numbers"),
    ],
)
def test_other_data_is_refused_in_one_sentence(data, sentence):
    with pytest.raises(DataError, match=sentence) as found:
        read_memory(data, None)
    assert len(str(found.value).splitlines()) == 1
