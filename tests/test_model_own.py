"""A network of the user's own takes attention at its module paths, and is never changed itself."""

from __future__ import annotations

import copy
import pickle

import own_networks as own
import pytest
import torch
from torch import nn

from nas_attn.attention.entry import SHAPE_KEEPING
from nas_attn.backbones.site_table import own_table, site_table
from nas_attn.backbones.survey.survey import survey
from nas_attn.cost import count_macs, count_parameters
from nas_attn.errors import SpaceError
from nas_attn.model.build import build_model
from nas_attn.placement import Placement, Shape
from nas_attn.space.fit import resolve_placement
from nas_attn.training.auxiliary import auxiliary_loss

SHAPE = {"num_classes": 5, "in_channels": 1, "image_size": 8}
NOTHING = Placement()
NETWORKS = {"plain": own.PlainCNN, "residual": own.ResidualCNN}


def _images() -> torch.Tensor:
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def _at(*sites: str, name: str = "se", **options) -> Placement:
    return Placement.from_dict({site: {"name": name, "reduction": 2, **options} for site in sites})


def _places(net: nn.Module) -> list[str]:
    """One name for every place where a map keeps its shape."""
    sites = own_table(net, **SHAPE).sites
    places = {(site.module, site.kind): site.name for site in sites if site.kind in SHAPE_KEEPING}
    return list(places.values())


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_with_nothing_placed_it_computes_what_it_did(make):
    net = make()
    model = build_model(net, NOTHING, **SHAPE)
    for training in (False, True):
        torch.manual_seed(0)
        expected = net.train(training)(_images())
        torch.manual_seed(0)
        assert torch.equal(model.train(training)(_images()), expected)
    assert list(model.backbone.state_dict()) == list(net.state_dict())


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_the_network_that_is_passed_in_never_changes(make):
    net = make()
    net.get_submodule("features" if make is own.PlainCNN else "stage1").eval()
    before = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    model = build_model(net, _at(*_places(net)), **SHAPE)
    model(_images()).sum().backward()
    nn.init.zeros_(next(model.backbone.parameters()))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert not any(module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert [module.training for module in model.backbone.modules()].count(False) >= modes.count(False)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("name", ["se", "cbam", "gam", "triple"])
def test_every_site_takes_an_attention_forward_and_backward(make, name):
    net = make()
    model = build_model(net, _at(*_places(net), name=name), **SHAPE)
    loss = model(_images()).square().sum() + auxiliary_loss(model, torch.tensor([0, 1, 2]))
    loss.backward()
    lost = {key for key, parameter in model.named_parameters() if parameter.grad is None}
    assert {key for key in lost if ".unused." not in key} == set()
    expected = model.eval()(_images())
    assert torch.equal(copy.deepcopy(model)(_images()), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(_images()), expected)


def test_the_sites_of_a_plain_network_are_its_module_paths_and_its_3x3_convolutions():
    table = own_table(own.PlainCNN(), **SHAPE)
    assert table.backbone == "PlainCNN"
    assert [(site.name, site.channels, site.height, site.stage) for site in table.sites] == [
        ("features.0.0.conv", 8, 8, "stage1"),
        ("features.0.0", 8, 8, "stage1"),
        ("features.0.1", 8, 8, "stage1"),
        ("features.0", 8, 8, "stage1"),
        ("features.1", 8, 4, "stage2"),
        ("features.2.0.conv", 16, 4, "stage2"),
        ("features.2.0", 16, 4, "stage2"),
        ("features.2.1", 16, 4, "stage2"),
        ("features", 16, 4, "stage2"),
    ]
    assert table.doubles == {"features.0.2": "features.0", "features.2": "features", "features.2.2": "features"}


def test_a_sequential_and_its_last_child_are_one_place():
    table = own_table(own.PlainCNN(), **SHAPE)
    assert {table.site(name).module for name in ("features", "features.2", "features.2.2")} == {"features"}
    first, last = (build_model(own.PlainCNN(), _at(name), **SHAPE, seed=0) for name in ("features", "features.2.2"))
    assert count_parameters(first) == count_parameters(last)
    with pytest.raises(SpaceError, match=r"Sites 'features' and 'features.2' are one place: leave one of them out"):
        build_model(own.PlainCNN(), _at("features", "features.2"), **SHAPE)


def test_each_name_of_a_place_has_one_key():
    table = own_table(own.PlainCNN(), **SHAPE)
    by_names = {resolve_placement(table, _at(name)).key for name in ("features", "features.2", "features.2.2")}
    assert by_names == {resolve_placement(table, _at("features")).key}
    both = Placement.from_dict({"features": {"name": "se"}, "features.2": {"name": "eca"}})
    with pytest.raises(SpaceError, match=r"Sites 'features' and 'features\.2' are one place: leave one of them out"):
        resolve_placement(table, both)
    twice = Placement.from_dict({"features.2": {"name": "se"}, "features.2.2": {"name": "eca"}})
    with pytest.raises(SpaceError, match=r"Sites 'features\.2' and 'features\.2\.2' are one place"):
        resolve_placement(table, twice)


def test_the_residual_blocks_open_where_they_can():
    table = own_table(own.ResidualCNN(), **SHAPE)
    names = [site.name for site in table.sites if site.name.startswith("stage2")]
    assert names[0] == "stage2.0.pre"
    assert {"stage2.0.branch", "stage2.0.shortcut", "stage2.0.project", "stage2.0"} <= set(names)
    assert table.doubles["stage2"] == "stage2.0"  # a block keeps its name
    shortcut = table.site("stage2.0.shortcut")
    assert (shortcut.kind, shortcut.module, shortcut.channels, shortcut.height) == ("shortcut", "stage2.0", 16, 4)
    assert "stage1.0.unused" not in {site.name for site in table.sites}


def test_a_table_states_the_cost_of_the_network():
    net = own.ResidualCNN()
    table = own_table(net, **SHAPE)
    assert table.n_parameters == count_parameters(net)
    assert table.n_macs == count_macs(net, (1, 8, 8))


def test_a_branch_gets_what_its_formula_says():
    net = own.ResidualCNN().eval()
    model = build_model(net, _at("stage1.0.branch"), **SHAPE).eval()
    block = net.stage1[0]
    x = net.stem(_images())
    branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    x = torch.relu(model.insert_at("stage1.0.branch").attention(branch) + x)
    expected = net.head(net.stage2(net.stage1[1](x)).mean((2, 3)))
    torch.testing.assert_close(model(_images()), expected)


class SavesItsOutput(nn.Module):
    """An attention whose gradient needs its own output and its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x * x)


@pytest.mark.parametrize("site", ["features.0.1", "features.2.1", "features.0.2"])
def test_a_relu_that_writes_over_the_attentions_output_does_no_harm(site):
    net = own.PlainCNN()
    model = build_model(net, _at(site), **SHAPE)
    model.insert_at(site).se = SavesItsOutput()
    logits = model(_images())
    logits.square().sum().backward()
    safe = copy.deepcopy(net)
    for module in safe.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    safe.get_submodule(site).register_forward_hook(lambda module, args, output: SavesItsOutput()(output))
    expected = safe(_images())
    expected.square().sum().backward()
    assert torch.equal(logits, expected)
    for (name, parameter), (_, twin) in zip(model.backbone.named_parameters(), safe.named_parameters(), strict=True):
        assert torch.equal(parameter.grad, twin.grad), name


def test_the_survey_knows_where_the_network_writes_over():
    plain = survey(own.PlainCNN(), Shape(**SHAPE))
    assert plain.copied == {"features.0.1", "features.2.1"}
    residual = survey(own.ResidualCNN(), Shape(**SHAPE)).copied
    assert {"stage1.0.bn1", "stage1.0.bn2", "stage1.0.drop", "stage2.0.drop"} <= residual
    assert not {"stage1.0", "stage1.0.conv1", "stage1.0.branch", "stage1.0.shortcut", "stem"} & residual


@pytest.mark.parametrize(
    ("block", "site", "sentence"),
    [
        (own.ConvBNReLU(8, 8), "1.shortcut", "Block '1' cannot be opened: it adds no branch to a shortcut"),
        (own.TieBlock(8, 8), "1.pre", "both sides of its addition lie behind 1 convolutions"),
        (own.TwoAdditions(8, 8), "1.branch", "its forward has 2 additions"),
        (own.WritesOver(8, 8), "1.branch", "its addition overwrites a tensor that is read again"),
        (own.SharedStart(8, 8), "1.pre", "the shortcut of block '1' begins with what its branch begins with"),
        (own.Block(8, 8), "1.unused", "it never runs"),
        (own.Block(8, 8), "1.brunch", "Unknown site '1.brunch' in backbone 'Sequential': did you mean '1.branch'"),
        (own.Block(8, 8), "3", r"it returns a tensor of shape \(2, 8\), but must return a map"),
        (own.Block(8, 8), "0.branch", "Unknown site '0.branch'"),
    ],
)
def test_a_site_that_cannot_be_had_is_refused_in_words(block, site, sentence):
    with pytest.raises(SpaceError, match=sentence):
        build_model(own.wrap(block), _at(site), **SHAPE)


def test_a_module_that_runs_twice_is_refused_in_words():
    sentence = "Nothing can be placed at 'conv' of backbone 'Odd': it runs 2 times, but must run once"
    with pytest.raises(SpaceError, match=sentence):
        build_model(own.Odd(), _at("conv"), **SHAPE)


def test_a_network_that_does_not_fit_the_task_is_refused_in_words():
    with pytest.raises(SpaceError, match=r"must return \(2, 7\) for 2 images of 7 classes, but returns \(2, 5\)"):
        build_model(own.PlainCNN(), NOTHING, num_classes=7, in_channels=1, image_size=8)
    with pytest.raises(SpaceError, match=r"The network Odd does not accept images \(2, 1, 9, 9\): .*mat1"):
        build_model(own.Odd(), NOTHING, num_classes=5, in_channels=1, image_size=9)
    with pytest.raises(SpaceError, match="A network of your own needs image_size >= 1, but got image_size=None"):
        build_model(own.PlainCNN, NOTHING, num_classes=5, in_channels=1)


def flat(size, stride=1):
    layers = nn.Conv2d(2, 8, 3, stride, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * (size // stride) ** 2, 7)
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("net", "site", "shape"),
    [
        (own.PlainCNN(3, 4), "features.0", (3, 4, 32)),
        (flat(28), "0", (7, 2, 28)),
        (flat(64), "0", (7, 2, 64)),
        (flat(96, stride=2), "0", (7, 2, 96)),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 1)), None, (1, 1, 28)),
    ],
)
def test_a_network_that_is_passed_in_says_its_classes_channels_and_image_size(net, site, shape):
    model = build_model(net, Placement.from_dict({} if site is None else {site: {"name": "se", "reduction": 2}}))
    assert (model.num_classes, model.in_channels, model.image_size) == shape
    assert model(torch.zeros(2, shape[1], shape[2], shape[2])).shape == (2, shape[0])


def test_what_is_stated_about_a_network_is_kept_and_checked():
    model = build_model(own.PlainCNN(), NOTHING, image_size=12)
    assert (model.num_classes, model.in_channels, model.image_size) == (5, 1, 12)
    with pytest.raises(SpaceError, match=r"must return \(2, 7\) for 2 images of 7 classes, but returns \(2, 5\)"):
        build_model(own.PlainCNN(), NOTHING, num_classes=7)
    with pytest.raises(SpaceError, match=r"num_classes >= .* must hold, but got num_classes=-1"):
        build_model(own.PlainCNN(), NOTHING, num_classes=-1)
    with pytest.raises(
        SpaceError, match=r"does not accept images \(2, 2, 24, 24\): .*: state in_channels and image_size"
    ):
        build_model(flat(28), NOTHING, image_size=24)
    for named in ("lenet", own.PlainCNN):
        with pytest.raises(SpaceError, match="num_classes must be stated, unless the backbone is a network"):
            build_model(named, NOTHING)


class Uncopied(nn.Module):
    """Refuses to be copied."""

    def __deepcopy__(self, memo):
        raise TypeError("there is only one")


def test_a_network_that_cannot_be_copied_is_refused_in_words():
    net = own.PlainCNN()
    net.only = Uncopied()
    with pytest.raises(
        SpaceError,
        match=r"The network PlainCNN cannot be copied \(there is only one\): leave out what cannot be",
    ):
        build_model(net, NOTHING, **SHAPE)


def test_a_function_makes_the_network_anew_from_the_seed():
    first, again, other = (build_model(own.PlainCNN, NOTHING, **SHAPE, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["backbone.classifier.weight"], other["backbone.classifier.weight"])
    with pytest.raises(SpaceError, match="The backbone's function must return a torch module, but returned object"):
        build_model(own.make_nothing, NOTHING, **SHAPE)


def test_a_network_may_be_imported_by_a_space():
    spec = {"import": "own_networks:make_residual"}
    table = site_table(spec, **SHAPE)
    assert table.site("stage1.0.branch").kind == "branch"
    model = build_model(spec, _at("stage1.0.branch"), **SHAPE, seed=1)
    assert model(_images()).shape == (3, 5)
    assert model.spec == spec


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"import": "no_such_module:net"}, "'no_such_module:net' cannot be loaded: No module named"),
        ({"import": "own_networks:nothing"}, "'own_networks:nothing' cannot be loaded: module 'own_networks' has no"),
        ({"import": "own_networks:make_nothing"}, "must return a torch module, but returned object"),
        ({"import": "own_networks:make_residual", "depth": 3}, "has no option 'depth': it takes num_classes, in_cha"),
    ],
)
def test_an_import_that_gives_no_network_is_refused_in_words(spec, sentence):
    with pytest.raises(SpaceError, match=sentence):
        site_table(spec, **SHAPE)


def test_half_precision_weights_get_attention_of_their_type():
    model = build_model(own.PlainCNN().double(), _at("features.0"), **SHAPE)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert model(_images().double()).dtype == torch.float64
