"""Backbones of timm: `timm:NAME` wherever a backbone's name is taken, with sites as a network of one's own has them."""

from __future__ import annotations

import json
import logging
import os
import sys
from importlib import metadata

import pytest
import timm
import torch
from backbone_cases import everywhere, quick_draws

from nas_attn import files
from nas_attn.backbones import site_table as table_module
from nas_attn.backbones import timm_names
from nas_attn.backbones.build import build_backbone
from nas_attn.backbones.catalog import check_backbone, check_shape
from nas_attn.backbones.site_table import site_survey, site_table
from nas_attn.backbones.timm_names import timm_network
from nas_attn.cli.commands import main
from nas_attn.cost import count_macs, count_parameters
from nas_attn.errors import FileError, SpaceError
from nas_attn.model import build as model_module
from nas_attn.model.build import build_model
from nas_attn.model.file import load_model, save_model
from nas_attn.placement import Placement, Shape
from nas_attn.space.fit import placement_cost
from nas_attn.space.schema import space_schema
from nas_attn.space.search_space import SearchSpace

SHAPE = {"num_classes": 5, "in_channels": 3, "image_size": 32}
RESNET = "timm:test_resnet"
FACTS = {"mean": [0.0] * 3, "std": [1.0] * 3, "class_names": list("abcde")}
FAMILIES = {
    "test_resnet": 32,
    "test_efficientnet": 32,
    "test_efficientnet_gn": 32,
    "test_byobnet": 32,
    "test_nfnet": 32,
    "test_convnext": 64,
    "mobilenetv3_small_050": 32,
    "repvgg_a0": 32,
    "ghostnet_050": 32,
    "hrnet_w18_small": 64,
}
LARGE = ("repvgg_a0", "ghostnet_050", "hrnet_w18_small")


def images(size: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def block(name: str = "eca", **options) -> Placement:
    return Placement.from_dict({"layer2.0.branch": {"name": name, **options}})


# Networks.


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.nightly) if name in LARGE else name for name in FAMILIES]
)
def test_a_family_is_timm_s_bit_for_bit_and_takes_attention_at_many_sites(name):
    size = FAMILIES[name]
    shape = {**SHAPE, "image_size": size}
    with quick_draws():
        torch.manual_seed(3)
        theirs = timm.create_model(name, num_classes=5)
        empty = build_model(f"timm:{name}", Placement(), **shape, seed=3)
        empty.backbone.load_state_dict(theirs.state_dict(), strict=True)
        with torch.no_grad():
            assert torch.equal(empty.eval()(images(size)), theirs.eval()(images(size)))
        table = site_table(f"timm:{name}", **shape)
        model = build_model(f"timm:{name}", _some(table), **shape, seed=3)
    assert (table.backbone, table.n_parameters) == (f"timm:{name}", count_parameters(theirs))
    assert {site.kind for site in table.sites} >= {"output", "head"}
    assert len(model.placement) >= 8
    logits = model.train()(images(size))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert [key for key, weight in model.attention.named_parameters() if weight.grad is None] == []
    assert model.eval()(images(size)).isfinite().all()


def _some(table):
    """Something at the edges of blocks, and at a few other places that no second name has."""
    chosen = everywhere(table).attentions
    outputs = [site for site in table.sites if site.kind == "output" and site.name == site.module]
    edges = [site for site in table.sites if site.kind not in ("output", "conv")]
    return Placement({site.name: chosen[site.name] for site in [*outputs[::5], *edges] if site.name in chosen})


def test_the_seed_decides_the_weights_and_placements_share_them():
    first, second = (build_model(RESNET, placed, **SHAPE, seed=4) for placed in (Placement(), block()))
    state = second.backbone.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in first.backbone.state_dict().items())


def test_its_options_go_to_timm_as_they_are():
    spec = {"name": "timm:test_convnext", "drop_path_rate": 0.5, "drop_rate": 0.25}
    net = build_backbone(spec, Shape(**SHAPE), seed=0)
    assert net.head.drop.p == 0.25
    assert any(type(module).__name__ == "DropPath" and module.drop_prob == 0.5 for module in net.modules())
    names = {site.name for site in site_table(spec, **{**SHAPE, "image_size": 64}).sites}
    assert "stages.1.blocks.0.branch" in names


def test_a_network_made_for_one_size_is_told_the_image_size():
    net = build_backbone("timm:test_vit", Shape(**SHAPE), seed=0)
    assert net.patch_embed.img_size == (32, 32)
    assert build_backbone({"name": "timm:test_vit", "img_size": 48}, Shape(**SHAPE), seed=0).patch_embed.img_size == (
        48,
        48,
    )


def test_costs_of_a_placement_equal_those_of_the_built_network():
    table = site_table(RESNET, **SHAPE)
    model = build_model(RESNET, _some(table), **SHAPE, seed=0)
    cost = placement_cost(table, _some(table))
    assert (cost.n_parameters, cost.n_macs) == (count_parameters(model), count_macs(model, (3, 32, 32)))


def test_a_tap_lies_behind_what_takes_its_module_s_place():
    placed = {
        "layer1.0.conv1": {"name": "eca"},
        "layer1.0.conv1.conv": {"name": "deform"},
        "layer1.0.bn1": {"name": "eca"},
    }
    model = build_model(RESNET, Placement.from_dict(placed), **SHAPE, seed=0)
    model(images()).square().sum().backward()
    assert [key for key, weight in model.attention.named_parameters() if weight.grad is None] == []


# Inception-ResNet-v2.


@pytest.mark.nightly
def test_inception_resnet_v2_opens_its_forty_blocks_and_comes_back_from_its_files(tmp_path):
    name, shape = "timm:inception_resnet_v2", {**SHAPE, "image_size": 75}
    with torch.device("meta"):
        theirs = timm.create_model("inception_resnet_v2", num_classes=5)
    with quick_draws():
        table = site_table(name, **shape)
    assert len({site.module for site in table.sites if site.kind == "branch"}) == 40
    assert table.n_parameters == count_parameters(theirs)
    placement = Placement.from_dict(
        {site.name: {"name": "eca"} for site in table.sites if site.kind in ("branch", "shortcut", "pre")}
    )
    assert len(placement) == 120
    with quick_draws():
        model = build_model(name, placement, **shape, seed=0)
        before = model.insert_at("repeat.0.branch").eca.conv.weight.detach().clone()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        model.train()(images(75)).square().mean().backward()
        assert [key for key, weight in model.named_parameters() if weight.grad is None] == []
        optimizer.step()
        assert not torch.equal(before, model.insert_at("repeat.0.branch").eca.conv.weight)
        save_model(model.eval(), tmp_path / "best.json", record=FACTS)
        again = load_model(tmp_path / "best.json")
        with torch.no_grad():
            expected = model(images(75))
            assert torch.equal(again(images(75)), expected)
            exported = torch.export.export(model, (images(75),)).module()
            torch.testing.assert_close(exported(images(75)), expected)


def test_an_image_that_the_network_cannot_take_is_one_sentence_with_timm_s_own_size():
    with pytest.raises(
        SpaceError,
        match=r"^The network InceptionResnetV2 does not accept images \(2, 3, 32, 32\): .*; timm's own images for "
        r"it are 299x299\.$",
    ):
        site_table("timm:inception_resnet_v2", **SHAPE)


def test_logits_of_another_shape_are_one_sentence():
    spec = {"name": "timm:test_vit", "global_pool": ""}
    message = r"^The network timm:test_vit must return \(2, 5\) .*, but returns \(2, 5, 5\): "
    with pytest.raises(SpaceError, match=message):
        site_table(spec, **SHAPE)


# Names and options.


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnt18", r"Unknown network of timm 'resnt18' in x\.toml: did you mean 'resnet18'\? Known: .* more\."),
        ("", r"Backbone 'timm:' in x\.toml must be timm: and a name of timm's registry"),
        ("hf-hub:timm/resnet18.a1_in1k", r"without a source, a path or a tag\.$"),
        ("hf_hub:timm/resnet18", r"without a source, a path or a tag\.$"),
        ("local-dir:/etc", r"without a source, a path or a tag\.$"),
        ("local-dir", r"without a source, a path or a tag\.$"),
        ("../resnet18", r"without a source, a path or a tag\.$"),
        ("resnet18.a1_in1k", r"without a source, a path or a tag: write weights = 'a1_in1k'\.$"),
    ],
)
def test_a_name_that_is_not_in_timm_s_registry_is_refused(name, sentence):
    with pytest.raises(SpaceError, match=sentence):
        check_backbone(f"timm:{name}", "x.toml")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"pretrained": True},
            r"'timm:test_resnet' in x\.toml takes no 'pretrained': use weights in \[backbone\]",
        ),
        ({"checkpoint_path": "a.pth"}, "takes no 'checkpoint_path': use weights in"),
        ({"pretrained_cfg": {"file": "a.pth"}}, "takes no 'pretrained_cfg': use weights in"),
        ({"num_classes": 3}, "takes no 'num_classes': it follows from the data"),
        (
            {"act_layer": torch.nn.SiLU},
            "Option 'act_layer' of .* in x.toml must be a word, a number, or a list or table",
        ),
    ],
)
def test_an_option_that_is_not_timm_s_to_have_is_refused(options, sentence):
    with pytest.raises(SpaceError, match=sentence):
        check_backbone({"name": RESNET, **options}, "x.toml")


def test_what_timm_refuses_is_said_in_one_sentence():
    spec = {"name": RESNET, "drop_rat": 0.1}
    with pytest.raises(
        SpaceError,
        match=r"^timm refuses to build 'test_resnet' for 5 classes, drop_rat=0\.1: .*argument 'drop_rat'.*\.$",
    ):
        build_backbone(spec, Shape(**SHAPE), seed=0)


def test_without_timm_the_sentence_says_how_to_install_it(monkeypatch, tmp_path):
    model = build_model(RESNET, block(), **SHAPE, seed=0)
    save_model(model, tmp_path / "best.json", record=FACTS)

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(timm_names.metadata, "version", missing)
    with pytest.raises(SpaceError, match=r"needs timm, which is not installed: pip install 'nas_attn\[timm\]', or pip"):
        check_backbone(RESNET)
    with pytest.raises(FileError, match=r"best\.json cannot be built: A backbone called timm:NAME needs timm"):
        load_model(tmp_path / "best.json")


def test_a_timm_that_does_not_import_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SpaceError, match=r"^timm [\d.]+ cannot be imported: ModuleNotFoundError: .*\.$"):
        timm_names.load_timm()


# The cache.


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and nothing remembered by this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for remembered in (table_module._remembered, timm_names._registry):
        remembered.cache_clear()
    yield tmp_path / "cache" / "nas_attn"
    for remembered in (table_module._remembered, timm_names._registry):
        remembered.cache_clear()


def test_a_known_network_is_planned_without_an_import_of_timm_or_torch(cache, run_python):
    found = site_survey(check_backbone(RESNET), Shape(**SHAPE))
    assert found.copied
    assert found.table.refusals
    code = f"""
import sys
from nas_attn.backbones.catalog import check_backbone
from nas_attn.backbones.site_table import site_survey
from nas_attn.placement import Shape
found = site_survey(check_backbone({RESNET!r}), Shape(5, 3, 32))
assert (len(found.table.sites), len(found.table.refusals)) == ({len(found.table.sites)}, {len(found.table.refusals)})
assert not {{"timm", "torch", "torchvision"}} & set(sys.modules), "loaded too much"
"""
    done = run_python("-c", code, env={"XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]})
    assert done.returncode == 0, done.stderr
    table_module._remembered.cache_clear()
    assert site_survey(check_backbone(RESNET), Shape(**SHAPE)) == found


def test_another_version_of_timm_is_another_entry(cache, monkeypatch):
    site_table(RESNET, **SHAPE)
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "99" if name == "timm" else version(name))
    table_module._remembered.cache_clear()
    site_table(RESNET, **SHAPE)
    assert len(list((cache / "sites").iterdir())) == len(list((cache / "timm").iterdir())) == 2


def test_a_kept_registry_that_is_damaged_is_read_again(cache):
    first = timm_network(RESNET)
    (file,) = (cache / "timm").iterdir()
    text = file.read_text()
    for damaged in (text[:99], json.dumps({"digest": files._record_digest([1]), "record": [1]})):
        file.write_text(damaged)
        timm_names._registry.cache_clear()
        assert timm_network(RESNET) == first
        assert file.read_text() == text


def test_the_default_image_size_is_timm_s_own():
    assert check_shape(check_backbone(RESNET), num_classes=5, in_channels=3, image_size=None).image_size == 160
    assert timm_network("timm:inception_resnet_v2").image_size == 299
    with pytest.raises(SpaceError, match=r"Backbone 'timm:test_resnet' needs image_size >= 1, but got image_size=0"):
        site_table(RESNET, **{**SHAPE, "image_size": 0})


# Where a backbone's name is taken.


def test_a_model_comes_back_from_its_files_without_a_factory(tmp_path):
    spec = {"name": "timm:test_byobnet", "drop_rate": 0.5}
    site = next(site.name for site in site_table(spec, **SHAPE).sites if site.kind == "branch")
    model = build_model(spec, Placement.from_dict({site: {"name": "se", "reduction": 4}}), **SHAPE, seed=0).eval()
    save_model(model, tmp_path / "best.json", record=FACTS)
    assert json.loads((tmp_path / "best.json").read_text())["backbone"] == spec
    again = load_model(tmp_path / "best.json")
    with torch.no_grad():
        assert torch.equal(again(images()), model(images()))


@pytest.mark.parametrize("backbone", [RESNET, {"name": RESNET, "drop_path_rate": 0.1}])
def test_a_space_takes_its_name(backbone, tmp_path):
    record = {
        "title": "Test",
        "backbone": backbone,
        "sites": [{"match": ["layer*.*.branch"], "attentions": ["se", "eca"], "share": "site"}],
    }
    space = SearchSpace.from_dict(record, num_classes=5, image_size=32)
    assert space.backbone["name"] == RESNET
    assert space.bound.n_placements == 3**4
    assert SearchSpace.from_dict(space.to_dict()).backbone == space.backbone


def test_the_schema_knows_it():
    choices = space_schema()["properties"]["backbone"]["anyOf"]
    assert {"type": "string", "pattern": r"^timm:\w+$"} in choices
    assert any(choice.get("required") == ["name"] and "additionalProperties" not in choice for choice in choices)


def test_the_command_line_draws_its_sites(capsys):
    words = ("--image-size", "32", "--num-classes", "5")
    assert main(["sites", RESNET, "drop_rate=0.1", "zero_init_last=false", *words]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("timm:test_resnet  3 channels, 32x32 pixels, 5 classes; 373,173 parameters")
    assert main(["sites", "timm:test_resnt"]) == 2
    assert "did you mean 'test_resnet'?" in capsys.readouterr().err


def test_a_dry_run_plans_it(capsys, tmp_path):
    space = tmp_path / "mine.toml"
    space.write_text(
        f'title = "Mine"\n[backbone]\nname = "{RESNET}"\n[[sites]]\nmatch = ["layer*.*.branch"]\nattentions = ["eca"]\n'
    )
    words = ("--image-size", "16", "--batch-size", "8", "--out", str(tmp_path / "run"), "--dry-run")
    assert main(["search", "--space", str(space), *words]) == 0
    shown = capsys.readouterr().out
    assert "16 placements" in shown
    assert "Nothing was started." in shown


# Squeeze-and-excitation that it has.


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("mobilenetv3_small_050", 9),
        *(pytest.param(*row, marks=pytest.mark.nightly) for row in (("legacy_seresnet18", 8), ("seresnet18", 8))),
        pytest.param("ese_vovnet19b_slim_dw", 4, marks=pytest.mark.nightly),
    ],
)
def test_its_own_squeeze_and_excitation_is_found_and_taken_out(name, n):
    with quick_draws():
        plain = site_table(f"timm:{name}", **SHAPE)
        without = site_table({"name": f"timm:{name}", "replace": "se"}, **SHAPE)
    assert len(plain.built_in) == n
    assert not without.built_in
    assert without.n_parameters < plain.n_parameters


def test_attention_on_top_of_it_is_warned_of(caplog):
    model_module._warn_once.cache_clear()
    name = "timm:mobilenetv3_small_050"
    site = next(site.name for site in site_table(name, **SHAPE).sites if site.kind == "branch")
    with caplog.at_level(logging.WARNING, "nas_attn"):
        build_model(name, Placement.from_dict({site: {"name": "eca"}}), **SHAPE, seed=0)
    assert f"'{name}' has 9 built-in squeeze-and-excitation modules" in caplog.text
