"""The rules of a search space that are stated in numbers: limits, costs, nearest values, names."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from typing import Any

import pytest
from engine import small_space
from site_tables import densenet_table, make_site, make_table, resnet_table

import nas_attn.model
import nas_attn.space
import nas_attn.study
from nas_attn.attention.catalog import attention_entry
from nas_attn.attention.options import context_at
from nas_attn.errors import SpaceError
from nas_attn.placement import NONE, Attention, Convolution, Placement, Site
from nas_attn.space.bound import BoundSpace
from nas_attn.space.file import Limits, find_space, shown
from nas_attn.space.fit import (
    Cost,
    cost_at,
    entry_cost,
    misfit,
    placement_cost,
    refuse_few_logits,
    resolve_at,
    resolve_placement,
)
from nas_attn.space.patterns import position_of
from nas_attn.space.published import load_published
from nas_attn.space.search_space import SearchSpace
from nas_attn.study.pace import Pace
from nas_attn.study.storage.reading import StoredTrial

ONE_SITE: dict[str, Any] = {
    "title": "One site",
    "sites": [{"match": ["transition1"], "attentions": ["se"]}],
    "attentions": {"se": {"reduction": [4, 8]}},
}


WORKERS = {Pace, StoredTrial}
"""Dataclasses that are no records: one measures, the other is filled while it is read."""


def space(**changes: Any) -> SearchSpace:
    """Return a space of one site: none, and SE with two reductions."""
    return SearchSpace.from_dict({**ONE_SITE, **changes}, "my.toml")


def bind(**changes: Any) -> BoundSpace:
    """Return that space over the sites of a DenseNet."""
    return space(**changes).bind(densenet_table())


def records_of(*packages: Any) -> list[type]:
    """Return the public dataclasses of packages."""
    names = [
        f"{package.__name__}.{found.name}" for package in packages for found in pkgutil.iter_modules(package.__path__)
    ]
    modules = [importlib.import_module(name) for name in [*names, "nas_attn.statistics", "nas_attn.records"]]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    return sorted(
        (value for value in found - WORKERS if is_dataclass(value) and value.__name__[0] != "_"),
        key=lambda c: c.__name__,
    )


@pytest.mark.parametrize("record", records_of(nas_attn.space, nas_attn.study, nas_attn.model), ids=lambda c: c.__name__)
def test_a_record_never_changes(record: type):
    with pytest.raises(FrozenInstanceError):
        setattr(object.__new__(record), fields(record)[0].name, None)


def test_a_limit_is_what_may_just_be_reached():
    placement = bind().everywhere("se")
    cost = bind().cost(placement)
    for unit, limit in (("max_params", cost.n_parameters), ("max_macs", cost.n_macs)):
        assert bind(limits={unit: limit}).check(placement) is None
        assert f"{unit} is {limit - 1:,}." in bind(limits={unit: limit - 1}).check(placement)


@pytest.mark.parametrize(
    ("asked", "kept"), [((None, None), (10, 20)), ((5, 30), (5, 20)), ((15, 15), (10, 15)), ((10, 20), (10, 20))]
)
def test_of_two_limits_the_smaller_one_counts(asked, kept):
    limits = Limits(max_params=10, max_macs=20).tightened(*asked)
    assert (limits.max_params, limits.max_macs) == kept
    assert Limits().tightened(None, 7) == Limits(max_params=None, max_macs=7)


def test_the_cheapest_and_the_dearest_are_decided_by_parameters_then_by_multiply_adds():
    costs = {placement: bind().cost(placement) for placement in bind().enumerate()}
    order = sorted(costs, key=lambda placement: (costs[placement].n_parameters, costs[placement].n_macs))
    assert (bind().cheapest(), bind().dearest()) == (order[0], order[-1])
    assert bind().cheapest() == next(bind().enumerate()) == NONE
    assert bind().parameter_range() == (costs[order[0]].n_parameters, costs[order[-1]].n_parameters)
    free = bind(
        sites=[{"match": ["transition1"], "attentions": ["cbam"]}],
        attentions={"cbam": {"kernel_size": [3, 7], "branches": ["spatial"]}},
    )
    sizes = {placement: free.cost(placement).n_parameters for placement in free.enumerate()}
    assert free.dearest() == max(sizes, key=lambda placement: sizes[placement])


def test_multiply_adds_decide_between_equal_parameters():
    bound = bind()
    decision = bound.decisions[0]
    equal = {
        choice: replace(placed, cost=Cost(7, macs))
        for macs, (choice, placed) in zip((2, 3, 1), decision.placed_choices.items(), strict=True)
    }
    tied = replace(bound, decisions=(replace(decision, placed_choices=equal),))
    placements = list(tied.enumerate())
    assert (tied.cheapest(), tied.dearest()) == (placements[2], placements[1])


def test_the_cost_of_an_attention_that_the_space_does_not_have_is_known_too():
    table = densenet_table()
    placement = Placement({"denseblock1": Attention("se", {"reduction": 2})})
    extra = bind().cost(placement) - Cost(table.n_parameters, table.n_macs)
    assert extra == Cost(2 * 64 * 32 + 32 + 64, 2 * 64 * 32), "two layers 64 -> 32 -> 64 with biases"
    assert placement_cost(table, placement) == bind().cost(placement)


def test_a_choice_knows_what_it_adds_to_the_network():
    bound = bind(sites=[{"match": ["denseblock*", "transition1"], "attentions": ["se"], "share": "all"}])
    bare = bound.cost(NONE)
    for choice, placed in bound.decisions[0].placed_choices.items():
        assert bound.cost(Placement(dict(placed.attentions))) - bare == placed.cost, choice


def test_costs_add_and_subtract_by_unit():
    assert Cost(5, 70) + Cost(1, 20) == Cost(6, 90)
    assert Cost(5, 70) - Cost(1, 20) == Cost(4, 50)


def conv_site(**changes: Any) -> Site:
    """Return a site that replaces a 3x3 convolution 8 -> 16 with a bias, a norm and an input of 7x5 pixels."""
    conv = Convolution(**{"in_channels": 8, "out_channels": 16, "norm": "bn", "stride": 2, **changes})
    return Site("conv1", "conv", "conv1", 16, 7, 5, "stage1", replaced=conv)


def taken_off(site: Site, name: str) -> Cost:
    """Return the cost of the module alone, less what it costs in the place of the convolution."""
    attention = resolve_at(site, Attention(name, {"groups": 1} if name == "sk" else {}))
    alone = entry_cost(attention_entry(name), site.channels, attention.options, context_at(site, 10))
    return alone - cost_at(site, attention, 10)


@pytest.mark.parametrize(("name", "norm"), [("deform", 0), ("sk", 2 * 16)])
@pytest.mark.parametrize(
    ("changes", "weights", "biases"),
    [({}, 9 * 8 * 16, 16), ({"bias": False}, 9 * 8 * 16, 0), ({"groups": 4}, 9 * 2 * 16, 16)],
)
def test_a_replaced_convolution_is_taken_off_with_its_bias_and_the_norm_that_goes(name, norm, changes, weights, biases):
    assert attention_entry(name).replaces_norm is (norm > 0)
    n_pixels = 4 * 3
    assert taken_off(conv_site(**changes), name) == Cost(weights + biases + norm, weights * n_pixels)


def test_a_convolution_without_a_norm_has_none_to_take_off():
    assert taken_off(conv_site(norm=None), "sk").n_parameters == 9 * 8 * 16 + 16


@pytest.mark.parametrize("start", ["own", "identity"])
def test_concat_and_identity_add_their_own_parameters(start):
    site = make_site("denseblock1", 64, 8, "stage1")
    gate = cost_at(site, resolve_at(site, Attention("se")), 10)
    concat = cost_at(site, resolve_at(site, Attention("se", {}, "concat", start)), 10)
    share = int(start == "identity")
    assert concat - gate == Cost(2 * 64 * 64 + 64 + share, 2 * 64 * 64 * 8 * 8)
    residual = cost_at(site, resolve_at(site, Attention("se", {}, "residual", start)), 10)
    assert residual - gate == Cost(share, 0)


def test_a_wiring_and_a_start_that_do_not_fit_are_named_with_those_that_do():
    merge = Site("stage1.block1.merge", "merge", "layer1.0", 16, 8, 8, "stage1")
    output = make_site("denseblock1", 64, 8, "stage1")
    assert misfit(output, Attention("se", {}, "addend")) == (
        "Wiring 'addend' does not fit site 'denseblock1': the site must be of kind shortcut, but is of kind 'output'; "
        "wirings that fit: gate, residual, concat."
    )
    assert "wirings that fit: gate." in misfit(merge, Attention("aff", {}, "concat"))
    assert misfit(merge, Attention("aff", {}, "gate", "identity")) is None
    assert misfit(conv_site(), Attention("deform", {}, "gate", "identity")).endswith("; the start that fits: own.")
    with pytest.raises(SpaceError, match=r"^Wiring 'addend' does not fit site 'denseblock1'"):
        resolve_at(output, Attention("se", {}, "addend"))


def test_an_attention_that_needs_two_logits_is_refused_with_one():
    site = make_site("denseblock1", 64, 8, "stage1")
    refuse_few_logits(resolve_at(site, Attention("triple", {"softmax": "spatial"})), 1, "Here")
    needs_two = resolve_at(site, Attention("triple", {"softmax": "channel"}))
    refuse_few_logits(needs_two, 2, "Here")
    with pytest.raises(
        SpaceError, match=r"^Here: triple.* needs a network with at least 2 logits, but this one has 1:"
    ):
        refuse_few_logits(needs_two, 1, "Here")
    table = replace(make_table(site), num_classes=1)
    with pytest.raises(SpaceError, match=r"^At site 'denseblock1': triple.* at least 2 logits"):
        resolve_placement(table, Placement({"denseblock1": needs_two}))


def test_plain_addition_at_a_merge_is_left_out_of_a_placement():
    merge = Site("stage1.block1.merge", "merge", "layer1.0", 16, 8, 8, "stage1")
    table = make_table(merge, make_site("stage1.block1.output", 16, 8, "stage1"))
    placement = Placement({"stage1.block1.merge": Attention("daf"), "stage1.block1.output": Attention("se")})
    assert list(resolve_placement(table, placement)) == ["stage1.block1.output"]


def test_the_number_of_logits_is_stated_or_one_per_class_or_one():
    assert space().n_logits == 10
    assert space(recipe={"one_logit": True}).n_logits == 1
    assert SearchSpace.from_dict({**ONE_SITE, "recipe": {"one_logit": True}}, num_classes=2).n_logits == 2
    assert SearchSpace.from_dict(ONE_SITE, num_classes=3).n_logits == 3


def test_the_digest_is_of_the_content_without_the_title():
    assert space(title="Another").digest == space().digest
    assert space(limits={"max_params": 9}).digest != space().digest
    assert len(space().digest) == 64
    assert space().to_dict().keys() == {"title", "sites", "attentions"}, "empty tables are left out"


def test_a_space_without_a_backbone_needs_the_sites_of_a_network():
    with pytest.raises(SpaceError, match=r"^my\.toml names no backbone: add \[backbone\], or pass the sites "):
        _ = space().bound
    own = SearchSpace.from_dict(ONE_SITE, table=densenet_table())
    assert own.bound.table == densenet_table()
    assert (own.backbone, own.in_channels) == ({}, 3)
    assert SearchSpace.load("resnet18_attn").in_channels == 3
    assert own.check(own.placement({"transition1.attention": "none"})) is None


def test_the_images_of_the_data_decide_the_size_of_the_maps():
    record = {**ONE_SITE, "backbone": {"name": "densenet", "stem": "small"}}
    small = SearchSpace.from_dict({**record, "data": {"image_size": 16}}, in_channels=1)
    assert (small.bound.table.image_size, small.bound.table.in_channels) == (16, 1)
    assert SearchSpace.from_dict({**record, "data": {"image_size": 16}}, image_size=24).bound.table.image_size == 24


@pytest.mark.parametrize(
    ("stated", "chosen"),
    [([2, 4, 8], 8), ([64, 16, 2], 16), ([8, 32], 8), ([32, 8], 8), ([64, 32], 32)],
)
def test_a_baseline_takes_the_default_or_the_nearest_value(stated, chosen):
    bound = space(attentions={"se": {"reduction": stated}}).bind(make_table(make_site("transition1", 64, 4, "stage1")))
    assert bound.everywhere("se")["transition1"].options["reduction"] == chosen


def test_a_baseline_takes_the_first_word_where_the_default_is_left_out():
    bound = bind(
        sites=[{"match": ["transition1"], "attentions": ["cbam"]}],
        attentions={"cbam": {"branches": ["spatial", "channel"]}},
    )
    assert bound.everywhere("cbam")["transition1"].options["branches"] == "spatial"


def test_a_missing_parameter_lists_twelve_values_and_counts_the_rest():
    bound = space(attentions={"se": {"reduction": list(range(1, 15))}}).bind(densenet_table())
    with pytest.raises(SpaceError) as refusal:
        bound.placement({"transition1.attention": "se"})
    assert str(refusal.value).endswith("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 2 more.")
    bound = space(attentions={"se": {"reduction": list(range(1, 13))}}).bind(densenet_table())
    with pytest.raises(SpaceError, match=r"11, 12\.$"):
        bound.placement({"transition1.attention": "se"})


def test_a_placement_with_more_than_the_space_has_no_parameters():
    inside = bind().everywhere("se")
    assert bind().params(inside) == {"transition1.attention": "se", "transition1.se.reduction": 8}
    assert bind().params(Placement({**inside.attentions, "denseblock1": Attention("se")})) is None


def test_parameters_without_effect_have_their_first_value():
    assert bind().params(NONE) == {"transition1.attention": "none", "transition1.se.reduction": 4}


def test_the_last_stage_is_that_of_the_last_site_of_the_space():
    bound = bind(sites=[{"match": ["denseblock1", "transition1", "denseblock2"], "attentions": ["se"]}])
    assert set(dict(bound.priors())["se in the last stage"]) == {"transition1", "denseblock2"}
    two = [
        {"match": ["denseblock1", "denseblock2"], "attentions": ["se"], "share": "all"},
        {"match": ["transition1"], "attentions": ["se"]},
    ]
    assert "se in the last stage" not in dict(bind(sites=two).priors()), "one decision covers the stage before too"


def test_equal_names_of_two_tables_get_their_numbers_and_single_ones_do_not():
    rules = [
        {"match": ["stage1.block*.output"], "attentions": ["se"], "share": "stage"},
        {"match": ["stage*.block*.branch"], "attentions": ["se"], "share": "stage"},
    ]
    bound = SearchSpace.from_dict({**ONE_SITE, "sites": rules, "attentions": {}}).bind(resnet_table())
    names = [decision.name for decision in bound.decisions]
    assert names == ["stage1_1", "stage1_2", "stage2", "stage3", "stage4"]


@pytest.mark.parametrize(
    ("pattern", "name"), [("stage*.block*.pre", "pre"), ("every block", "output"), ("stage2.every block", "output")]
)
def test_a_position_is_called_by_the_last_part_of_its_pattern(pattern, name):
    assert position_of(pattern) == name


def test_sites_outside_a_block_choose_their_position_under_the_name_that_they_share():
    table = make_table(*(make_site(f"body.late.{last}", 64, 8, "stage1") for last in ("first", "second")))
    rule = {"one_of": ["body.late.first", "body.late.second"], "attentions": ["se"]}
    bound = SearchSpace.from_dict({**ONE_SITE, "sites": [rule], "attentions": {}}).bind(table)
    assert bound.choices == {"body.late.attention": ("none", "se"), "body.late.position": ("first", "second")}


@pytest.mark.parametrize(
    ("where", "backbone", "lists"),
    [
        ("my.toml", {"backbone": "densenet"}, "nas-attn sites my.toml"),
        ("my.toml", {}, "nas-attn sites densenet"),
        ("the space", {"backbone": "densenet"}, "nas-attn sites densenet"),
    ],
)
def test_a_pattern_without_a_site_names_the_command_that_lists_those_of_this_network(where, backbone, lists):
    table = make_table(*(make_site(f"layer{number}", 64, 8, "stage1") for number in range(30)))
    record = {**ONE_SITE, **backbone, "sites": [{"match": ["nothing"], "attentions": ["se"]}]}
    with pytest.raises(SpaceError, match=rf"\(`{lists}` lists them\)\.$"):
        SearchSpace.from_dict(record, where).bind(table)


def test_a_published_network_has_the_sites_of_its_own_image_size():
    network = replace(load_published("cbam_resnet18"), image_size=64)
    assert network.table.image_size == 64


def test_a_path_is_shown_from_the_working_directory_if_it_lies_inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside = tmp_path / "spaces" / "mine.toml"
    assert shown(inside) == "spaces/mine.toml"
    assert shown(tmp_path.parent / "other.toml") == str(tmp_path.parent / "other.toml")


def test_a_space_is_found_by_name_then_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("")
    assert find_space("mine.toml").name == "mine.toml"
    assert find_space("resnet18_attn").is_file()
    with pytest.raises(
        SpaceError, match=r"^A space file must exist, but there is no folder 'no' for 'no/mine\.toml'\.$"
    ):
        find_space("no/mine.toml")
    with pytest.raises(SpaceError, match=r"^Unknown space '.*/mien\.toml'.*mine\.toml"):
        find_space(tmp_path / "mien.toml")


def test_an_attention_everywhere_has_its_default_word_wherever_the_file_lists_it():
    for values in (["channel", "both"], ["both", "channel"]):
        rules = [{"match": ["denseblock*"], "attentions": ["cbam"]}]
        bound = small_space(sites=rules, attentions={"cbam": {"branches": values}})
        chosen = bound.everywhere("cbam")
        assert {attention.options["branches"] for attention in chosen.attentions.values()} == {"both"}
