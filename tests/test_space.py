"""A space bound to the sites of a backbone: placements, keys, costs, limits and priors."""

from __future__ import annotations

import itertools
import pickle
import time
import timeit
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from site_tables import densenet_table, make_site, make_table, resnet_table

from nas_attn.attention.catalog import attention_entry
from nas_attn.attention.entry import Context
from nas_attn.attention.options import resolve_options
from nas_attn.errors import SpaceError
from nas_attn.placement import Attention, Placement
from nas_attn.space.bound import BoundSpace
from nas_attn.space.fit import Cost, placement_cost
from nas_attn.space.patterns import matches
from nas_attn.space.search_space import SearchSpace

SMALL: dict[str, Any] = {
    "title": "Small enough to count by hand",
    "sites": [{"match": ["denseblock1", "transition1"], "attentions": ["se", "cbam"]}],
    "attentions": {"se": {"reduction": [4, 8]}, "cbam": {"kernel_size": [3, 7], "branches": ["both", "channel"]}},
}


def bind(record: dict[str, Any] = SMALL, **changes: Any) -> BoundSpace:
    return SearchSpace.from_dict({**record, **changes}).bind(densenet_table())


def shipped(name: str) -> BoundSpace:
    return SearchSpace.load(name).bind(densenet_table() if name == "densenet_attn" else resnet_table())


BOUND = {name: shipped(name) for name in ("densenet_attn", "resnet18_attn")}
WIRED = bind(
    sites=[
        {"match": ["denseblock*"], "attentions": ["se", "cbam", "triple"], "wiring": "concat", "share": "stage"},
        {"match": ["transition*"], "attentions": ["se", "gam"], "wiring": "residual", "share": "all"},
    ],
    attentions={
        "se": {"reduction": [3, 4, 5, 6, 16], "min_hidden": [1, 8]},
        "cbam": {"branches": ["both", "channel", "spatial"], "order": ["channel_first", "spatial_first"]},
        "gam": {"reduction": 4, "kernel_size": [1, 3], "padding_mode": ["zeros", "replicate"], "groups": [1, 2]},
        "triple": {"hidden": ["auto", 64], "aux_weight": [0.1, 1]},
    },
)
SPACES = [*BOUND.values(), WIRED]


def params_of(bound: BoundSpace) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({name: st.sampled_from(values) for name, values in bound.choices.items()})


@pytest.mark.parametrize(
    ("pattern", "name", "covers"),
    [
        ("denseblock*", "denseblock12", True),
        ("denseblock*", "denseblock1.layer1", False),
        ("denseblock**", "denseblock1.layer1", True),
        ("**.branch", "stage1.block1.branch", True),
        ("*.branch", "stage1.block1.branch", False),
        ("stage*.block1.*", "stage3.block1.output", True),
        ("stage1", "stage10", False),
        ("stage1.block1", "stage1xblock1", False),
    ],
)
def test_one_star_stays_within_a_dot_and_two_cross(pattern, name, covers):
    assert matches(pattern, name) is covers


def test_parameters_are_named_after_site_attention_and_option():
    assert bind().choices == {
        f"{site}.{name}": values
        for site in ("denseblock1", "transition1")
        for name, values in {
            "attention": ("none", "se", "cbam"),
            "se.reduction": (4, 8),
            "cbam.kernel_size": (3, 7),
            "cbam.branches": ("both", "channel"),
        }.items()
    }


def test_a_single_value_is_fixed_and_no_parameter():
    bound = bind(attentions={"se": {"reduction": 4}, "cbam": {"kernel_size": [3]}})
    assert list(bound.choices) == ["denseblock1.attention", "transition1.attention"]
    placement = bound.placement({"denseblock1.attention": "se", "transition1.attention": "cbam"})
    assert placement["denseblock1"].options["reduction"] == 4
    assert placement["transition1"].options["kernel_size"] == 3


@pytest.mark.parametrize(
    ("share", "names"),
    [
        ("site", ["denseblock1", "transition1", "denseblock2", "transition2", "denseblock3"]),
        ("stage", ["stage1", "stage2", "stage3"]),
        ("all", ["all"]),
    ],
)
def test_a_shared_choice_is_one_parameter(share, names):
    bound = bind(sites=[{"match": ["denseblock*", "transition*"], "attentions": ["se"], "share": share}], attentions={})
    assert list(bound.choices) == [f"{name}.attention" for name in names]
    everywhere = bound.placement(dict.fromkeys(bound.choices, "se"))
    assert set(everywhere) == {"denseblock1", "transition1", "denseblock2", "transition2", "denseblock3"}


def test_groups_of_one_name_are_told_apart_by_their_table():
    names = [name for name in BOUND["resnet18_attn"].choices if name.endswith(".attention")]
    assert names == [f"stage{stage}_{table}.attention" for table in (1, 2) for stage in (1, 2, 3, 4)]


def test_auto_is_decided_by_the_channels_of_each_site():
    bound = bind(
        sites=[{"match": ["denseblock1", "transition1"], "attentions": ["triple"], "share": "all"}],
        attentions={"triple": {"hidden": ["auto", 16]}},
    )
    assert bound.choices["all.triple.hidden"] == ("auto", 16)
    placement = bound.placement({"all.attention": "triple", "all.triple.hidden": "auto"})
    assert [attention.options["hidden"] for attention in placement.attentions.values()] == [64, 32]


def test_equal_models_have_one_key_whatever_was_chosen_without_effect():
    bound = bind()
    base = {name: values[0] for name, values in bound.choices.items()}
    chosen = base | {"denseblock1.attention": "cbam", "denseblock1.cbam.branches": "channel"}
    keys = {
        bound.placement(chosen | {"denseblock1.cbam.kernel_size": size, "denseblock1.se.reduction": r}).key
        for size in (3, 7)
        for r in (4, 8)
    }
    assert len(keys) == 1
    by_hand = Placement.from_dict({"denseblock1": {"name": "cbam", "branches": "channel", "kernel_size": 5}})
    assert bound.resolve(by_hand).key in keys


def test_the_count_is_of_distinct_placements():
    bound = bind()
    assert bound.n_placements == (1 + 2 + 3) ** 2  # cbam: two kernels, or none for the channel branch alone
    placements = list(bound.enumerate())
    assert len(placements) == len({placement.key for placement in placements}) == 36
    everything = itertools.product(*bound.choices.values())
    found = {bound.placement(dict(zip(bound.choices, values, strict=True))).key for values in everything}
    assert found == {placement.key for placement in placements}


def test_enumeration_is_lazy():
    first = list(itertools.islice(BOUND["densenet_attn"].enumerate(), 3))
    assert len({placement.key for placement in first}) == 3


@pytest.mark.parametrize("bound", SPACES, ids=["densenet", "resnet18", "wired"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_parameters_and_placements_are_inverse(bound, data):
    placement = bound.placement(data.draw(params_of(bound)))
    params = bound.params(placement)
    assert params is not None
    assert list(params) == list(bound.choices)
    assert all(value in bound.choices[name] for name, value in params.items())
    assert bound.placement(params) == placement
    assert bound.resolve(placement) == placement
    assert Placement.from_json(placement.to_json()).key == placement.key


@pytest.mark.parametrize("bound", SPACES, ids=["densenet", "resnet18", "wired"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_costs_add_up_and_lie_between_the_cheapest_and_the_dearest(bound, data):
    placement = bound.placement(data.draw(params_of(bound)))
    cost = bound.cost(placement)
    assert cost == placement_cost(bound.table, placement)
    low, high = bound.parameter_range()
    assert low <= cost.n_parameters <= high


def test_the_cost_is_the_network_plus_the_closed_forms():
    bound = bind()
    placement = Placement.from_dict({"denseblock1": {"name": "se", "reduction": 4}, "transition1": {"name": "cbam"}})
    se, cbam, context = attention_entry("se"), attention_entry("cbam"), Context(num_classes=10)
    expected = 20_000 + se.n_parameters(64, resolve_options(se, 64, {"reduction": 4}), context)
    expected += cbam.n_parameters(32, resolve_options(cbam, 32, {}), context)
    macs = 1_000_000 + se.n_macs(64, 8, 8, resolve_options(se, 64, {"reduction": 4}), context)
    macs += cbam.n_macs(32, 4, 4, resolve_options(cbam, 32, {}), context)
    assert bound.cost(placement) == Cost(expected, macs)


def test_concat_adds_its_convolution():
    bound = bind()
    gate = bound.cost(Placement({"transition1": Attention("se")}))
    concat = bound.cost(Placement({"transition1": Attention("se", wiring="concat")}))
    assert concat.n_parameters - gate.n_parameters == 2 * 32 * 32 + 32
    assert concat.n_macs - gate.n_macs == 2 * 32 * 32 * 4 * 4


def test_cheapest_and_dearest_are_those_of_a_full_search():
    bound = bind()
    costs = [bound.cost(placement).n_parameters for placement in bound.enumerate()]
    assert bound.parameter_range() == (min(costs), max(costs))
    assert bound.cheapest() == Placement()


def test_what_lies_outside_the_space_has_no_parameters():
    bound = bind()
    assert bound.params(Placement.from_dict({"denseblock1": {"name": "se", "reduction": 2}})) is None
    assert bound.params(Placement.from_dict({"denseblock3": {"name": "se", "reduction": 4}})) is None
    assert bound.params(Placement.from_dict({"nowhere": {"name": "se"}})) is None
    assert (
        bound.params(Placement.from_dict({"denseblock1": {"name": "se", "reduction": 4, "wiring": "concat"}})) is None
    )
    shared = bind(
        sites=[{"match": ["denseblock1", "transition1"], "attentions": ["se"], "share": "all"}], attentions={}
    )
    assert shared.params(Placement({"denseblock1": Attention("se")})) is None


def test_parameters_that_are_missing_or_unknown_are_named():
    bound = bind()
    params = bound.params(Placement())
    assert params is not None
    with pytest.raises(
        SpaceError, match=r"Parameter 'transition1\.attention' is missing: set it to one of none, se, cbam\."
    ):
        bound.placement({"denseblock1.attention": "none"})
    with pytest.raises(SpaceError, match=r"'denseblock1\.attention' 'cbma': did you mean 'cbam'\?"):
        bound.placement(params | {"denseblock1.attention": "cbma"})
    with pytest.raises(SpaceError, match=r"'denseblock1\.se\.reduction' '5'.*Known: 4, 8\."):
        bound.placement(params | {"denseblock1.attention": "se", "denseblock1.se.reduction": 5})
    with pytest.raises(SpaceError, match=r"'denseblock1\.se\.reduction' '\[4\]'.*Known: 4, 8\."):
        bound.placement(params | {"denseblock1.attention": "se", "denseblock1.se.reduction": [4]})


def test_a_placement_that_cannot_be_built_is_not_resolved():
    bound = bind()
    with pytest.raises(SpaceError, match=r"Unknown site 'denseblok1'.*did you mean 'denseblock1'\?"):
        bound.resolve(Placement({"denseblok1": Attention("se")}))
    with pytest.raises(SpaceError, match=r"got reduction=64, channels=32"):
        bound.resolve(Placement({"transition1": Attention("se", {"reduction": 64})}))
    with pytest.raises(SpaceError, match=r"Unknown attention 'es' at site 'transition1'"):
        bound.resolve(Placement({"transition1": Attention("es")}))


def test_addend_is_written_as_the_residual_that_it_is():
    record = {
        "title": "t",
        "sites": [{"match": ["**.shortcut"], "attentions": ["se"], "wiring": "addend", "share": "all"}],
    }
    bound = SearchSpace.from_dict(record).bind(resnet_table())
    assert {attention.wiring for attention in bound.everywhere("se").attentions.values()} == {"residual"}


def test_everywhere_takes_the_default_or_the_nearest_choice():
    bound = bind(
        sites=[
            {"match": ["denseblock*"], "attentions": ["se", "cbam"], "share": "all"},
            {"match": ["transition1"], "attentions": ["cbam", "triple"]},
        ],
        attentions={"se": {"reduction": [2, 4, 8]}, "cbam": {"reduction": [4, 16]}, "triple": {"hidden": [8, 30]}},
    )
    se = bound.everywhere("se")
    assert set(se) == {"denseblock1", "denseblock2", "denseblock3"}
    assert {attention.options["reduction"] for attention in se.attentions.values()} == {8}
    cbam = bound.everywhere("cbam")
    assert len(cbam) == 4
    assert {attention.options["reduction"] for attention in cbam.attentions.values()} == {16}
    assert bound.everywhere("triple")["transition1"].options["hidden"] == 30  # "auto" is 32 there
    with pytest.raises(SpaceError, match=r"Unknown attention 'tripel' in the space: did you mean 'triple'\?"):
        bound.everywhere("tripel")


def test_priors_come_labelled_in_order_and_without_doubles():
    bound = BOUND["densenet_attn"]
    priors = dict(bound.priors())
    names = ["se", "cbam", "gam", "triple"]
    labels = ["none", *(f"{name} everywhere" for name in names), *(f"{name} in the last stage" for name in names)]
    assert list(priors) == labels
    assert set(priors["cbam in the last stage"]) == {"transition2", "denseblock3"}
    assert all(bound.params(placement) is not None for placement in priors.values())
    one_stage = bind(sites=[{"match": ["denseblock1"], "attentions": ["se"]}], attentions={})
    assert [label for label, _ in one_stage.priors()] == ["none", "se everywhere"]


@pytest.mark.parametrize(("share", "expected"), [("stage", True), ("all", False)])
def test_the_last_stage_is_a_prior_only_where_sharing_allows_it(share, expected):
    bound = bind(sites=[{"match": ["denseblock*"], "attentions": ["se"], "share": share}], attentions={})
    assert ("se in the last stage" in dict(bound.priors())) is expected


def test_priors_over_a_limit_are_left_out():
    bound = SearchSpace.load("resnet18_attn").bind(resnet_table(), max_params=11_300_000)
    assert "gam everywhere" not in dict(bound.priors())
    reason = bound.check(bound.everywhere("gam"))
    assert reason is not None
    assert "and max_params is 11,300,000." in reason


def test_a_limit_is_checked_with_numbers():
    space = SearchSpace.from_dict({**SMALL, "limits": {"max_params": 21_000}})
    bound = space.bind(densenet_table())
    assert bound.check(Placement()) is None
    reason = bound.check(Placement({"denseblock1": Attention("se", {"reduction": 4})}))
    assert reason == (
        "parameters <= max_params must hold, but the network has 22,128 parameters, and max_params is 21,000."
    )
    tighter = space.bind(densenet_table(), max_params=20_500, max_macs=1_000_100)
    assert (tighter.limits.max_params, tighter.limits.max_macs) == (20_500, 1_000_100)
    assert space.bind(densenet_table(), max_params=50_000).limits.max_params == 21_000
    small = Placement({"transition1": Attention("se", {"reduction": 8})})
    assert tighter.check(small) == (
        "multiply-adds <= max_macs must hold, but the network has 1,000,256 multiply-adds, and max_macs is 1,000,100."
    )
    with pytest.raises(SpaceError, match=r"No placement of the space meets the limits.*max_macs is 999,999\."):
        space.bind(densenet_table(), max_macs=999_999)


def test_a_placement_its_cost_and_its_check_take_less_than_a_third_of_a_millisecond():
    bound = BOUND["densenet_attn"]
    params = bound.params(bound.everywhere("gam"))
    assert params is not None
    check = timeit.Timer(lambda: bound.check(bound.placement(params)), timer=time.process_time)
    seconds = min(check.repeat(number=100, repeat=5)) / 100  # of the processor: other jobs do not count
    assert seconds < 0.3e-3


def test_a_bound_space_survives_pickle():
    again = pickle.loads(pickle.dumps(BOUND["densenet_attn"]))
    assert again.choices == BOUND["densenet_attn"].choices
    assert again.everywhere("se") == BOUND["densenet_attn"].everywhere("se")


def test_the_shipped_spaces_bind_to_the_real_networks():
    dense = SearchSpace.load("densenet_attn", in_channels=1, image_size=8).bound
    by_hand = {site.name: site for site in densenet_table().sites}
    measured = {
        site.name: replace(site, module=by_hand[site.name].module) for site in dense.table.sites if site.name in by_hand
    }
    assert measured == by_hand
    residual = SearchSpace.load("resnet18_attn").bound
    assert residual.table.image_size == 32
    assert list(residual.choices) == list(BOUND["resnet18_attn"].choices)


def test_two_names_of_one_place_are_refused():
    block = make_site("features.2", 32, 4, "stage1")
    table = make_table(replace(block, name="features"), block)
    record = {"title": "x", "backbone": "densenet", "sites": [{"match": ["**"], "attentions": ["se"]}]}
    with pytest.raises(SpaceError, match=r"'features' and 'features\.2' of own\.toml are the same place: narrow one"):
        SearchSpace.from_dict(record, "own.toml").bind(table)
