"""Shorthands of patterns: the same words for the same places in every network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import own_networks as own
import pytest
from site_tables import make_site, make_table
from torch import nn

from nas_attn.backbones.catalog import BACKBONES
from nas_attn.backbones.site_table import own_table, site_table
from nas_attn.errors import SpaceError
from nas_attn.placement import KINDS, SiteTable
from nas_attn.space.patterns import block_names, covered, shorthands_of
from nas_attn.space.published import load_published, read_published
from nas_attn.space.search_space import SearchSpace

SHAPE = {"num_classes": 5, "in_channels": 1}
SMALL = {**SHAPE, "image_size": 16}
SHAPE_KEEPING = ("output", "pre", "branch", "shortcut", "hidden")

RESIDUAL = own_table(own.ResidualCNN(), **SMALL)
PLAIN = own_table(own.PlainCNN(), **SMALL)


def _names(pattern: str, table: SiteTable, kinds=KINDS) -> list[str]:
    return [site.name for site in covered(pattern, table, kinds)]


def _catalogue(name: str) -> SiteTable:
    return site_table(name, **SHAPE)


def _bound(table: SiteTable, **rule):
    record = {"title": "t", "sites": [{"attentions": ["simam"], **rule}]}
    return SearchSpace.from_dict(record, "mine.toml").bind(table)


@pytest.mark.parametrize(
    ("name", "last", "stage", "last_of_stage"),
    [
        ("resnet50", "stage4.block3.output", "stage3", "stage3.block6.output"),
        ("densenet", "denseblock3", "stage2", "denseblock2"),
        ("vgg11_bn", "stage5.pool", "stage3", "stage3.pool"),
        ("googlenet", "stage5.block2.output", "stage4", "stage4.block5.output"),
        ("mobilenet_v2", "stage7.block1.output", "stage2", "stage2.block2.output"),
    ],
)
def test_last_is_the_last_output_of_the_network_or_of_a_stage(name, last, stage, last_of_stage):
    table = _catalogue(name)
    assert _names("last", table) == [last]
    assert _names(f"{stage}.last", table) == [last_of_stage]
    stages = dict.fromkeys(site.stage for site in table.sites if site.kind == "output")
    assert [site.stage for site in covered("stage*.last", table)] == list(stages)


@pytest.mark.parametrize(
    ("name", "pattern", "n_blocks"),
    [
        ("resnet50", "stage*.block*.output", 16),
        ("preact_resnet", "stage*.block*.output", 9),
        ("densenet", "denseblock*", 3),  # its dense blocks, not their layers
        ("vgg11_bn", "stage*.block*.output", 8),  # without the poolings
        ("squeezenet", "stage*.block*.output", 8),
        ("shufflenet_v2", "stage*.block*.output", 16),
        ("googlenet", "stage*.block*.output", 9),
        ("lenet", "stage*.block*.output", 2),
    ],
)
def test_every_block_is_the_output_of_each_block(name, pattern, n_blocks):
    table = _catalogue(name)
    assert _names("every block", table) == _names("every block.output", table) == _names(pattern, table)
    assert len(_names("every block", table)) == n_blocks


@pytest.mark.parametrize("kind", ["pre", "branch", "shortcut", "hidden", "conv", "merge"])
def test_every_block_with_a_kind_is_that_site_of_each_block(kind):
    assert _names(f"every block.{kind}", _catalogue("resnet50")) == [
        f"stage{stage}.block{block}.{kind}" for stage, n in enumerate((3, 4, 6, 3), 1) for block in range(1, n + 1)
    ]
    assert len(_names("stage3.every block.branch", _catalogue("resnet50"))) == 6


@pytest.mark.parametrize("name", ["lenet", "vgg11_bn", "resnet50", "shufflenet_v2"])
def test_conv3x3_is_every_site_of_kind_conv(name):
    table = _catalogue(name)
    convolutions = [site.name for site in table.sites if site.kind == "conv"]
    assert _names("conv3x3", table) == convolutions
    assert bool(convolutions) == ("conv" in BACKBONES[name].kinds)


@pytest.mark.parametrize("name", ["resnet18", "densenet", "vgg11_bn", "googlenet", "mobilenet_v2"])
def test_a_stage_and_a_star_is_the_whole_stage_in_every_family(name):
    table = _catalogue(name)
    whole = [site.name for site in table.sites if site.stage == "stage3"]
    assert _names("stage3.*", table) == _names("stage3.**", table) == whole
    fitting = [site.name for site in table.sites if site.stage == "stage3" and site.kind in SHAPE_KEEPING]
    assert _names("stage3.*", table, SHAPE_KEEPING) == fitting


def test_in_a_network_of_ones_own_a_block_is_what_opens():
    assert _names("every block", RESIDUAL) == ["stage1.0", "stage1.1", "stage2.0"]
    assert _names("every block.branch", RESIDUAL) == [
        f"{block}.branch" for block in ("stage1.0", "stage1.1", "stage2.0")
    ]
    assert _names("every block.conv", RESIDUAL)[:2] == ["stage1.0.conv1.conv", "stage1.0.conv2.conv"]
    assert _names("conv3x3", RESIDUAL)[0] == "stem.conv"
    assert _names("last", RESIDUAL) == _names("stage2", RESIDUAL) == ["stage2.0"]  # one place, which the block names
    assert block_names(RESIDUAL)["stage1.0.bn1"] == "stage1.0"


def test_last_lies_before_the_pooling_to_a_pixel():
    assert _names("last", own_table(own.wrap(own.Block(8, 8)), **SMALL)) == ["1"]


def test_the_listing_has_every_kind_that_a_block_may_have_and_what_the_network_lacks_is_left_out():
    listed = [name for name in shorthands_of(_catalogue("resnet50")) if name.startswith("every block")]
    kinds = ("pre", "conv", "hidden", "branch", "shortcut", "merge")
    assert sorted(listed) == sorted(["every block", *(f"every block.{kind}" for kind in kinds)])
    assert [name for name in shorthands_of(_catalogue("lenet")) if name.startswith("every block")] == ["every block"]


def test_last_lies_behind_a_pooling_that_larger_maps_follow():
    before, pool, behind = (
        make_site("a", 8, 4, "s"),
        make_site("pool", 8, 4, "s", kind="head"),
        make_site("b", 8, 2, "s"),
    )
    assert _names("last", make_table(before, pool, behind)) == ["b"]
    assert _names("last", make_table(before, pool, replace(behind, height=1, width=1))) == ["a"]


class Named(nn.Module):
    """Has modules that are called like shorthands, one of them no site."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(1, 4, 3, padding=1)
        self.stage2 = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.conv3x3 = nn.Linear(4, 5)

    def forward(self, x):
        return self.conv3x3(self.stage2(self.last(x)).mean((2, 3)))


def test_modules_of_ones_own_go_before_a_shorthand():
    table = own_table(Named(), **SMALL)
    assert _names("last", table) == ["last"]
    assert _names("stage2.*", table) == ["stage2.0", "stage2"]  # the last child returns what the whole does
    assert "conv3x3" not in shorthands_of(table)
    with pytest.raises(
        SpaceError, match=r"matches no site of Named: nothing can be placed at 'conv3x3' \(it returns a te"
    ):
        _bound(table, match=["conv3x3"])


def test_where_no_module_is_called_so_a_stage_is_a_size_of_map():
    assert {site.height for site in covered("stage2.*", PLAIN)} == {8}
    places = [(site.module, site.kind) for site in covered("stage2.*", PLAIN)]
    assert len(places) == len(set(places))
    assert _bound(PLAIN, match=["stage2.*"]).n_placements == 2 ** len(
        [site for site in covered("stage2.*", PLAIN) if site.kind == "output"]
    )


def test_a_space_with_a_shorthand_has_the_parameters_of_the_names():
    table = _catalogue("resnet18")
    assert _bound(table, match=["every block.branch"]).choices == _bound(table, match=["stage*.block*.branch"]).choices
    assert list(_bound(table, match=["last"]).choices) == ["stage4.block2.output.attention"]


@pytest.mark.parametrize(
    ("name", "key", "patterns"),
    [
        ("resnet_position", "one_of", [f"stage*.block*.{kind}" for kind in ("branch", "pre", "output", "shortcut")]),
        ("conv_resnext50", "match", ["stage*.block*.conv"]),
    ],
)
def test_a_shipped_space_with_shorthands_has_the_parameters_of_the_names(name, key, patterns):
    space = SearchSpace.load(name)
    written = space.to_dict()
    written["sites"][0][key] = patterns
    assert "*" not in "".join(space.sites[0].patterns)
    assert SearchSpace.from_dict(written).bind(space.bound.table).choices == space.bound.choices


@pytest.mark.parametrize("table", [site_table("resnet18", **SHAPE), RESIDUAL], ids=["catalogue", "own"])
def test_positions_of_every_block_are_called_by_their_kinds(table):
    bound = _bound(table, one_of=["every block.branch", "every block.pre", "every block"])
    blocks = list(dict.fromkeys(block_names(table).values()))
    assert [decision.name for decision in bound.decisions] == blocks
    assert bound.choices[f"{blocks[0]}.position"] == ("branch", "pre", "output")
    assert bound.n_placements == 4 ** len(blocks)


def test_a_site_that_two_shorthands_cover_is_refused():
    with pytest.raises(
        SpaceError, match=r"'stage4\.block2\.output' is matched by 'last' in \[\[sites\]\] 1 and by 'ev"
    ):
        _bound(_catalogue("resnet18"), match=["last", "every block"])


@pytest.mark.parametrize(
    ("table", "pattern", "sentence"),
    [
        (
            PLAIN,
            "every block",
            "it has no residual block that can be opened; its kinds of site are output, conv.",
        ),
        (
            own_table(own.wrap(own.TwoAdditions(8, 8)), **SMALL),
            "every block",
            r"no residual block that can be opened \(Block '1' cannot be opened: its forward has 2 additions",
        ),
        (
            _catalogue("resnet18"),
            "stage5.last",
            "no site of resnet18, whose stages are stage1, stage2, stage3, stage4.",
        ),
        (_catalogue("resnet18"), "every block.brunch", "unknown kind of site 'brunch': did you mean 'branch'?"),
        (_catalogue("resnet18"), "every_block", "did you mean 'every block'?"),
        (_catalogue("resnet18"), "lst", "did you mean 'last'?"),
        (
            _catalogue("lenet"),
            "conv3x3",
            "matches no site of lenet: none of its sites is of kind 'conv' ",
        ),
        (
            _catalogue("shufflenet_v2"),
            "every block.merge",
            r"none of its sites is of kind 'merge' \(a block's halves are concatenated and shuffled, not added\); ",
        ),
        (
            _catalogue("mini_xception"),
            "every block.head",
            r"none of its sites is of kind 'head' \(what it pools to a pix",
        ),
        (_catalogue("resnet18"), "every block.head", "it has sites of kind 'head', but none of them is in a block"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.backbone,
)
def test_a_shorthand_of_what_is_not_there_is_refused_in_one_sentence(table, pattern, sentence):
    with pytest.raises(
        SpaceError, match=rf"^Pattern '{pattern}' in \[\[sites\]\] 1 of mine\.toml .*{sentence}"
    ) as refusal:
        _bound(table, match=[pattern])
    assert "\n" not in str(refusal.value)


def test_a_published_network_takes_shorthands_too(tmp_path: Path):
    assert list(load_published("bam_resnet50").placement()) == [
        "stage1.block3.output",
        "stage2.block4.output",
        "stage3.block6.output",
    ]
    (tmp_path / "mine.toml").write_text(
        'title = "t"\nsource = "s"\nnum_classes = 5\nin_channels = 1\nimage_size = 32\n[backbone]\nname = "lenet"\n'
        '[[sites]]\nmatch = ["every block.branch"]\nattention = { name = "simam" }\n'
    )
    with pytest.raises(
        SpaceError, match=r"no site of lenet: none of its sites is of kind 'branch' \(its layers run in t"
    ):
        read_published(tmp_path / "mine.toml").placement()
