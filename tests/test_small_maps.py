"""What a map or a group cannot use is one choice: canonical keys, spaces, and older files with the larger kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.create import create_attention
from nas_attn.attention.entry import Context
from nas_attn.attention.options import resolve_options
from nas_attn.backbones.site_table import site_table
from nas_attn.errors import FileError
from nas_attn.model.build import AttentionModel, build_model
from nas_attn.model.file import load_model, save_model
from nas_attn.placement import Placement
from nas_attn.space.bound import BoundSpace
from nas_attn.space.rewritten import notes_on_values
from nas_attn.space.search_space import SearchSpace

SHAPE = {"num_classes": 10, "in_channels": 1, "image_size": 8}
RECORD = {"mean": (0.5,), "std": (0.5,), "class_names": tuple("abcdefghij")}


def bound(name: str = "densenet_attn") -> BoundSpace:
    space = SearchSpace.load(name)
    return space.bind(site_table(space.backbone, **SHAPE))


@pytest.mark.parametrize(
    ("name", "size", "written", "built"),
    [
        ("cbam", 2, {"kernel_size": 7}, {"kernel_size": 3}),
        ("cbam", 1, {"kernel_size": 7}, {"kernel_size": 1}),
        ("cbam", 4, {"kernel_size": 7}, {"kernel_size": 7}),
        ("gam", 3, {"kernel_size": 7}, {"kernel_size": 5}),
        ("gam", 2, {"kernel_size": 7, "padding_mode": "replicate"}, {"kernel_size": 7}),
        ("bam", 2, {"dilation": 4}, {"dilation": 2}),
        ("lska", 2, {"kernel_size": 35}, {"kernel_size": 7}),
        ("lska", 8, {"kernel_size": 41}, {"kernel_size": 23}),
        ("lka", 2, {"kernel_size": 21}, {"kernel_size": 7}),
        ("triplet", 2, {"kernel_size": 63}, {"kernel_size": 31}),
        ("eca", 2, {"kernel_size": 63}, {"kernel_size": 31}),
        ("self_attention", 4, {"window": 7}, {"window": None}),
        ("self_attention", 8, {"window": 7}, {"window": 7}),
    ],
)
def test_a_value_that_the_map_cannot_fill_is_the_smallest_that_does_the_same(
    name: str, size: int, written: dict[str, Any], built: dict[str, Any]
) -> None:
    resolved = resolve_options(ATTENTIONS[name], 16, written, Context(height=size, width=size))
    assert {option: resolved[option] for option in built} == built


def test_without_a_map_every_value_is_its_own() -> None:
    assert resolve_options(ATTENTIONS["cbam"], 16, {"kernel_size": 7})["kernel_size"] == 7
    assert create_attention("cbam", 16, kernel_size=7).spatial.conv.weight.shape == (1, 2, 7, 7)


@pytest.mark.parametrize("channels", [8, 12, 30, 32, 64, 128, 256, 512])
def test_groups_of_their_own_choice_have_four_channels(channels: int) -> None:
    for name, option in (("sge", "groups"), ("shuffle", "groups"), ("ema", "factor")):
        groups = resolve_options(ATTENTIONS[name], channels, {})[option]
        assert isinstance(groups, int)
        assert channels // groups >= 4, name
    assert resolve_options(ATTENTIONS["sge"], 256, {})["groups"] == 64
    assert resolve_options(ATTENTIONS["shuffle"], 256, {})["groups"] == 64
    assert resolve_options(ATTENTIONS["ema"], 128, {})["factor"] == 32


def test_groups_that_are_written_keep_their_meaning() -> None:
    assert create_attention("sge", 32, groups=32).weight.shape == (32, 1, 1)
    assert create_attention("ema", 32, factor=32).axes.weight.shape == (1, 1, 1, 1)


def test_the_default_space_counts_each_network_once() -> None:
    space = bound()
    assert [len(decision.distinct) for decision in space.decisions] == [26, 26, 26, 16, 16]
    assert space.n_placements == 26**3 * 16**2 == 4_499_456


def test_a_space_says_which_values_are_built_as_others() -> None:
    assert notes_on_values(bound()) == [
        "groups=4 of gam is built, and counted, as 2 at transition1, transition2: a group there would have too few "
        "channels.",
        *(
            f"kernel_size=7 of {name} is built, and counted, as 3 at transition2, denseblock3: the map there can "
            "fill no more."
            for name in ("cbam", "gam")
        ),
    ]


def test_groups_of_gam_have_two_hidden_channels_in_a_space_and_those_written_in_a_placement() -> None:
    space = bound()
    params = {name: values[0] for name, values in space.choices.items()}
    params |= {"transition1.attention": "gam", "transition1.gam.groups": 4, "transition1.gam.branches": "both"}
    assert space.placement(params)["transition1"].options["groups"] == 2

    written = Placement.from_dict({"transition1": {"name": "gam", "reduction": 8, "groups": 4, "kernel_size": 3}})
    assert space.resolve(written)["transition1"].options["groups"] == 4
    found = space.params(written)
    assert found is not None
    assert space.placement(found)["transition1"].options["groups"] == 2


def test_every_choice_of_the_space_has_as_many_parameters_as_it_says() -> None:
    space = bound()
    placement = space.dearest()
    model = build_model(space.space.backbone, placement, **SHAPE, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == space.cost(placement).n_parameters
    assert model.eval()(torch.randn(1, 1, 8, 8)).isfinite().all()


PLACED = {
    "denseblock3": {"name": "cbam", "kernel_size": 7, "reduction": 4},
    "transition2": {"name": "gam", "kernel_size": 7, "reduction": 4},
    "denseblock2": {"name": "lska", "kernel_size": 35},
}


def of_an_older_version(file: Path, *, says: int) -> AttentionModel:
    """Write a model whose kernels are larger than their maps, as they were built before; return the model.

    Args:
        says: Kernel size of CBAM as the file states it.
    """
    backbone = SearchSpace.load("densenet_attn").backbone
    model = build_model(backbone, Placement.from_dict(PLACED), **{**SHAPE, "image_size": 64}, seed=0)
    assert model.sites_of_cores == ()
    for parameter in model.attention.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.image_size = 8
    model.placement = Placement.from_dict(PLACED | {"denseblock3": PLACED["denseblock3"] | {"kernel_size": says}})
    save_model(model, file, record=RECORD)
    return model.eval()


def test_a_file_with_kernels_larger_than_their_maps_is_read_as_before(tmp_path: Path) -> None:
    before = of_an_older_version(tmp_path / "best.json", says=7)
    model = load_model(tmp_path / "best.json")
    assert set(model.sites_of_cores) == set(PLACED)
    assert model.insert_at("denseblock3").attention.spatial.conv.weight.shape == (1, 2, 3, 3)
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(model(images), before(images))


def test_weights_that_are_no_larger_kernels_are_refused_as_before(tmp_path: Path) -> None:
    of_an_older_version(tmp_path / "best.json", says=3)
    with pytest.raises(FileError, match=r"do not fit the network: 'attention\.denseblock3\.cbam\.spatial"):
        load_model(tmp_path / "best.json")
