"""Wirings as a choice, tables that share a site, and the names of the decisions."""

from __future__ import annotations

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_attn.backbones.build import build_backbone
from nas_attn.backbones.site_table import site_table
from nas_attn.cost import count_macs, count_parameters
from nas_attn.errors import SpaceError
from nas_attn.model.build import build_model
from nas_attn.placement import Attention, Placement, Shape
from nas_attn.space.bound import BoundSpace
from nas_attn.space.fit import placement_cost
from nas_attn.space.search_space import SearchSpace

SHAPE = {"num_classes": 3, "in_channels": 1, "image_size": 16}
NET, SPEC = "mini_xception", {"name": "resnet18", "stem": "small"}
SHORTCUT, WIRINGS = "stage2.block1.shortcut", ["gate", "addend", "concat", "concat_three"]
CBAM = {"match": ["stage*.block*.shortcut"], "wiring": WIRINGS, "attentions": ["cbam", "se"]}


def _bound(*rules: dict, backbone: object = NET, **attentions: dict) -> BoundSpace:
    record = {"title": "t", "backbone": backbone, "sites": list(rules), "attentions": attentions}
    return SearchSpace.from_dict(record, "mine.toml").bind(site_table(backbone, **SHAPE))


BOUND = _bound(CBAM, cbam={"reduction": [4, 8]})


def test_the_wiring_is_one_parameter_of_a_site_beside_its_attention():
    own = {name: values for name, values in BOUND.choices.items() if name.startswith(f"{SHORTCUT}.")}
    assert own == {
        f"{SHORTCUT}.attention": ("none", "cbam", "se"),
        f"{SHORTCUT}.wiring": tuple(WIRINGS),
        f"{SHORTCUT}.cbam.reduction": (4, 8),
    }
    assert BOUND.n_placements == (1 + 4 * (2 + 1)) ** 4
    chosen = {name: values[0] for name, values in BOUND.choices.items()}
    chosen |= {f"{SHORTCUT}.attention": "se", f"{SHORTCUT}.wiring": "concat_three"}
    assert BOUND.suggest(optuna.trial.FixedTrial(chosen))[SHORTCUT].wiring == "concat_three"
    with pytest.raises(SpaceError, match=r"Parameter 'stage2\.block1\.shortcut\.wiring' is missing: set it to one of"):
        BOUND.placement({name: value for name, value in chosen.items() if name != f"{SHORTCUT}.wiring"})


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_placement_has_the_wirings_that_were_chosen_and_gives_its_parameters_back(data):
    params = {name: data.draw(st.sampled_from(values)) for name, values in BOUND.choices.items()}
    placement = BOUND.placement(params)
    for site in placement:
        assert placement[site].wiring == {"addend": "residual"}.get(params[f"{site}.wiring"], params[f"{site}.wiring"])
    assert BOUND.placement(BOUND.params(placement)).key == placement.key


def test_baseline_arms_gate_where_they_may():
    assert {attention.wiring for attention in BOUND.everywhere("cbam").attentions.values()} == {"gate"}
    other = _bound({**CBAM, "wiring": ["concat_three", "addend"]})
    assert {attention.wiring for attention in other.everywhere("se").attentions.values()} == {"concat_three"}


def test_one_wiring_is_no_parameter_and_a_list_of_one_is_the_same_space():
    alone, listed = (_bound({**CBAM, "wiring": wiring}) for wiring in ("concat", ["concat"]))
    assert alone.choices == listed.choices
    assert not any("wiring" in name for name in alone.choices)
    assert alone.dearest() == listed.dearest()


def test_the_position_is_chosen_beside_the_wiring():
    bound = _bound({"one_of": ["every block.pre", "every block.branch"], "wiring": ["gate", "residual"],
                    "attentions": ["eca"]})  # fmt: skip
    assert bound.n_placements == (1 + 2 * 2) ** 4
    chosen = {name: values[-1] for name, values in bound.choices.items()}
    assert bound.placement(chosen)["stage1.block1.branch"].wiring == "residual"


@pytest.mark.parametrize("start", ["own", "identity"])
def test_branch_shortcut_and_attention_are_concatenated_in_place_of_the_addition(start):
    placement = Placement.from_dict({SHORTCUT: {"name": "cbam", "wiring": "concat_three", "start": start}})
    model, images = build_model(NET, placement, **SHAPE, seed=0).eval(), torch.randn(2, 1, 16, 16)
    plain, insert = build_backbone(NET, Shape(**SHAPE), seed=0).eval(), model.insert_at(SHORTCUT)
    x = plain.stages[0](plain.stem(images))
    branch, shortcut = plain.stages[1].branch(x), plain.stages[1].projection(x)
    joined = insert.join(torch.cat([branch, shortcut, insert.cbam(shortcut)], 1))
    joined = joined if start == "own" else branch + shortcut
    expected = plain.classifier(plain.stages[3](plain.stages[2](joined))).mean((2, 3))
    torch.testing.assert_close(model(images), expected)
    cost = placement_cost(site_table(NET, **SHAPE), placement)
    assert (cost.n_parameters, cost.n_macs) == (count_parameters(model), count_macs(model, (1, 16, 16)))
    assert insert.join.weight.shape == (32, 96, 1, 1)


def test_an_attention_on_the_shortcut_before_it_is_another_site_and_the_branch_stays_free():
    placement = Placement.from_dict(
        {SHORTCUT: {"name": "cbam", "wiring": "concat_three"}, "stage2.block1.branch": {"name": "se"}}
    )
    model = build_model(NET, placement, **SHAPE, seed=0)
    model(torch.randn(2, 1, 16, 16)).square().sum().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


def test_what_replaces_one_addition_twice_is_refused_in_a_placement_and_in_a_space():
    site = "stage1.block1"
    both = {f"{site}.shortcut": {"name": "se", "wiring": "concat_three"}, f"{site}.merge": {"name": "aff"}}
    with pytest.raises(SpaceError, match=r"at site 'stage1\.block1\.shortcut' replaces the addition .*, but aff at "):
        build_model(SPEC, Placement.from_dict(both), **SHAPE)
    rules = ({**CBAM, "wiring": ["gate", "concat_three"]}, {"match": [f"{site}.merge"], "attentions": ["daf", "aff"]})
    with pytest.raises(SpaceError, match=r"'concat_three' at site 'stage1\.block1\.shortcut' of mine\.toml replaces"):
        _bound(*rules, backbone=SPEC)


@pytest.mark.parametrize(
    ("backbone", "site", "sentence"),
    [
        (SPEC, "stage1.block1.branch", r"the site must be of kind shortcut, but is of kind 'branch'; wirings that fit"),
        ("shufflenet_v2", "stage1.block1.shortcut", r"it replaces the addition of a block, but this one adds nothing"),
    ],
)
def test_a_place_without_an_addition_takes_no_concatenation_of_three(backbone, site, sentence):
    table = site_table(backbone, num_classes=3, in_channels=1, image_size=64)
    rule = {"match": [site], "attentions": ["eca"], "wiring": ["gate", "concat_three"]}
    record = {"title": "t", "backbone": backbone, "sites": [rule]}
    with pytest.raises(SpaceError, match=sentence):
        SearchSpace.from_dict(record, "mine.toml").bind(table)
    with pytest.raises(SpaceError, match=sentence):
        build_model(backbone, Placement({site: Attention("eca", wiring="concat_three")}), **{**SHAPE, "image_size": 64})


@pytest.mark.parametrize(
    ("wiring", "sentence"),
    [
        (
            "residal",
            r"'wiring' in \[\[sites\]\] 1 of mine\.toml must be one of gate, .*'residal': did you mean 'res",
        ),
        (["gate", "concat3"], r"must be one of gate, .*, but got 'concat3': did you mean 'concat'\?"),
        ([], r"'wiring' in \[\[sites\]\] 1 of mine\.toml must have at least one value, but its list is empty\."),
        (["gate", "gate"], r"'wiring' in \[\[sites\]\] 1 of mine\.toml must not list a value twice, but lists 'gate'"),
        (["gate", 3], r"must be one of gate, residual, concat, addend, concat_three, but got 3\."),
    ],
)
def test_a_wiring_that_is_none_is_refused(wiring, sentence):
    with pytest.raises(SpaceError, match=sentence):
        _bound({**CBAM, "wiring": wiring})


def test_two_tables_with_other_attentions_make_one_decision_at_a_site():
    first = {"match": ["every block.branch"], "attentions": ["se", "eca"], "wiring": "residual"}
    second = {"match": ["stage4.every block.branch"], "attentions": ["gct"], "start": "identity"}
    bound = _bound(first, second, backbone=SPEC, se={"reduction": [4, 8]})
    assert bound.choices["stage4.block1.branch.attention"] == ("none", "se", "eca", "gct")
    assert bound.choices["stage3.block1.branch.attention"] == ("none", "se", "eca")
    assert len(bound.decisions) == 8
    assert bound.n_placements == 4**6 * 5**2
    chosen = {name: values[0] for name, values in bound.choices.items()}
    placed = bound.placement(chosen | {"stage4.block1.branch.attention": "gct", "stage4.block2.branch.attention": "se"})
    joined = {site: (attention.wiring, attention.start) for site, attention in placed.attentions.items()}
    assert joined == {"stage4.block1.branch": ("gate", "identity"), "stage4.block2.branch": ("residual", "own")}
    assert bound.placement(bound.params(placed)) == placed
    assert set(bound.everywhere("gct")) == {"stage4.block1.branch", "stage4.block2.branch"}


def test_tables_that_share_by_stage_join_where_they_share_the_same_sites():
    shared = {"match": ["every block.branch"], "attentions": ["se"], "share": "stage"}
    bound = _bound(
        shared, {"match": ["stage4.every block.branch"], "attentions": ["eca"], "share": "all"}, backbone=SPEC
    )
    assert {name: len(values) for name, values in bound.choices.items()} == {
        "stage1.attention": 2, "stage2.attention": 2, "stage3.attention": 2, "stage4.attention": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        ({"attentions": ["se", "eca"]}, r"A site must be matched once, but 'stage1\.block1\.branch' is matched by 'ev.*"
         r"narrow one of the patterns, or leave 'se' out of one of the tables\."),
        ({"share": "all"}, r"\[\[sites\]\] 1 and 2 of mine\.toml, which share it with different sites: change a p"),
        ({"match": None, "one_of": ["every block.pre", "every block.branch"]}, r"of which one has 'one_of': narrow"),
        ({"wiring": ["gate", "concat"]}, r"which search different wirings: state the same list in both"),
    ],
)  # fmt: skip
def test_tables_that_make_no_one_decision_are_refused(second, sentence):
    first = {"match": ["every block.branch"], "attentions": ["se"], "wiring": ["gate", "residual"]}
    with pytest.raises(SpaceError, match=sentence):
        _bound(first, {"match": ["every block.branch"], "attentions": ["eca"], **second}, backbone=SPEC)


def test_one_of_outside_of_blocks_is_a_decision_of_the_network():
    densenet = {"name": "densenet", "growth_rate": 4, "block_config": [2, 2, 2]}
    bound = _bound({"one_of": ["transition1", "transition2"], "attentions": ["eca"]}, backbone=densenet)
    assert bound.choices == {
        "network.attention": ("none", "eca"), "network.position": ("transition1", "transition2"),
    }  # fmt: skip
    assert set(bound.placement({"network.attention": "eca", "network.position": "transition2"})) == {"transition2"}
    ends = _bound({"one_of": ["stem", "features"], "attentions": ["eca"], "share": "all"}, backbone=SPEC)
    assert ends.choices["all.position"] == ("stem", "features")
    with pytest.raises(SpaceError, match=r"Two positions of 'one_of' in \[\[sites\]\] 1 of mine\.toml must lie in one"):
        _bound({"one_of": ["denseblock1", "denseblock2"], "attentions": ["eca"]}, backbone=densenet)


def test_two_choices_of_position_in_one_block_have_names_of_their_own():
    rules = [{"one_of": [f"every block.{kind}" for kind in kinds], "attentions": ["eca"]}
             for kinds in (("pre", "branch"), ("shortcut", "output"))]  # fmt: skip
    bound = _bound(*rules)
    assert [name for name in bound.choices if name.startswith("stage1")] == [
        *("stage1.block1_1.attention", "stage1.block1_1.position"),
        *("stage1.block1_2.attention", "stage1.block1_2.position"),
    ]
    assert bound.n_placements == 9**4
    assert len(bound.decisions) == len({decision.name for decision in bound.decisions})
