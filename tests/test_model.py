"""A placement becomes a network: nothing else about the network changes, and every part is seeded on its own."""

from __future__ import annotations

import copy
import pickle
import random

import pytest
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from nas_attn.attention.entry import SHAPE_KEEPING
from nas_attn.backbones.build import build_backbone
from nas_attn.backbones.catalog import image_sizes
from nas_attn.backbones.opening import OPENINGS
from nas_attn.backbones.site_table import site_table
from nas_attn.cost import count_macs, count_parameters
from nas_attn.errors import SpaceError
from nas_attn.model.build import AttentionModel, Insert, build_model
from nas_attn.placement import WIRINGS, Placement, Shape, Site
from nas_attn.space.fit import placement_cost, resolve_placement
from nas_attn.training.auxiliary import auxiliary_loss

TINY = {"name": "densenet", "growth_rate": 4, "block_config": [2, 2]}
RESNET = {"name": "resnet18", "stem": "small"}
SPECS = {"densenet": TINY, "resnet18": RESNET}
SHAPE = {"num_classes": 5, "in_channels": 1}
OPTIONS = {
    "se": {"reduction": 4},
    "cbam": {"reduction": 4, "kernel_size": 3},
    "gam": {"reduction": 4, "kernel_size": 3},
    "triple": {"reduction": 4, "hidden": 3},
}
NOTHING = Placement()


def _keeping(spec) -> list[Site]:
    """The sites where a map keeps its shape; the others have tests of their own (test_model_swaps.py)."""
    return [site for site in site_table(spec, **SHAPE, image_size=_size(spec)).sites if site.kind in SHAPE_KEEPING]


def _size(spec) -> int:
    return max(image_sizes(spec)[0], 9)


def _images(spec, n: int = 2) -> torch.Tensor:
    size = _size(spec)
    return torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(0))


def _entry(name: str, **more) -> dict:
    return {"name": name, **OPTIONS[name], **more}


def _build(spec, placement, seed=0) -> AttentionModel:
    size = _size(spec)
    return build_model(spec, placement, **SHAPE, image_size=size, seed=seed)


@pytest.fixture(scope="module", params=SPECS.values(), ids=SPECS.keys())
def bare(request):
    """A spec, its plain network and the model with nothing placed, at one seed."""
    spec = request.param
    return spec, build_backbone(spec, Shape(**SHAPE, image_size=_size(spec)), seed=4), _build(spec, NOTHING, seed=4)


def test_with_nothing_placed_the_outputs_are_the_plain_networks_bit_for_bit(bare):
    spec, plain, model = bare
    images = _images(spec)
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), model.eval()(images))
        assert torch.equal(plain.train()(images), model.train()(images))


def test_the_plain_state_dict_loads_strictly(bare):
    _, plain, model = bare
    assert model.backbone.load_state_dict(plain.state_dict(), strict=True)
    assert plain.load_state_dict(model.backbone.state_dict(), strict=True)
    assert list(model.state_dict()) == [f"backbone.{key}" for key in plain.state_dict()]


@pytest.mark.parametrize(
    ("spec", "name"),
    [(TINY, "cbam"), (TINY, "triple"), (RESNET, "se"), (RESNET, "gam")],
    ids=["densenet-cbam", "densenet-triple", "resnet18-se", "resnet18-gam"],
)
def test_every_site_takes_an_attention_forward_and_backward(spec, name):
    sites = _keeping(spec)
    model = _build(spec, Placement.from_dict({site.name: _entry(name) for site in sites}))
    logits = model(_images(spec))
    assert logits.shape == (2, 5)
    (logits.square().sum() + auxiliary_loss(model, torch.tensor([0, 1]))).backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    plain = [key for key in model.state_dict() if key.startswith("backbone.")]
    with torch.device("meta"):
        assert sorted(plain) == sorted(_build(spec, NOTHING).state_dict())
    for site in sites:
        assert any(key.startswith(f"attention.{site.name}.{name}.") for key in model.state_dict())


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_each_site_alone_changes_the_output(spec):
    images = _images(spec)
    plain = _build(spec, NOTHING).eval()(images)
    for site in _keeping(spec)[-4:]:
        model = _build(spec, Placement.from_dict({site.name: _entry("se")})).eval()
        _randomise(model.attention)
        assert not torch.equal(model(images), plain), site.name


def _randomise(module: nn.Module) -> None:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)


@pytest.mark.parametrize("kind", ["pre", "branch", "shortcut"])
def test_opening_a_block_alone_changes_nothing(kind):
    images = _images(RESNET)
    plain = _build(RESNET, NOTHING).eval()
    opened = _build(RESNET, Placement.from_dict({f"stage2.block1.{kind}": _entry("se")})).eval()
    insert = opened.insert_at(f"stage2.block1.{kind}")
    insert.se = nn.Identity()
    assert torch.equal(opened(images), plain(images))


def _by_hand(net: nn.Module, inserts: dict[str, Insert], images: torch.Tensor) -> torch.Tensor:
    """The second block of stage 1 written out, with what is inserted at its edges."""
    block, rest = net.layer1[1], [net.layer2, net.layer3, net.layer4, net.avgpool, nn.Flatten(), net.fc]
    x = net.layer1[0](net.maxpool(net.relu(net.bn1(net.conv1(images)))))
    branch = block.bn1(block.conv1(inserts["pre"](x)))
    branch = inserts["branch"](block.bn2(block.conv2(torch.relu(branch))))
    x = inserts["output"](torch.relu(branch + inserts["shortcut"](x)))
    for module in rest:
        x = module(x)
    return x


@pytest.mark.parametrize("wiring", WIRINGS)
def test_a_block_with_attention_is_what_its_formula_says(wiring):
    kinds = ["shortcut"] if wiring == "addend" else ["pre", "branch", "shortcut", "output"]
    sites = {kind: f"stage1.block2.{kind}" for kind in kinds}
    model = _build(RESNET, Placement.from_dict({site: _entry("cbam", wiring=wiring) for site in sites.values()})).eval()
    plain = build_backbone(RESNET, Shape(**SHAPE, image_size=9), seed=0).eval()
    attentions = {kind: model.insert_at(site).attention for kind, site in sites.items()}
    joins = {kind: getattr(model.insert_at(site), "join", None) for kind, site in sites.items()}
    formulas = {
        "gate": lambda kind, x: attentions[kind](x),
        "residual": lambda kind, x: x + attentions[kind](x),
        "addend": lambda kind, x: x + attentions[kind](x),
        "concat": lambda kind, x: joins[kind](torch.cat([x, attentions[kind](x)], 1)),
    }
    inserts = dict.fromkeys(["pre", "branch", "shortcut", "output"], lambda x: x)
    inserts |= {kind: lambda x, kind=kind: formulas[wiring](kind, x) for kind in kinds}
    images = _images(RESNET)
    torch.testing.assert_close(model(images), _by_hand(plain, inserts, images))


def test_copies_pickles_and_state_dicts_give_the_same_outputs():
    placement = Placement.from_dict(
        {
            "stage1.block1.pre": _entry("se"),
            "stage1.block1.output": _entry("cbam"),
            "stage2.block1.branch": _entry("triple"),
            "stage3.block1.shortcut": _entry("gam", wiring="concat"),
            "stage4.block2.output": _entry("se", wiring="residual"),
        }
    )
    model = _build(RESNET, placement).eval()
    _randomise(model.attention)
    images = _images(RESNET)
    expected = model(images)
    again = _build(RESNET, placement, seed=9).eval()
    again.load_state_dict(model.state_dict(), strict=True)
    copies = {"deepcopy": copy.deepcopy(model), "pickle": pickle.loads(pickle.dumps(model)), "state dict": again}
    for name, found in copies.items():
        assert torch.equal(found(images), expected), name
        assert list(found.state_dict()) == list(model.state_dict()), name
    with torch.no_grad():
        for parameter in model.attention.parameters():
            parameter.zero_()
    assert all(torch.equal(found(images), expected) for found in copies.values())  # they share nothing with it


def test_a_copy_after_a_training_step_holds_no_logits():
    model = _build(TINY, Placement.from_dict({"denseblock2": _entry("triple")}))
    model(_images(TINY))
    assert torch.equal(copy.deepcopy(model).eval()(_images(TINY)), model.eval()(_images(TINY)))


def test_a_hook_that_is_added_after_unpickling_does_not_replace_the_attention(monkeypatch):
    model = _build(TINY, Placement.from_dict({"denseblock1": _entry("se")})).eval()
    expected = model(_images(TINY))
    content = pickle.dumps(model)
    monkeypatch.setattr(RemovableHandle, "next_id", 0)  # as in a new process
    again = pickle.loads(content)
    for _ in range(3):
        again.get_submodule("backbone.features.denseblock1").register_forward_hook(lambda *seen: None)
    taken = max(again.get_submodule("backbone.features.denseblock1")._forward_hooks)
    assert RemovableHandle.next_id > taken
    assert len(again.get_submodule("backbone.features.denseblock1")._forward_hooks) == 4
    assert torch.equal(again(_images(TINY)), expected)


def test_two_placements_share_the_backbones_initial_weights():
    first = _build(TINY, Placement.from_dict({"denseblock1": _entry("gam")}), seed=7).state_dict()
    second = _build(TINY, Placement.from_dict({"transition1": _entry("se")}), seed=7).state_dict()
    shared = first.keys() & second.keys()
    assert shared == {key for key in first if key.startswith("backbone.")}
    assert all(torch.equal(first[key], second[key]) for key in shared)


def test_an_attentions_weights_depend_on_seed_site_and_attention_only():
    def weights(seed: int, site: str, *others: str) -> dict[str, torch.Tensor]:
        placement = Placement.from_dict({name: _entry("se") for name in (site, *others)})
        return _build(TINY, placement, seed=seed).insert_at(site).state_dict()

    first, beside = weights(1, "denseblock1"), weights(1, "denseblock1", "transition1", "denseblock1.layer1")
    assert all(torch.equal(first[key], beside[key]) for key in first)
    assert not any(torch.equal(first[key], weights(2, "denseblock1")[key]) for key in first if first[key].ndim > 1)
    elsewhere = weights(1, "denseblock2")
    assert not any(torch.equal(first[key], elsewhere[key]) for key in first if first[key].ndim > 1)


def test_the_global_generators_are_left_alone():
    before = torch.get_rng_state(), random.getstate()
    _build(RESNET, Placement.from_dict({"stage1.block1.branch": _entry("cbam")}))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_without_a_seed_torchs_own_decides():
    def weight() -> torch.Tensor:
        return build_model(TINY, NOTHING, **SHAPE, image_size=8).state_dict()["backbone.classifier.weight"]

    torch.manual_seed(3)
    first, second = weight(), weight()
    torch.manual_seed(3)
    assert torch.equal(weight(), first)
    assert not torch.equal(first, second)


def test_equal_keys_are_equal_models():
    written = Placement.from_dict({"stage1.block1.shortcut": _entry("cbam", wiring="addend", branches="channel")})
    resolved = resolve_placement(site_table(RESNET, **SHAPE, image_size=9), written)
    assert written != resolved
    first, second = (_build(RESNET, placement).state_dict() for placement in (written, resolved))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("spec", [TINY, RESNET], ids=["densenet", "resnet18"])
def test_the_closed_forms_count_what_is_built(spec):
    table = site_table(spec, **SHAPE, image_size=_size(spec))
    dice = random.Random(5)
    for _ in range(3):
        chosen = dice.sample(_keeping(spec), 4)
        entries = {site.name: _entry(dice.choice(list(OPTIONS)), wiring=dice.choice(WIRINGS[:3])) for site in chosen}
        placement = Placement.from_dict(entries)
        model = _build(spec, placement)
        cost = placement_cost(table, resolve_placement(table, placement))
        assert count_parameters(model) == cost.n_parameters, placement
        assert count_macs(model, (1, _size(spec), _size(spec))) == cost.n_macs, placement


def test_counting_leaves_the_model_as_it_was():
    model = _build(TINY, Placement.from_dict({"denseblock1": _entry("se")}))
    model.backbone.features.norm0.eval()
    modes = [module.training for module in model.modules()]
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    count_macs(model, (1, 9, 9))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, buffers[key]) for key, value in model.named_buffers())


def test_frozen_parameters_are_not_counted():
    model = _build(TINY, NOTHING)
    n_all = count_parameters(model)
    model.backbone.classifier.weight.requires_grad_(False)
    assert count_parameters(model) == n_all - model.backbone.classifier.weight.numel()


def test_the_model_says_what_it_is():
    placement = Placement.from_dict({"denseblock1": _entry("se")})
    model = _build(TINY, placement)
    assert (model.placement, model.image_size, model.num_classes, model.in_channels) == (placement, 9, 5, 1)
    assert model.spec["growth_rate"] == 4
    assert model.training
    assert model.preprocess is None
    assert build_model(TINY, NOTHING, num_classes=2).image_size == 32
    with pytest.raises(SpaceError, match="Nothing is placed at site 'denseblock2': the placement is se"):
        model.insert_at("denseblock2")


def test_another_image_size_and_memory_layout_pass_too():
    model = _build(RESNET, Placement.from_dict({"stage2.block1.branch": _entry("cbam")})).eval()
    model = model.to(memory_format=torch.channels_last)
    images = _images(RESNET)
    laid_out = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(laid_out), model(images))
    assert model(torch.randn(1, 1, 21, 17)).shape == (1, 5)


@pytest.mark.parametrize(
    ("spec", "placement", "sentence"),
    [
        (TINY, {"denseblok1": {"name": "se"}}, "Unknown site 'denseblok1' in backbone 'densenet': did you mean"),
        (TINY, {"denseblock1": {"name": "see"}}, r"Unknown attention 'see' at site 'denseblock1': did you mean 'se'"),
        (TINY, {"denseblock1": {"name": "se", "ratio": 2}}, "Unknown option of 'se' 'ratio' at site 'denseblock1'"),
        (TINY, {"denseblock1": {"name": "se", "reduction": 0}}, "Option 'reduction' of 'se' at site 'denseblock1'"),
        (TINY, {"denseblock1": {"name": "se", "reduction": 64}}, "does not fit site 'denseblock1': .*channels=16"),
        (TINY, {"denseblock1.branch": {"name": "se"}}, "Unknown site 'denseblock1.branch'"),
        (RESNET, {"stage1.block1.pre": _entry("se", wiring="addend")}, "Wiring 'addend' does not fit .*shortcut"),
        ("resnet19", {}, "Unknown backbone 'resnet19': did you mean 'resnet18'"),
        (3, {}, "A backbone must be a name, a mapping, a network or a function, but got 3"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(spec, placement, sentence):
    with pytest.raises(SpaceError, match=sentence):
        build_model(spec, Placement.from_dict(placement), **SHAPE, image_size=9)


def test_an_image_that_is_too_small_is_refused_with_both_sizes():
    with pytest.raises(SpaceError, match="takes images of 5x5 pixels or more, but got image_size=4"):
        build_model(RESNET, NOTHING, **SHAPE, image_size=4)


def test_a_hundred_attentions_on_one_name_do_not_collide():
    sites = [site for site in site_table(TINY, **SHAPE, image_size=9).sites if site.kind in SHAPE_KEEPING]
    model = _build(TINY, Placement.from_dict({site.name: _entry("se") for site in sites}))
    assert set(model.placement) == {site.name for site in sites}
    assert len({id(model.insert_at(site.name)) for site in sites}) == len(sites)
    assert model.get_submodule("attention.denseblock1.layer1") is model.insert_at("denseblock1.layer1")
    assert not any(OPENINGS in key for key in model.state_dict())
