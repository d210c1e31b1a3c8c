"""Squeeze-and-excitation of anybody's is recognised by its structure, named, and taken out with replace = "se"."""

from __future__ import annotations

import copy
import pickle

import own_styles as styles
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from nas_attn.backbones.build import build_backbone
from nas_attn.backbones.modules import built_in_se
from nas_attn.backbones.own_se import own_se
from nas_attn.backbones.site_table import site_table
from nas_attn.backbones.survey.survey import survey
from nas_attn.backbones.taken_out import take_out_own_se
from nas_attn.errors import SpaceError
from nas_attn.model.build import build_model
from nas_attn.model.file import load_model, save_model
from nas_attn.placement import Placement, Shape

SHAPE = {"num_classes": 5, "in_channels": 3, "image_size": 16}
NAMES = {styles.SELines: "fc1 + fc2", styles.SEModule: "se", styles.SEFactor: "gate"}
PARTS = {styles.SELines: ["fc1", "fc2"], styles.SEModule: ["se"], styles.SEFactor: ["gate"]}


@pytest.mark.parametrize("block", NAMES, ids=lambda block: block.__name__)
def test_it_is_named_in_the_table_of_sites(block):
    table = survey(styles.Net(block), Shape(**SHAPE)).table
    assert table.built_in == (f"block1.{NAMES[block]}", f"block2.{NAMES[block]}")
    assert f"has 2 built-in squeeze-and-excitation modules (block1.{NAMES[block]}, " in table.stacking


class Plain(styles.Bare):
    def forward(self, x):
        return self.branch(x) + x


@pytest.mark.parametrize("block", NAMES, ids=lambda block: block.__name__)
def test_without_it_the_network_computes_what_it_would_without_these_lines(block):
    torch.manual_seed(0)
    net = styles.Net(block).eval()
    plain = styles.Net(Plain).eval()
    parts = take_out_own_se(net)
    assert {path for path in parts if path.startswith("block1.")} >= {f"block1.{part}" for part in PARTS[block]}
    assert own_se(net) == []
    plain.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 16, 16)
    for again in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        wanted = plain.block1(plain.stem(x)) if block is styles.SEFactor else plain.block1(plain.stem(x)).relu()
        assert torch.equal(again.block1(again.stem(x)), wanted)


def spec(block, **more):
    return {"import": "own_styles:make_with_se", "style": block.__name__, **more}


@pytest.mark.parametrize("block", NAMES, ids=lambda block: block.__name__)
def test_replace_se_reaches_it_with_weights_placements_and_model_files(block, tmp_path):
    given = build_backbone(spec(block), Shape(**SHAPE), seed=5).state_dict()
    save_file(given, tmp_path / "x.safetensors")
    placed = Placement.from_dict({"block1.branch": {"name": "se", "reduction": 2}, "block2.hidden": {"name": "eca"}})
    model = build_model(
        spec(block, replace="se", weights=str(tmp_path / "x.safetensors")), placed, **SHAPE, seed=1
    ).eval()
    found = model.backbone.state_dict()
    assert set(found) == {key for key in given if not any(f".{part}." in key for part in PARTS[block])}
    assert all(torch.equal(value, given[key]) for key, value in found.items())
    assert not site_table(spec(block, replace="se"), **SHAPE).built_in
    save_model(
        model, tmp_path / "best.json", record={"mean": [0.0] * 3, "std": [1.0] * 3, "class_names": list("abcde")}
    )
    again = load_model(tmp_path / "best.json", backbone=lambda: styles.Net(block))
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(again(images), model(images))


def test_a_block_with_hooks_is_not_rewritten():
    net = styles.Net(styles.SELines)
    net.block2.register_forward_hook(lambda module, args, output: output)
    with pytest.raises(SpaceError, match="squeeze-and-excitation of block 'block2' cannot be taken out: the block has"):
        take_out_own_se(net)


class OverChannels(styles.Bare):
    """Multiplies by a factor over pixels, which is no squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        y = self.branch(x)
        return x + y * self.excite(self.squeeze(y.mean(1, keepdim=True)).relu()).sigmoid()


class OneLayer(styles.Bare):
    """Has one layer only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x):
        y = self.branch(x)
        return x + y * self.layer(y.mean((2, 3))).sigmoid()[..., None, None]


class NoLimit(styles.SELines):
    """Scales without a limit."""

    def forward(self, x):
        y = self.branch(x)
        return x + y * self.fc2(self.fc1(y.mean((2, 3), keepdim=True)).relu())


@pytest.mark.parametrize("block", [OverChannels, OneLayer, NoLimit, styles.Spatial, styles.Wide, styles.Parts])
def test_other_products_and_other_blocks_are_none(block):
    net = styles.Net(block)
    assert own_se(net) == []
    assert survey(net, Shape(**SHAPE)).table.built_in == ()


def test_the_classes_of_libraries_are_not_counted_twice():
    net = models.mobilenet_v3_small(num_classes=5, width_mult=0.25)
    assert len(built_in_se(net)) == 9
    assert own_se(net) == []
    assert own_se(models.resnet50(num_classes=5)) == []
