"""Positions as a choice: at most one of several sites of a block gets the attention."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_attn.backbones.site_table import site_table
from nas_attn.errors import SpaceError
from nas_attn.model.build import build_model
from nas_attn.placement import Attention, Placement
from nas_attn.space.bound import BoundSpace
from nas_attn.space.search_space import SearchSpace

SHAPE = {"num_classes": 3, "in_channels": 1, "image_size": 16}
POSITIONS = ("branch", "pre", "output", "shortcut")
RECORD = {
    "title": "t",
    "backbone": {"name": "resnet18", "stem": "small"},
    "sites": [{"one_of": [f"stage*.block*.{kind}" for kind in POSITIONS], "attentions": ["se", "eca"]}],
    "attentions": {"se": {"reduction": [4, 16]}},
}


def _bound(**rule) -> BoundSpace:
    record = {**RECORD, "sites": [{**RECORD["sites"][0], **rule}]}
    return SearchSpace.from_dict(record).bind(site_table(RECORD["backbone"], **SHAPE))


BOUND = _bound()


def test_each_block_has_one_position_as_a_parameter():
    first = [name for name in BOUND.choices if name.startswith("stage1.block1.")]
    assert first == ["stage1.block1.attention", "stage1.block1.position", "stage1.block1.se.reduction"]
    assert BOUND.choices["stage1.block1.position"] == POSITIONS
    assert BOUND.n_placements == (1 + 4 * (2 + 1)) ** 8


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_block_never_gets_two_and_parameters_come_back(data):
    params = {name: data.draw(st.sampled_from(values)) for name, values in BOUND.choices.items()}
    placement = BOUND.placement(params)
    blocks = [site.rpartition(".")[0] for site in placement]
    assert len(blocks) == len(set(blocks))
    for site in placement:
        block, _, kind = site.rpartition(".")
        assert params[f"{block}.position"] == kind
    assert BOUND.placement(BOUND.params(placement)).key == placement.key


def test_two_positions_of_one_block_lie_outside_the_space():
    both = Placement({f"stage1.block1.{kind}": Attention("eca") for kind in ("pre", "branch")})
    assert BOUND.params(both) is None
    assert BOUND.params(Placement({"stage1.block1.pre": Attention("eca")}))["stage1.block1.position"] == "pre"


def test_baseline_arms_take_the_first_position():
    assert {site.rpartition(".")[2] for site in BOUND.everywhere("se")} == {"branch"}
    assert len(BOUND.everywhere("se")) == 8


def test_a_stage_can_share_its_position():
    bound = _bound(share="stage")
    assert [name for name in bound.choices if "position" in name] == [f"stage{k}.position" for k in range(1, 5)]
    params = {name: values[-1] for name, values in bound.choices.items()}
    assert sorted(bound.placement(params)) == sorted(f"stage{s}.block{b}.shortcut" for s in range(1, 5) for b in (1, 2))


def test_what_is_chosen_is_what_is_built():
    placement = BOUND.placement(
        {**{name: values[0] for name, values in BOUND.choices.items()}}
        | {"stage2.block1.attention": "se", "stage2.block1.position": "pre"}
    )
    model = build_model(RECORD["backbone"], placement, **SHAPE)
    assert list(model.placement) == ["stage2.block1.pre"]
    assert sum(parameter.numel() for parameter in model.parameters()) == BOUND.cost(placement).n_parameters


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ({"match": ["stage1.*"]}, r"\[\[sites\]\] 1 of .* must have either 'match' or 'one_of', but it has both\."),
        ({"one_of": None}, r"\[\[sites\]\] 1 of .* must have either 'match' or 'one_of', but it has neither\."),
        (
            {"one_of": ["*.*.pre", "*.*.pre"]},
            r"'one_of' in .* must not list a value twice, but lists '\*\.\*\.pre' twice",
        ),
        ({"one_of": ["*.*.pre"]}, r"'one_of' in \[\[sites\]\] 1 .* at least 2 items"),
        ({"one_of": ["*.*.pre", "*.*.brunch"]}, r"Pattern '\*\.\*\.brunch' in .* matches no site of resnet18"),
        (
            {"one_of": ["*.*.pre", "stage1.block1.*"]},
            r"matched once, but 'stage1\.block1\.pre' is matched by '\*\.\*\.pre'",
        ),
    ],
)
def test_a_bad_table_is_refused_in_one_sentence(rule, sentence):
    with pytest.raises(SpaceError, match=sentence):
        _bound(**rule)


def test_patterns_that_end_alike_are_called_by_their_whole_text():
    bound = _bound(one_of=["stage1.block1.branch", "stage1.block2.branch"], share="all")
    assert bound.choices["all.position"] == ("stage1.block1.branch", "stage1.block2.branch")
    assert bound.n_placements == 1 + 2 * 3
