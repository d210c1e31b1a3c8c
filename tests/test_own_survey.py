"""How the sites of a network are found: each tensor once, on smaller images where it may be, and with what is wrong."""

from __future__ import annotations

import pytest
import torch
from own_networks import PlainCNN, ResidualCNN
from torch import nn

from nas_attn.backbones.passes import dry_pass
from nas_attn.backbones.survey import survey as module
from nas_attn.backbones.survey.survey import survey
from nas_attn.cli.commands import main
from nas_attn.errors import SpaceError
from nas_attn.model.build import build_model
from nas_attn.placement import Placement, Shape
from nas_attn.run.request import bind, read_settings


def table_of(net, size=16, classes=5):
    return survey(net, Shape(classes, 1, size)).table


class Identities(nn.Module):
    """Identities behind a norm, behind an activation in place, and on a shortcut."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.drop = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Identity()
        self.act, self.blur, self.shortcut = nn.ReLU(inplace=True), nn.Identity(), nn.Identity()
        self.more = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Sequential(nn.BatchNorm2d(8), nn.Identity()))
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.blur(self.act(self.drop(self.bn(self.conv(x)))))
        return self.fc((self.shortcut(x) + self.more(x)).mean((2, 3)))


@pytest.mark.parametrize("make", [PlainCNN, ResidualCNN, Identities])
def test_each_tensor_is_one_site(make):
    net = make().eval()
    table = table_of(net)
    outputs = [site.name for site in table.sites if site.kind == "output"]
    passages = dry_pass(net, torch.randn(1, 1, 16, 16), outputs)
    names = [name for name in outputs if not name.endswith(("shortcut", "drop"))]  # in training, dropout is a step
    assert len({(id(passages[name].tensor), passages[name].version) for name in names}) == len(names)


def test_an_identity_is_one_place_with_what_comes_before_it_unless_something_else_reads_that():
    table = table_of(Identities())
    assert table.doubles == {"drop": "bn", "blur": "act", "more.1": "more", "more.1.0": "more", "more.1.1": "more"}
    assert "shortcut" in {site.name for site in table.sites}
    placed = Placement.from_dict({name: {"name": "eca"} for name in ("bn", "drop")})
    with pytest.raises(SpaceError, match="Sites 'bn' and 'drop' are one place: leave one of them out"):
        build_model(Identities(), placed, image_size=16)


def test_a_placement_that_names_a_double_keeps_its_name_and_is_the_same_model():
    torch.manual_seed(0)
    net = Identities().eval()
    images = torch.randn(2, 1, 16, 16)
    outputs = []
    for name in ("drop", "bn"):
        model = build_model(net, Placement.from_dict({name: {"name": "ese"}}), image_size=16, seed=1).eval()
        assert any(key.startswith(f"attention.{name}.") for key in model.state_dict())
        for parameter in model.attention.parameters():
            nn.init.constant_(parameter, 0.1)
        outputs.append(model(images))
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], net(images))


class BySize(nn.Module):
    """Runs one more module on large images, or fails on small ones."""

    def __init__(self, least=0):
        super().__init__()
        self.least = least
        self.conv, self.large = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        if x.shape[-1] < self.least:
            raise ValueError("too small")
        y = self.conv(x)
        return self.fc((self.large(y) if x.shape[-1] > 100 else y).mean((2, 3)))


@pytest.mark.parametrize(("net", "sizes"), [(BySize(), [64, 128]), (BySize(128), [64, 128]), (PlainCNN(), [64])])
def test_a_network_is_checked_on_smaller_images_only_if_it_runs_alike_there(net, sizes, monkeypatch):
    plain, seen = module.first_passes, []

    def noted(trial, images, *others):
        seen.append(images.shape[-1])
        return plain(trial, images, *others)

    monkeypatch.setattr(module, "first_passes", noted)
    table = table_of(net, 128)
    assert seen == sizes
    site = table.site("large" if isinstance(net, BySize) else "features.2.0")
    assert (site.height, table.image_size) == (64, 128)
    if isinstance(net, PlainCNN):
        monkeypatch.setattr(module, "_SMALLER", ())
        assert table_of(net, 128) == table


class Ending(PlainCNN):
    def __init__(self, end, *, only_evaluated=False):
        super().__init__()
        self.end, self.only_evaluated = end, only_evaluated

    def forward(self, x):
        x = super().forward(x)
        return x if self.only_evaluated and self.training else self.end(x)


class Reshaped(nn.Module):
    def forward(self, x):
        return x.softmax(1).unsqueeze(2).view(len(x), -1)


@pytest.mark.parametrize(
    ("net", "end"),
    [
        (Ending(nn.Softmax(1)), "softmax"),
        (Ending(Reshaped()), "softmax"),
        (Ending(nn.Sigmoid()), "a sigmoid"),
        (Ending(nn.Softmax(1), only_evaluated=True), "softmax in evaluation"),
        (Ending(nn.LogSoftmax(1)), None),  # the loss of log-probabilities is that of the logits
        (PlainCNN(), None),
    ],
)
def test_a_network_that_returns_no_logits_is_named_in_a_sentence(net, end):
    squashed = table_of(net).squashed
    wanted = "" if end is None else f"'{type(net).__name__}' ends in {end}, but is trained and read as if it returned "
    assert squashed.startswith(wanted)
    assert bool(squashed) == (end is not None)


def make_softmax(num_classes, in_channels):
    return Ending(nn.Softmax(1))


def test_the_plan_and_the_listing_say_that_a_softmax_is_at_the_end(capsys):
    words = {"network": make_softmax, "num_classes": 5, "in_channels": 1, "image_size": 16}
    own = bind(read_settings({**words, "train": lambda model, run: 0.5}))
    assert not any("softmax" in note for note in own.notes)
    plan = bind(read_settings({"network": make_ten, "data": "digits"}))
    assert [note for note in plan.notes if note.startswith("'Ending' ends in softmax, but is trained")]
    words = ("sites", "test_own_survey:make_softmax", "--image-size", "16", "--classes", "5", "--in-channels", "1")
    assert main([word.replace("--classes", "--num-classes") for word in words]) == 0
    assert "'Ending' ends in softmax" in capsys.readouterr().out


def make_ten(num_classes, in_channels):
    net = Ending(nn.Softmax(1))
    net.classifier = nn.Linear(16, num_classes)
    return net
