"""A search without a space file: the space that is made, networks in memory, the default for the data."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import own_networks as own
import pytest
import torch
from ray import cloudpickle
from torch import nn
from torch.utils.data import TensorDataset

from nas_attn import SearchSpace, load_model, search
from nas_attn.backbones.catalog import check_backbone
from nas_attn.backbones.own_network import OwnNetwork
from nas_attn.backbones.site_table import own_table, site_table
from nas_attn.cli.commands import main
from nas_attn.config import DataConfig
from nas_attn.data.catalog import DATA
from nas_attn.data.dataset import describe
from nas_attn.data.memory import NAME, data_source_of
from nas_attn.errors import ConfigError, RunError, SpaceError
from nas_attn.model.build import build
from nas_attn.placement import Placement, Shape
from nas_attn.run import dry_run
from nas_attn.run.provenance import describe_run
from nas_attn.run.request import Request, bind, read_settings
from nas_attn.space.default_space import MOST_DECISIONS, default_space
from nas_attn.training.context import register_all, registered_here

SHAPE = {"num_classes": 5, "in_channels": 1, "image_size": 8}
SMALL = {"trials": 2, "epochs": 1, "seeds": 1, "top": 1, "controls": 0, "executor": "local"}
TARGETS = torch.arange(60) % 5
IMAGES = torch.randint(0, 256, (60, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
SETS = TensorDataset(IMAGES, TARGETS), None, TensorDataset(IMAGES[:40], TARGETS[:40])


def bound(**stated: Any) -> Request:
    return bind(read_settings({"executor": "local", **stated}))


def own_net(num_classes: int, in_channels: int) -> nn.Module:
    return own.PlainCNN(num_classes, in_channels)


# --- the space that is made from the sites


@pytest.mark.parametrize(
    ("make", "sites"),
    [
        (own.ResidualCNN, ["stage1.0", "stage1.1", "stage2.0"]),  # blocks that can be opened
        (own.PlainCNN, ["features.1", "features"]),  # no parts that have parts: the ends of equal channels
        (lambda: own.wrap(own.TwoAdditions(8, 8)), ["1"]),
    ],
    ids=["blocks", "plain", "unopened"],
)
def test_the_sites_are_the_outputs_of_blocks_or_of_parts(make, sites):
    made = default_space(own_table(make(), **SHAPE))
    assert [site.name for group in made.groups for site in group.sites] == sites
    assert made.attentions == ("se", "eca", "cbam")
    assert made.share == "site"
    space = SearchSpace.from_dict(made.to_dict(None)).bind(own_table(make(), **SHAPE))
    assert [decision.name for decision in space.decisions] == sites


@pytest.mark.parametrize(
    ("name", "n_decisions", "share"),
    [("resnet18", 8, "site"), ("densenet", 5, "site"), ("lenet", 2, "site"), ("mobilenet_v2", 7, "stage")],
)
def test_many_sites_share_one_decision_per_stage(name, n_decisions, share):
    spec = check_backbone(name)
    table = site_table(spec, num_classes=10, in_channels=3)
    made = default_space(table)
    assert made.share == share
    assert n_decisions <= MOST_DECISIONS
    assert len(SearchSpace.from_dict(made.to_dict(spec)).bind(table).decisions) == n_decisions


def test_an_attention_is_left_out_where_it_does_not_fit():
    table = own_table(own.ResidualCNN(), **SHAPE)
    narrow = tuple(replace(site, channels=1) if site.name == "stage1.0" else site for site in table.sites)
    made = default_space(replace(table, sites=narrow))
    assert {group.sites[0].name: group.attentions for group in made.groups} == {
        "stage1.0": ("eca",),
        "stage1.1": ("se", "eca", "cbam"),
        "stage2.0": ("se", "eca", "cbam"),
    }
    assert made.options["se"] == {"reduction": (4, 8)}


def test_a_network_without_a_site_is_refused_with_the_reason_for_each_part():
    with pytest.raises(
        SpaceError, match=r"No site of Odd takes attention .* 'never': it never runs; .* 'conv': it runs 2"
    ):
        default_space(own_table(own.Odd(), **SHAPE))


# --- which space, in which network


def test_a_backbone_alone_is_searched_and_its_space_is_stored():
    request = bound(backbone="lenet", data="digits")
    assert request.settings.out == Path("runs/lenet").absolute()
    assert request.backbone["name"] == "lenet"
    assert any("made from the sites of lenet: se, eca, cbam at stage1.block1" in note for note in request.notes)
    stored = describe_run(request)["space"]
    assert stored["name"] == "lenet"
    assert [rule["match"] for rule in stored["sites"]] == [["stage1.block1.output"], ["stage2.block1.output"]]


def test_options_and_own_functions_are_written_in_the_same_line():
    settings = read_settings({"backbone": "own_networks:make_residual"})
    assert settings.space.backbone == {"import": "own_networks:make_residual"}
    assert read_settings({"backbone": "resnet18 stem=small"}).space.backbone["stem"] == "small"
    assert read_settings({"network": own.make_residual}).space.backbone == {"import": "own_networks:make_residual"}


def test_a_space_without_a_backbone_takes_one(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('title = "t"\n[[sites]]\nmatch = ["every block"]\nattentions = ["eca"]\n')
    assert read_settings({"space": file, "backbone": "resnet18"}).space.backbone["name"] == "resnet18"
    in_memory = bound(space=file, network=own.ResidualCNN(10), data="digits")
    assert in_memory.bound.attentions == ("eca",)
    assert isinstance(in_memory.backbone, OwnNetwork)


@pytest.mark.parametrize(
    ("stated", "error", "sentence"),
    [
        (
            {"space": "lenet_attn", "backbone": "resnet18"},
            SpaceError,
            r"has its own \('lenet'\) and 'resnet18' is stated",
        ),
        (
            {"space": "lenet_attn", "network": own.PlainCNN()},
            SpaceError,
            "and 'PlainCNN' is stated beside it: leave one",
        ),
        ({"space": own.PlainCNN()}, SpaceError, "is a space .* but got a PlainCNN: pass a network as network="),
        ({"backbone": "lenet", "network": own.PlainCNN()}, ConfigError, "got both backbone=... and network="),
        (
            {"network": "lenet"},
            ConfigError,
            "must be a function that returns a network, or a torch module, but got 'lenet'",
        ),
        ({"backbone": "lenett"}, SpaceError, "Unknown backbone 'lenett': did you mean 'lenet'"),
        ({"backbone": "lenet small"}, SpaceError, "must be KEY=VALUE, but got 'small'"),
        ({"backbone": "nets.py"}, SpaceError, "write nets:make_net"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(stated, error, sentence):
    with pytest.raises(error, match=sentence) as found:
        read_settings({"executor": "local", **stated})
    assert len(str(found.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("data", "space", "size"),
    [("digits", "densenet_attn", None), ("mnist", "densenet_attn", None), ("cifar10", "resnet18_attn", None)],
)
def test_the_default_space_suits_the_images(data, space, size):
    settings = read_settings({"data": data})
    assert settings.space.name == space
    assert settings.data is not None
    assert settings.data.image_size == size


def test_natural_images_are_searched_with_a_resnet_at_their_own_size_and_a_note_says_so(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(40, 36, 36, 3), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", train_images=pixels, train_labels=np.arange(40) % 2)
    request = bound(data=f"npz:{tmp_path / 'mine.npz'}")
    assert request.shape == Shape(2, 3, 36)
    notes = " ".join(request.notes)
    assert "No space was named, so resnet18_attn is searched with images of 36x36. Its resnet18 suits" in notes
    assert "There are only 6 test images" in notes
    assert not any("only" in note for note in bound(data="digits").notes)


def test_the_plan_of_a_command_without_a_space_file_says_what_was_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run, "train", lambda *words, **named: {"seconds_per_epoch": 1.0})
    assert main(["search", "--backbone", "own_networks:make_residual", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "Network: built by own_networks:make_residual, which is imported and called." in printed
    assert "one was made from the sites of ResidualCNN: se, eca, cbam at stage1.0, stage1.1, stage2.0 (one" in printed
    assert "Run folder: runs/make_residual, which is new." in printed


def test_a_training_that_reads_its_own_images_takes_a_network_too():
    request = bound(network=own.PlainCNN(), train="math:sqrt", **SHAPE)
    assert request.shape == Shape(**SHAPE)
    assert [decision.name for decision in request.bound.decisions] == ["features.1", "features"]
    assert bound(train="math:sqrt", **SHAPE | {"num_classes": 10}).settings.space.name == "densenet_attn"


# --- a network in memory


def test_every_trial_copies_a_module_with_its_weights_and_a_function_draws_new_ones():
    net = own.PlainCNN()
    where = Placement.from_dict({"features": {"name": "eca"}})
    first, second = (build(OwnNetwork(net), where, Shape(**SHAPE), seed=seed) for seed in (1, 2))
    for model in (first, second):
        assert torch.equal(model.backbone.classifier.weight, net.classifier.weight)
        assert model.backbone.classifier.weight is not net.classifier.weight
    made = OwnNetwork(lambda: own.PlainCNN())
    weights = [build(made, where, Shape(**SHAPE), seed=seed).backbone.classifier.weight for seed in (1, 2, 1)]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_its_identity_is_its_structure_its_source_and_the_weights_of_a_module():
    net, other = own.PlainCNN(), own.PlainCNN()

    def identity(source: Any) -> dict[str, str]:
        return OwnNetwork(source).identity(Shape(**SHAPE))

    assert identity(net) == identity(net)
    assert identity(net)["own"] == "PlainCNN"
    assert identity(net)["sha256"] != identity(other)["sha256"]
    makers: list[Callable[..., nn.Module]] = [lambda: own.PlainCNN(), lambda: own.ResidualCNN()]
    assert identity(makers[0]) == identity(makers[0])
    assert identity(makers[0])["sha256"] != identity(makers[1])["sha256"]


def test_a_network_that_cannot_be_sent_to_workers_is_refused_where_there_are_any():
    net = own.PlainCNN()
    net.lock = threading.Lock()
    with pytest.raises(
        ConfigError, match=r"must be pickled for the workers of executor 'tune', but cannot be \(.*lock"
    ):
        read_settings({"network": net, "executor": "tune"})
    assert read_settings({"network": net, "executor": "local"}).choice.network is not None


def test_a_network_and_images_in_memory_reach_a_worker():
    with data_source_of(SETS, None) as name:
        facts = describe(DataConfig(name=name))
        sent = cloudpickle.dumps((OwnNetwork(lambda: own.PlainCNN()), registered_here()))
    assert NAME not in DATA
    network, records = cloudpickle.loads(sent)
    try:
        register_all(records)
        assert describe(DataConfig(name=NAME)).fingerprint == facts.fingerprint
    finally:
        DATA.unregister(NAME)
    assert network.make(Shape(**SHAPE))(IMAGES[:2].float()).shape == (2, 5)


def test_a_whole_search_with_a_module_over_images_in_memory_resumes_and_refuses_another_network(tmp_path):
    net, out = own.PlainCNN(), tmp_path / "run"
    before = [weight.clone() for weight in net.parameters()]
    run = search(network=net, data=SETS, out=out, **SMALL)
    assert all(torch.equal(weight, kept) for weight, kept in zip(net.parameters(), before, strict=True))
    assert run.config["space"]["backbone"]["own"] == "PlainCNN"
    assert [rule["match"] for rule in run.config["space"]["sites"]] == [["features.1", "features"]]
    assert run.best["backbone"] == {"own": "PlainCNN"}
    text = (out / "log.txt").read_text()
    assert "Each trial begins with a copy of the PlainCNN that was passed in, with its weights" in text
    assert "There are only 40 test images" in text
    model = load_model(out, backbone=net)
    assert model.preprocess is not None
    assert model(model.preprocess(IMAGES[:3])).shape == (3, 5)
    again = search(network=net, data=SETS, out=out, **SMALL)
    assert len(again.search) == len(run.search)
    with pytest.raises(RunError, match=r"belongs to another search \(space\.backbone\.sha256 was"):
        search(network=own.PlainCNN(), data=SETS, out=out, **SMALL)
    with pytest.raises(RunError, match=r"belongs to another search \(data\.facts\.fingerprint was"):
        search(network=net, data=(SETS[0], None, TensorDataset(255 - IMAGES[:40], TARGETS[:40])), out=out, **SMALL)
    assert NAME not in DATA


SCRIPT = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from nas_attn import search

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.classifier(self.second(self.first(x)).mean((2, 3)))

if __name__ == "__main__":
    images, targets = torch.rand(90, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(90) % 2
    train, test = TensorDataset(images[:50], targets[:50]), TensorDataset(images[50:], targets[50:])
    sets = DataLoader(train, batch_size=8, shuffle=True), None, test
    run = search(network=lambda num_classes: Net(num_classes), data=sets, out="run", trials=2, epochs=1, seeds=1, top=1)
    print("retrained:", len(run.retrain))
"""


@pytest.mark.nightly
def test_what_a_script_defines_and_holds_reaches_the_workers_of_ray_and_is_resumed(run_python, tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    first, again = (run_python("script.py", timeout=250) for _ in range(2))
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert first.stdout == again.stdout
    assert re.search(r"^retrained: [1-9]", first.stdout, re.MULTILINE)
