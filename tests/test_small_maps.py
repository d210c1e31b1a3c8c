"""What a map or a group cannot use is one choice: canonical keys, spaces, and older files with the larger kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.create import create_attention
from nas_attn.attention.entry import Context
from nas_attn.attention.fca import waves
from nas_attn.attention.forms.frequency import FREQUENCIES, vanishing
from nas_attn.attention.options import require_fit, resolve_options
from nas_attn.backbones.site_table import site_table
from nas_attn.errors import FileError, SpaceError
from nas_attn.model.build import AttentionModel, build_model
from nas_attn.model.core import core_shapes
from nas_attn.model.file import load_model, save_model
from nas_attn.placement import Placement
from nas_attn.run.default_shape import at_default_shape
from nas_attn.run.request import bind, read_settings
from nas_attn.space.bound import BoundSpace
from nas_attn.space.rewritten import notes_on_values
from nas_attn.space.search_space import SearchSpace
from nas_attn.testing.cases import Case, candidates, cases_of, randomised

SHAPE = {"num_classes": 10, "in_channels": 1, "image_size": 8}
RECORD = {"mean": (0.5,), "std": (0.5,), "class_names": tuple("abcdefghij")}


def bound(name: str = "densenet_attn") -> BoundSpace:
    space = SearchSpace.load(name)
    return space.bind(site_table(space.backbone, **SHAPE))


def wide() -> BoundSpace:
    """Return the default space with kernels and groups that its small maps cannot use."""
    content = SearchSpace.load("densenet_attn").to_dict()
    content["attentions"]["cbam"]["kernel_size"] = [3, 7]
    content["attentions"]["gam"] |= {
        "kernel_size": [3, 7], "groups": [1, 4], "branches": ["both", "channel", "spatial"],
    }  # fmt: skip
    space = SearchSpace.from_dict(content, "wide")
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


def test_a_space_counts_each_network_once() -> None:
    space = wide()
    assert [len(decision.distinct) for decision in space.decisions] == [26, 26, 26, 16, 16]
    assert space.n_placements == 26**3 * 16**2 == 4_499_456


def test_the_default_space_has_no_network_twice() -> None:
    space = bound()
    assert notes_on_values(space) == []
    n_choices = 1 + 2 + 2 * 2 * 3 + 2 * 2 * 2 + 2  # none, se, cbam, gam, triple
    assert [len(decision.distinct) for decision in space.decisions] == [n_choices] * 5


@pytest.mark.parametrize("name", ["densenet_attn", "lenet_attn"])  # images as they are, and enlarged ones
def test_the_list_of_spaces_counts_as_a_search_does(name: str, tmp_path: Path) -> None:
    searched = bind(read_settings({"space": name, "out": str(tmp_path / "run")}))
    listed = at_default_shape(SearchSpace.load(name)).bound
    assert listed.table == searched.bound.table
    assert listed.n_placements == searched.bound.n_placements


def test_a_space_says_which_values_are_built_as_others() -> None:
    assert notes_on_values(wide()) == [
        "groups=4 of gam is built, and counted, as 2 at transition1, transition2: a group there would have too few "
        "channels.",
        *(
            f"kernel_size=7 of {name} is built, and counted, as 3 at transition2, denseblock3: the map there can "
            "fill no more."
            for name in ("cbam", "gam")
        ),
    ]


def test_groups_of_gam_have_two_hidden_channels_in_a_space_and_those_written_in_a_placement() -> None:
    space = wide()
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


def test_only_a_larger_kernel_of_the_same_channels_has_a_core(tmp_path: Path) -> None:
    of_an_older_version(tmp_path / "best.json", says=7)
    model = load_model(tmp_path / "best.json")
    key, own = "attention.denseblock3.cbam.spatial.conv.weight", (1, 2, 3, 3)
    assert tuple(model.state_dict()[key].shape) == own
    with_core = [(1, 2, 7, 7), (1, 2, 5, 3), own]
    without = [(1, 2, 6, 6), (2, 2, 7, 7), (1, 4, 7, 7), (1, 2, 1, 1), (1, 2, 7), (1, 2, 7, 7, 1)]
    assert [core_shapes(model, {key: shape})[key] for shape in with_core] == [own] * 3
    assert [core_shapes(model, {key: shape})[key] for shape in without] == without
    assert core_shapes(model, {"backbone.absent": (1, 2, 7, 7)}) == {"backbone.absent": (1, 2, 7, 7)}


@pytest.mark.parametrize(
    ("name", "size", "written", "says"),
    [
        ("fca", (2, 2), {}, "8 of its 16 frequencies vanish on a map of 2x2"),
        ("fca", (2, 3), {}, "3 of its 16 frequencies vanish on a map of 2x3"),
        ("fca", (3, 3), {}, None),
        ("non_local", (3, 3), {"subsample": True}, "the pooling by 2 leaves one key"),
        ("non_local", (4, 2), {"subsample": True}, None),
        ("gc", (4, 4), {"reduction": 16}, "the layer norm over a hidden width of 1 is constant"),
        ("double_attention", (4, 4), {"descriptors": 1}, "the softmax over one descriptor is 1"),
        ("double_attention", (4, 4), {"descriptors": 1, "softmax": "pixels"}, None),
        ("sk", (2, 2), {"groups": 1, "n_branches": 4}, "the kernels of 3 of its 4 branches meets the map"),
        ("sk", (4, 4), {"groups": 1, "n_branches": 3}, None),
        ("cot", (2, 2), {"kernel_size": 5}, "only the 3x3 core of its kernels of 5x5 meets the map"),
        ("cot", (3, 3), {"kernel_size": 5}, None),
        ("gam", (2, 2), {"padding_mode": "replicate"}, "beyond 3x3 its kernels of 7x7 see the map's border again"),
    ],
)
def test_what_has_no_effect_on_a_map_is_said(
    name: str, size: tuple[int, int], written: dict[str, Any], says: str | None
) -> None:
    entry, context = ATTENTIONS[name], Context(height=size[0], width=size[1])
    found = entry.unused(16, resolve_options(entry, 16, written, context), context)
    assert says in found if says and found else found is None and says is None


@pytest.mark.parametrize("size", [(2, 2), (2, 3), (3, 2), (3, 3), (4, 4)])
def test_frequencies_that_are_said_to_vanish_are_zero_and_no_others(size: tuple[int, int]) -> None:
    for name, pairs in FREQUENCIES.items():
        rows, columns = (waves([pair[axis] for pair in pairs], size[axis]) for axis in (0, 1))
        flat = (rows[:, :, None] * columns[:, None, :]).abs().amax((1, 2)) < 1e-9
        found = vanishing(name, Context(height=size[0], width=size[1]))
        assert found == [pair for pair, is_flat in zip(pairs, flat.tolist(), strict=True) if is_flat], name


def test_frequencies_that_all_vanish_are_refused() -> None:
    with pytest.raises(SpaceError, match=r"a frequency must not vanish .*=bot4 do on 2x2; .*=top4\."):
        require_fit("fca", 16, context=Context(height=2, width=2), frequencies="bot4")


def test_values_that_make_one_function_are_one_choice() -> None:
    one_key, of_one = Context(height=3, width=3), {"heads": 16}
    both = [resolve_options(ATTENTIONS["non_local"], 16, {"subsample": True, "scale": scale}, one_key)
            for scale in (True, False)]  # fmt: skip
    assert both[0] == both[1]
    scores = ("dot", "scaled_dot", "unscaled_dot")
    assert len({str(resolve_options(ATTENTIONS["self_attention"], 16, of_one | {"score": s})) for s in scores}) == 1
    assert resolve_options(ATTENTIONS["self_attention"], 16, {"heads": 8, "score": "unscaled_dot"})["score"] != "dot"


def test_no_two_choices_on_a_small_map_are_one_function() -> None:
    """Random weights: choices with parameters of the same shapes must differ in their outputs."""
    for entry in ATTENTIONS.values():
        for size in ((2, 2), (3, 3)):
            seen: dict[tuple[Any, ...], list[tuple[Any, torch.Tensor]]] = {}
            base = next((case for case in cases_of(entry, 16) if case.fits(size)), None)
            for case in _one_option_changed(base, size) if base else ():
                resolved = resolve_options(entry, 16, case.options, case.context(size))
                module = randomised(case.construct(resolved, size)).eval()
                shapes = tuple((name, tuple(value.shape)) for name, value in module.state_dict().items())
                output = module(*case.inputs(2, size)).detach()
                for other, theirs in seen.setdefault(shapes, []):
                    same = torch.allclose(output, theirs, rtol=1e-4, atol=1e-6)
                    assert resolved == other or not same, (entry.name, size, resolved, other)
                seen[shapes].append((resolved, output))


def _one_option_changed(base: Case, size: tuple[int, int]) -> list[Case]:
    cases = [base]
    for option in base.entry.options:
        if option.type == "float":  # of the training alone, or too small to be seen
            continue
        cases += [replace(base, options={**base.options, option.name: value}) for value in candidates(option)]
    return [case for case in cases if case.fits(size)]


def test_a_network_that_is_built_with_another_value_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    placement = Placement.from_dict({"denseblock3": {"name": "cbam", "kernel_size": 9, "reduction": 64}})
    for _ in range(2):
        model = build_model(SearchSpace.load("densenet_attn").backbone, placement, **SHAPE, seed=0)
    assert model.remarks == (
        "kernel_size=9 of cbam is built, and counted, as 3 at denseblock3: the map there can fill no more.",
        "cbam(reduction=64) has a hidden width of 1 at denseblock3: so one number decides.",
    )
    assert [record.getMessage() for record in caplog.records] == list(model.remarks)


def test_reductions_of_one_width_are_said_to_be_one_choice() -> None:
    record = SearchSpace.load("densenet_attn").to_dict()
    record["sites"] = [{"match": ["denseblock3"], "attentions": ["se"]}]
    record["attentions"] = {"se": {"reduction": [4, 20, 21]}}
    space = SearchSpace.from_dict(record)
    bound_here = space.bind(site_table(space.backbone, **SHAPE))
    assert notes_on_values(bound_here) == [
        "reduction=20, 21 of se are one choice at denseblock3: their hidden width is the same."
    ]
    assert bound_here.n_placements == 3
