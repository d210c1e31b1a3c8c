"""The ends of every network, and the maps that enter its convolutions: where they lie, and what matches them."""

from __future__ import annotations

import copy
import pickle
import re
import runpy

import cloudpickle
import own_networks as own
import pytest
import torch
from backbone_cases import quick_draws, tiny_spec
from conftest import at_night
from torch import nn

from nas_attn.backbones.build import build_backbone
from nas_attn.backbones.catalog import BACKBONES, image_sizes
from nas_attn.backbones.passes import dry_pass
from nas_attn.backbones.site_table import own_table, site_table
from nas_attn.backbones.survey.names import with_names
from nas_attn.backbones.survey.survey import survey
from nas_attn.cli.commands import main
from nas_attn.cost import count_macs, count_parameters
from nas_attn.errors import SpaceError
from nas_attn.model.build import AttentionModel, build_model
from nas_attn.model.description import ModelFile
from nas_attn.model.python_file import python_source
from nas_attn.placement import Attention, Placement, Shape, SiteTable
from nas_attn.report.architecture import read_architecture
from nas_attn.space.fit import placement_cost, resolve_placement
from nas_attn.space.patterns import covered

SHAPE = {"num_classes": 3, "in_channels": 1}
DEFAULT = {"num_classes": 1000, "in_channels": 3}
SMALL = ("lenet", "densenet", "preact_resnet", "resnet18", "squeezenet", "shufflenet_v2", "mobilenet_v1",
         "mobilenet_v2", "mobilenet_v3_small", "mini_xception")  # fmt: skip
EVERY_DAY = ("densenet", "preact_resnet", "mobilenet_v3_small", "mini_xception")
POOLED = {
    "densenet": "head", "preact_resnet": "pool", "resnet18": "avgpool", "mobilenet_v1": "pool",
    "mobilenet_v3_small": "avgpool", "mobilenet_v2": "features.head", "shufflenet_v2": "conv5.head",
    "lenet": "resize",
}  # fmt: skip
"""The module that the map enters, which is pooled or flattened then."""


def _names(pattern: str, table: SiteTable) -> list[str]:
    return [site.name for site in covered(pattern, table)]


def _model(spec: object, placement: dict, size: int, **shape: int) -> AttentionModel:
    with quick_draws():
        return build_model(spec, Placement.from_dict(placement), **{**SHAPE, **shape}, image_size=size, seed=0).eval()


@pytest.mark.parametrize("name", at_night(BACKBONES, but=("lenet", "vgg11", "googlenet", "resnet50", *EVERY_DAY)))
def test_every_network_has_both_ends_which_no_star_matches(name: str) -> None:
    table = site_table(name, **DEFAULT)
    stem, features = table.site("stem"), table.site("features")
    assert (stem.kind, features.kind) == ("output", "output")
    assert stem.height > features.height
    assert _names("stem", table) == [stem.name]
    assert _names("features", table) == [features.name]
    assert stem.name in _names("st*em*", table) + _names("stem*", table)
    plain = {site.name for site in table.sites}
    for pattern in ("*", "**", "stage*", "stage*.**", f"{features.stage}.*", "*.pool", "every block", "last", "s*"):
        assert set(_names(pattern, table)) <= plain, pattern
    assert {"stem", "stem.pool", "features"} >= {site.name for site in table.extra if site.kind == "output"}
    assert [site.name for site in table.every_site if site.name in plain] == [site.name for site in table.sites]
    assert not plain & {site.name for site in table.extra}


@pytest.mark.parametrize("name", at_night(POOLED, but=EVERY_DAY))
def test_features_is_the_map_that_is_pooled(name: str) -> None:
    spec, (size, _) = tiny_spec(name), image_sizes(tiny_spec(name))
    shape = Shape(**SHAPE, image_size=2 * size)
    site = site_table(spec, **vars(shape)).site("features")
    with quick_draws():
        net = build_backbone(spec, shape, seed=0).eval()
    seen = dry_pass(net, torch.randn(1, 1, 2 * size, 2 * size), [site.module, POOLED[name]])
    assert torch.equal(seen[site.module].tensor, seen[POOLED[name]].source)
    assert seen[POOLED[name]].source.shape[1:] == (site.channels, site.height, site.width)


@pytest.mark.parametrize("name", at_night(SMALL, but=EVERY_DAY))
def test_gct_at_every_end_and_before_every_convolution_starts_as_the_plain_network_and_learns(name: str) -> None:
    spec = tiny_spec(name)
    size = 2 * image_sizes(spec)[0]
    table = site_table(spec, **SHAPE, image_size=size)
    names = dict.fromkeys([*table.before_conv, *(site.name for site in table.extra), table.site("features").name])
    placement = Placement({name: Attention("gct") for name in names})
    model, images = _model(spec, placement.to_dict(), size), torch.randn(2, 1, size, size)
    torch.testing.assert_close(model(images), _model(spec, {}, size)(images))
    cost = placement_cost(table, placement)
    assert (cost.n_parameters, cost.n_macs) == (count_parameters(model), count_macs(model, (1, size, size)))
    model.train()(images).square().sum().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


def test_what_follows_features_in_a_densenet_is_the_pooling_and_the_classes() -> None:
    spec = tiny_spec("densenet")
    model, images = _model(spec, {"features": {"name": "se", "reduction": 2}}, 16), torch.randn(2, 1, 16, 16)
    with quick_draws():
        net, attention = build_backbone(spec, Shape(**SHAPE, image_size=16), seed=0).eval(), model.insert_at("features")
    maps = torch.relu(net.features(images))
    torch.testing.assert_close(model(images), net.classifier(attention(maps).mean((2, 3))))


def test_the_ends_of_a_resnet_lie_behind_its_relu_and_its_pooling() -> None:
    model = _model("resnet18", {"stem": {"name": "se"}, "stem.pool": {"name": "eca"}}, 40)
    images = torch.randn(2, 1, 40, 40)
    with quick_draws():
        net = build_backbone({"name": "resnet18", "stem": "imagenet"}, Shape(**SHAPE, image_size=40), seed=0).eval()
    x = model.insert_at("stem")(torch.relu(net.bn1(net.conv1(images))))
    x = model.insert_at("stem.pool")(net.maxpool(x))
    for part in (net.layer1, net.layer2, net.layer3, net.layer4, net.avgpool, nn.Flatten(), net.fc):
        x = part(x)
    torch.testing.assert_close(model(images), x)


def test_a_stem_without_a_pooling_has_no_place_behind_it() -> None:
    for spec in (tiny_spec("resnet18"), tiny_spec("mobilenet_v2")):
        table = site_table(spec, **SHAPE, image_size=32)
        with pytest.raises(SpaceError, match=r"Unknown site 'stem\.pool' in backbone"):
            table.site("stem.pool")
    with pytest.raises(SpaceError, match=r"Unknown site 'fetures' in backbone 'resnet18': did you mean 'features'\?"):
        site_table("resnet18", **SHAPE).site("fetures")


def test_before_conv_on_resnet50_has_as_many_parameters_of_gct_as_the_authors_code() -> None:
    table = site_table("resnet50", num_classes=1000, in_channels=3)
    sites = covered("before_conv", table)
    placement = Placement({site.name: Attention("gct") for site in sites})
    assert placement_cost(table, placement).n_parameters - table.n_parameters == 62_016
    assert [site.name for site in sites[:4]] == [
        "stage1.block1.pre", "stage1.block1.before_conv2", "stage1.block1.hidden", "stage1.block2.pre",
    ]  # fmt: skip
    assert len(covered("stage4.before_conv", table)) == 9
    assert covered("every block.before_conv", table) == sites
    assert len(covered("every block.before_conv", site_table("efficientnet_b0", **SHAPE, image_size=32))) == 47
    between = covered("stage*.block*.before_conv*", table)
    assert [(site.kind, site.enters) for site in between] == [("hidden", True)] * 16
    assert not any(site.enters for site in covered("every block.hidden", table))


@pytest.mark.parametrize("name", at_night(SMALL, but=EVERY_DAY))
def test_each_convolution_of_a_branch_is_entered_by_one_of_the_sites(name: str) -> None:
    spec = tiny_spec(name)
    size = 2 * image_sizes(spec)[0]
    table = site_table(spec, **SHAPE, image_size=size)
    model = _model(spec, {site: {"name": "gct"} for site in table.before_conv}, size)
    convs = {path: module for path, module in model.backbone.named_modules() if isinstance(module, nn.Conv2d)}
    beside = ("downsample", "projection", "classifier", "fc1", "fc2")  # shortcuts, scores, squeeze-and-excitation
    inner = [path for path in convs if not any(word in path.split(".") for word in beside)]
    fed = [insert for insert in model.attention.modules() if type(insert).__name__ == "GCT"]
    assert len(fed) == len(table.before_conv) == len(inner) - 1, "the first one takes the images"
    passages = dry_pass(model.backbone, torch.randn(1, 1, size, size), convs)
    widths = sorted(passages[path].source.shape[1] for path in inner)
    assert sorted([1, *(insert.alpha.numel() for insert in fed)]) == widths


def test_a_place_with_two_names_has_one_key() -> None:
    table = site_table("resnet18", **SHAPE)
    both = [Placement({name: Attention("se")}) for name in ("features", "stage4.block2.output")]
    assert len({resolve_placement(table, placement).key for placement in both}) == 1
    models = [build_model("resnet18", placement, **SHAPE, image_size=32, seed=0) for placement in both]
    assert list(models[0].state_dict()) == list(models[1].state_dict())
    assert models[0].placement == models[1].placement == both[1]
    two = Placement({**both[0].attentions, **both[1].attentions})
    for refused in (lambda: resolve_placement(table, two), lambda: build_model("resnet18", two, **SHAPE)):
        with pytest.raises(SpaceError, match=r"Sites 'features' and 'stage4\.block2\.output' are one place"):
            refused()


def test_a_table_of_an_older_version_is_read() -> None:
    table = site_table("resnet18", **SHAPE)
    record = {key: value for key, value in table.to_dict().items()
              if key not in ("extra", "order", "aliases", "before_conv")}  # fmt: skip
    assert SiteTable.from_dict(record).every_site == table.sites
    assert SiteTable.from_dict(table.to_dict()) == table
    assert SiteTable.from_dict(table.to_dict()).aliases == table.aliases


BEFORE = {
    "stem": {"name": "se", "reduction": 2},
    "stage1.block1.before_conv2": {"name": "cbam", "reduction": 2},
    "features": {"name": "eca"},
}


def test_copies_pickles_exports_and_files_have_what_enters_a_convolution(tmp_path) -> None:
    model, images = _model(tiny_spec("preact_resnet"), BEFORE, 8), torch.randn(2, 1, 8, 8)
    expected = model(images)
    for again in (copy.deepcopy(model), pickle.loads(cloudpickle.dumps(model))):
        assert torch.equal(again(images), expected)
        for parameter in again.insert_at("stage1.block1.before_conv2").parameters():
            nn.init.zeros_(parameter)
        assert torch.equal(model(images), expected), "copies share weights with the model"
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), expected)
    described = ModelFile.model_construct(
        arm=None, logits_of=None, class_names=("a", "b", "c"), image_size=8, mean=(0.5,), std=(0.2,)
    )
    (tmp_path / "net.py").write_text(python_source(model, described, "net.pt"))
    alone = runpy.run_path(str(tmp_path / "net.py"))["make_network"]().eval()
    alone.load_state_dict(model.state_dict())
    torch.testing.assert_close(alone(images), expected)


def test_the_drawing_has_the_ends_that_are_used_and_no_others() -> None:
    table = site_table("resnet18", **SHAPE)
    sites = [site.name for spot in read_architecture(table, Placement(), ()).spots for site in spot.sites]
    assert sorted(sites) == sorted(site.name for site in table.sites)
    used = Placement.from_dict({"stem": {"name": "se"}, "stage1.block1.before_conv2": {"name": "se"}})
    drawn = read_architecture(table, used, ("stem",))
    assert drawn.stages[0].name == "stem"
    assert (drawn.has_stem, read_architecture(table, Placement(), ()).has_stem) == (False, True)
    assert {site.name for spot in drawn.spots for site in spot.sites} - set(sites) == set(used)


class Stemmed(nn.Module):
    """A stem with a pooling as in a ResNet, one block, and a last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(2)
        self.layer = own.Block(8, 8)
        self.norm = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU())
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        return self.fc(self.avgpool(self.norm(x)).flatten(1))


@pytest.mark.parametrize("size", [8, 2])
def test_a_network_of_ones_own_has_the_ends_that_are_found(size: int) -> None:
    table = own_table(Stemmed(), **SHAPE, image_size=size)
    assert table.aliases == {"stem": "relu", "stem.pool": "maxpool", "features": "norm"}
    placement = Placement.from_dict({"features": {"name": "gct"}, "stem": {"name": "eca"}})
    model = build_model(Stemmed(), placement, **SHAPE, image_size=size)
    assert list(model.placement) == ["norm", "relu"]
    model(torch.randn(2, 1, size, size)).sum().backward()
    residual = own_table(own.ResidualCNN(), num_classes=5, in_channels=1, image_size=16)
    assert set(residual.aliases) == {"features"}, "its own first convolution is called stem"
    assert residual.site("features").name in ("stage2", "stage2.0"), "one place"


class Functional(nn.Module):
    """Computes its activation and its pooling by functions; `stem` and `features` are modules of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.last = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.last(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))


class Taken(nn.Module):
    """Has a module called `features` that is not the last, and one called `stem` that is not the first."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
        self.stem = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.stem(self.features(x)).mean((2, 3)))


def test_what_a_function_computes_is_no_end_and_modules_that_are_called_so_keep_their_names() -> None:
    assert own_table(Functional(), **SHAPE, image_size=8).aliases == {"features": "last"}
    table = own_table(Taken(), **SHAPE, image_size=8)
    assert table.aliases == {}
    assert (table.site("features").channels, table.site("stem").channels) == (4, 8)
    assert _names("*", table) == [site.name for site in table.sites if "." not in site.name]


def test_a_plug_in_that_names_its_places_has_its_ends_too() -> None:
    spec = {"name": "resnet18", "stem": "imagenet"}
    net = build_backbone(spec, Shape(**SHAPE, image_size=32), seed=0)
    table = with_names(survey(net, Shape(**SHAPE, image_size=32)), net, BACKBONES["resnet18"]).table
    ours = site_table(spec, **SHAPE, image_size=32)
    assert [site.name for site in table.sites] == [site.name for site in ours.sites]
    assert table.aliases == ours.aliases == {"features": "stage4.block2.output"}
    assert [(site.name, site.channels, site.height) for site in table.extra] == [("stem", 64, 16), ("stem.pool", 64, 8)]
    assert [site.name for site in table.every_site][:3] == ["stem", "stem.pool", "stage1.block1.pre"]


def test_the_listing_names_the_ends_and_the_maps_before_convolutions(capsys) -> None:
    assert main(["sites", "resnet18", "stem=small", "--image-size", "9"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"\n  stem +64x9x9, behind the first convolution with its norm and activation\n", shown)
    assert re.search(r"\n  features +stage4\.block2\.output, the map that enters the global pooling\n", shown)
    assert re.search(r"\n  before_conv +8  as hidden, .*: 8 sites, stage1\.block1\.before_conv2 to stage4", shown)
    assert re.search(r"\n  before_conv +16 sites, stage1\.block1\.pre to stage4\.block2\.before_conv2\n", shown)
    assert "stem.pool" not in shown
