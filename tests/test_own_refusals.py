"""A part of a user's network that cannot take attention, or a network that cannot, is refused in one sentence."""

from __future__ import annotations

import own_networks as own
import pytest
import torch
from own_realistic import LazyNet, NestedNet, TiedNet
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from nas_attn.backbones.site_table import site_table
from nas_attn.backbones.survey.survey import survey
from nas_attn.errors import ConfigError, FileError, SpaceError
from nas_attn.model.build import build_model
from nas_attn.model.file import load_model, save_model
from nas_attn.placement import Placement, Shape
from nas_attn.run.job import search

SHAPE = {"num_classes": 5, "in_channels": 3, "image_size": 8}
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
RECORD = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "class_names": list("abcde")}


def _at(site: str, name: str = "se", **options) -> Placement:
    return Placement.from_dict({site: {"name": name, **options}})


class Part(nn.Module):
    """A convolution, a part that the test gives, and a classifier."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.conv, self.part, self.fc = nn.Conv2d(3, 8, 3, padding=1), part, nn.Linear(8, 5)

    def forward(self, x):
        found = self.part(self.conv(x))
        found = found["maps"] if isinstance(found, dict) else found
        return self.fc((found[0] if isinstance(found, tuple) else found).mean((2, 3)))


class Two(nn.Module):
    """Gives more than a map."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind, self.inner = kind, nn.ReLU()

    def forward(self, x):
        return {"maps": self.inner(x), "count": 1} if self.kind is dict else (self.inner(x), x)


class Standardised(nn.Conv2d):
    """A convolution with a forward of its own."""

    def forward(self, x):
        return functional.conv2d(x, self.weight - self.weight.mean(), self.bias, padding=1)


def _conv() -> nn.Conv2d:
    return nn.Conv2d(8, 8, 3, padding=1)


def _hooked() -> nn.Conv2d:
    conv = _conv()
    conv.register_forward_hook(lambda module, args, output: output + 1)
    return conv


@pytest.mark.parametrize(
    ("part", "site", "sentence"),
    [
        (lambda: Two(tuple), "part", r"it returns 2 outputs \(tuple\), but must return a map"),
        (lambda: Two(dict), "part", r"it returns 2 outputs \(dict\), but must return a map"),
        (lambda: Two(dict), "part.branch", r"Block 'part' cannot be opened: it returns 2 outputs \(dict\)"),
        (lambda: parametrizations.weight_norm(_conv()), "part.conv", "its weights are computed by a parametrization"),
        (lambda: parametrizations.spectral_norm(_conv()), "part.conv", "its weights are computed by a parametrization"),
        (lambda: Standardised(8, 8, 3, padding=1), "part.conv", "Standardised has a forward of its own"),
        (_hooked, "part.conv", "it has hooks of its own"),
        (lambda: _conv().requires_grad_(False), "part.conv", "its weights are frozen, but an attention in its place"),
        (lambda: nn.Conv2d(8, 8, 1), "part.conv", "it must be a 3x3 convolution with zero padding that keeps the map"),
        (
            lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
            "part.conv",
            "it must be a 3x3 convolution with zero padding",
        ),
        (lambda: nn.AdaptiveAvgPool2d(2), "part.head", "it must pool to one pixel"),
    ],
)
def test_a_part_that_is_no_site_says_why_and_the_others_stay_sites(part, site, sentence):
    name = {"conv": "deform", "head": "attention_pool"}.get(site.rpartition(".")[2], "se")
    with pytest.raises(SpaceError, match=f"Nothing can be placed at '{site}' of backbone 'Part': {sentence}"):
        build_model(Part(part()), _at(site, name), **SHAPE)
    build_model(Part(part()), _at("conv", reduction=2), **SHAPE)(IMAGES).sum().backward()


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_weights_take_attention_behind_them(norm):
    net = Part(norm(_conv()))
    model = build_model(net, _at("part", reduction=2), **SHAPE)
    model(IMAGES).sum().backward()
    assert model.backbone.part.parametrizations.weight[0] is not net.part.parametrizations.weight[0]
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert model.backbone.load_state_dict(net.state_dict(), strict=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_what_torch_jit_has_compiled_is_refused_in_words():
    part = torch.jit.script(nn.Sequential(_conv(), nn.ReLU()))
    for net, words in ((Part(part), "Part 'part' of the network"), (part, "The network")):
        message = f"{words} is compiled by torch.jit, and its copies cannot be trained: pass the original module."
        with pytest.raises(SpaceError, match=message):
            build_model(net, Placement(), **SHAPE)


@pytest.mark.parametrize(
    ("wrapped", "sentence"),
    [
        (
            lambda net: nn.DataParallel(net),
            r"The network is wrapped in DataParallel: pass the wrapped module \(its .module\)",
        ),
        (lambda net: torch.compile(net, backend="eager"), r"is wrapped in OptimizedModule: .* \(its ._orig_mod\)"),
        (lambda net: nn.Sequential(nn.DataParallel(net)), "Part '0' of the network is wrapped in DataParallel"),
        (lambda net: net.to("meta"), "The network's weights must have values, but 'conv.weight' is on the meta device"),
    ],
)
def test_a_network_that_is_wrapped_or_empty_is_refused_in_words(wrapped, sentence):
    net = wrapped(Part(nn.ReLU()))
    for backbone in (net, lambda: net):
        with pytest.raises(SpaceError, match=sentence):
            build_model(backbone, Placement(), **SHAPE)


def test_a_lazy_network_is_initialised_by_the_seed_and_one_that_must_be_copied_is_refused():
    first, again = (build_model(LazyNet, _at("features", reduction=2), **SHAPE, seed=1) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first.parameters(), again.parameters(), strict=True))
    assert first(IMAGES).shape == (4, 5)
    net = LazyNet()
    with pytest.raises(
        SpaceError, match=r"'features.0.weight' of the network is lazy and cannot be copied: run the network once"
    ):
        build_model(net, Placement(), **SHAPE)
    net(IMAGES)
    net.never = nn.LazyConv2d(3, 1)
    with pytest.raises(SpaceError, match=r"'never.weight' of the network is lazy, and a pass does not initialise it"):
        build_model(lambda: net, Placement(), **SHAPE)


class Pried(Part):
    """Reads a number of a class from a block."""

    def forward(self, x):
        return super().forward(x) * type(self.part).n_calls


class Counted(own.Block):
    """A block with something that only its class has."""

    n_calls = 2


def test_a_block_of_which_the_network_reads_more_than_its_forward_stays_closed():
    with pytest.raises(SpaceError, match="Block 'part' cannot be opened: the network uses more of it than its forward"):
        build_model(Pried(Counted(8, 8)), _at("part.branch"), **SHAPE)
    assert "part" in {site.name for site in survey(Pried(Counted(8, 8)), Shape(**SHAPE)).table.sites}


class TupleInTraining(Part):
    """Has a second head in training."""

    def forward(self, x):
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


def make_tuple() -> nn.Module:
    return TupleInTraining(nn.ReLU())


def make_nothing() -> nn.Module:
    raise RuntimeError("no such thing\nat all")


A_NETWORK = nn.Identity()


def test_a_network_for_a_search_gives_logits_in_training_too():
    spec = {"import": f"{__name__}:make_tuple"}
    with pytest.raises(SpaceError, match=r"for 2 images of 5 classes in training, but returns 2 outputs \(tuple"):
        site_table(spec, **SHAPE)
    assert build_model(make_tuple(), _at("conv", reduction=2), **SHAPE).eval()(IMAGES).shape == (4, 5)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("make_nothing", "make_nothing' raised RuntimeError: no such thing."),
        (
            "A_NETWORK",
            "A_NETWORK' must be a function that returns a network, but is a Identity: every model needs a new",
        ),
    ],
)
def test_a_function_that_makes_no_network_is_refused_in_words(function, sentence):
    with pytest.raises(SpaceError, match=sentence):
        site_table({"import": f"{__name__}:{function}"}, **SHAPE)


def test_a_network_itself_is_no_name_of_one():
    with pytest.raises(ConfigError, match=r"backbone=\.\.\. must name a network, but got a TiedNet: .* network="):
        search("densenet_attn", backbone=TiedNet())


def test_a_file_says_what_to_pass_and_where_a_network_has_changed_since(tmp_path):
    model = build_model(NestedNet, _at("stages.low-level.0", reduction=2), **SHAPE)
    save_model(model, tmp_path / "best.json", record=RECORD)
    with pytest.raises(FileError, match=r"a network of your own \(NestedNet\): pass it, or a function that makes it"):
        load_model(tmp_path / "best.json")

    def changed() -> nn.Module:
        net = NestedNet()
        net.tail[0] = nn.Conv2d(8, 8, 1, bias=False)
        return net

    with pytest.raises(FileError, match=r"'backbone.tail.0.bias' must be absent, but is"):
        load_model(tmp_path / "best.json", backbone=changed)


def sized_net(num_classes: int, in_channels: int, width: int = 8) -> nn.Module:
    """Return a network as a space's `import` makes it: of what the data says, and an option."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, num_classes),
    )


def test_a_function_gets_what_it_takes_of_the_shape_and_of_the_options_in_the_file(tmp_path):
    assert build_model(sized_net, _at("0", reduction=2), **SHAPE)(IMAGES).shape == (4, 5)
    spec = {"import": f"{__name__}:sized_net", "width": 6}
    model = build_model(spec, _at("0", reduction=2), **SHAPE)
    record = {"mean": [0.5] * 3, "std": [0.5] * 3, "class_names": list("abcde")}
    save_model(model, tmp_path / "best.json", record=record)
    again = load_model(tmp_path / "best.json", backbone=sized_net)
    assert torch.equal(again(IMAGES), model.eval()(IMAGES))
    closed = load_model(tmp_path / "best.json", backbone=lambda: sized_net(5, 3, 6))
    assert torch.equal(closed(IMAGES), again(IMAGES))
    with pytest.raises(SpaceError, match="The backbone's function raised KeyError: 'no'"):
        build_model(lambda: {}["no"], Placement(), **SHAPE)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_whose_weights_are_not_finite_is_refused_by_the_name_of_the_first(value):
    net = own.PlainCNN()
    nn.init.constant_(net.features[2][1].bias, value)
    with pytest.raises(
        SpaceError, match=r"weights must be finite, but 'features\.2\.1\.bias' has NaN or infinite values"
    ):
        build_model(net, Placement(), image_size=8)
