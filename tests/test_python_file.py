"""A network of the catalogue becomes one Python file that computes the same with torch and torchvision alone."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from types import ModuleType

import own_networks as own
import pytest
import torch
from conftest import at_night
from torch import nn

from nas_attn import build_model
from nas_attn.attention.catalog import ATTENTIONS, register_attention
from nas_attn.attention.entry import Entry
from nas_attn.backbones.catalog import BACKBONES, backbone_entry, check_backbone
from nas_attn.backbones.site_table import site_table
from nas_attn.errors import FileError
from nas_attn.model.build import AttentionModel
from nas_attn.model.description import ModelFile
from nas_attn.model.python_file import python_source
from nas_attn.placement import NONE, Attention, Placement
from nas_attn.space.fit import misfit

OPTIONS = {"sk": {"groups": None, "min_hidden": 4}, "sge": {"groups": 4}, "attention_pool": {"heads": 2}}
PREACT = {"name": "preact_resnet", "width": 8}
SMALL = ("lenet", "mini_xception", "squeezenet")


def placed(spec: object, names: list[str], size: int, *, wiring: str, start: str) -> AttentionModel:
    """A network with each attention at the first site that it fits, and no weight at its initial value."""
    shape = {"num_classes": 5, "in_channels": 3, "image_size": size}
    free = list(site_table(spec, **shape).sites)
    placement = {}
    for name in names:
        joining = {"wiring": wiring if ATTENTIONS[name].keeps_shape else "gate", "start": start}
        attention = Attention(name, OPTIONS.get(name, {}), **joining)
        site = next((site for site in free if misfit(site, attention) is None), None)
        if site is not None:
            free.remove(site)
            placement[site.name] = attention
    model = build_model(spec, Placement(placement), **shape, seed=0)
    torch.manual_seed(0)
    for parameter in model.attention.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def described(model: AttentionModel, **changed: object) -> ModelFile:
    facts = {"class_names": list("abcde"), "image_size": model.image_size, "mean": [0.5] * 3, "std": [0.2] * 3}
    return ModelFile.model_construct(**{**facts, "arm": "found #1", "logits_of": "classes", **changed})


@pytest.fixture
def alone() -> Iterator[ModuleType]:
    """A module in which a written file runs."""
    module = ModuleType("alone")
    vars(module)["__file__"] = "alone.py"
    sys.modules["alone"] = module
    yield module
    del sys.modules["alone"]


def same_outputs(model: AttentionModel, alone: ModuleType) -> str:
    """Run the written file, compare its outputs with the model's for a batch of three images; return the source."""
    source = python_source(model, described(model), "weights.pt")
    exec(compile(source, "alone.py", "exec"), vars(alone))
    network = alone.make_network()
    network.load_state_dict(model.state_dict())
    images = torch.randn(3, 3, model.image_size, model.image_size)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), model(images), atol=1e-4, rtol=1e-4)
    return source


@pytest.mark.parametrize("half", [0, 1], ids=["the first half", "the second half"])
def test_every_attention_computes_the_same(half: int, alone: ModuleType) -> None:
    names = [name for name in ATTENTIONS.own[half::2] if not ATTENTIONS[name].neutral]
    model = placed(PREACT, names, 16, wiring="gate", start="own")
    assert {attention.name for attention in model.placement.attentions.values()} == set(names)
    same_outputs(model, alone)


@pytest.mark.parametrize("name", at_night(BACKBONES.own, but=SMALL))
def test_every_network_computes_the_same_with_every_wiring_and_start(name: str, alone: ModuleType) -> None:
    number = list(BACKBONES.own).index(name)
    size = max(32, backbone_entry(name).image_sizes(check_backbone(name))[0])
    wiring, start = ("residual", "concat", "gate")[number % 3], ("identity", "own")[number % 2]
    names = list(ATTENTIONS.own)[number % 3 :: 3]
    same_outputs(placed(name, names, size, wiring=wiring, start=start), alone)


def test_the_file_is_readable_and_imports_torch_alone(alone: ModuleType) -> None:
    source = same_outputs(placed(PREACT, ["cbam", "sk", "aff"], 16, wiring="gate", start="own"), alone)
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).partition(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported - sys.stdlib_module_names == {"torch"}
    assert ast.get_docstring(ast.parse(source)).startswith("preact_resnet with 3 attention modules, 'found #1'.")
    assert "Source: Woo et al." in source
    assert "require_fit" not in source
    assert "autograd" not in source
    assert max(map(len, source.splitlines())) <= 120
    assert list(alone.CLASS_NAMES) == list("abcde")
    assert (alone.IMAGE_SIZE, alone.STD) == (16, (0.2, 0.2, 0.2))


def test_the_file_takes_images_and_gives_probabilities(alone: ModuleType) -> None:
    model = placed("lenet", ["se"], 32, wiring="gate", start="own")
    exec(compile(python_source(model, described(model), "w.pt"), "alone.py", "exec"), vars(alone))
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(alone.preprocess(pixels), (pixels / 255 - 0.5) / 0.2)
    torch.testing.assert_close(alone.preprocess(pixels / 255), alone.preprocess(pixels))
    assert alone.preprocess(torch.rand(1, 3, 50, 40)).shape == (1, 3, 32, 32)
    assert alone.WEIGHTS.name == "w.pt"
    logits = torch.tensor([[0.3, -1.0]])
    expected = {
        "classes": logits.softmax(1),
        "labels": logits.sigmoid(),
        "second_class": torch.cat([1 - logits.sigmoid(), logits.sigmoid()], 1),
    }
    for meaning, probabilities in expected.items():
        exec(python_source(model, described(model, logits_of=meaning), "w.pt"), vars(alone))
        torch.testing.assert_close(alone.probabilities(logits), probabilities)
    assert "def probabilities" not in python_source(model, described(model, logits_of=None), "w.pt")


def test_taken_out_attention_stays_out(alone: ModuleType) -> None:
    spec = {"name": "mobilenet_v3_small", "replace": "se", "width_mult": 0.25}
    source = same_outputs(placed(spec, ["eca"], 32, wiring="gate", start="own"), alone)
    assert "take_out_se(net)" in source


def test_a_network_of_ones_own_is_refused() -> None:
    model = build_model(own.PlainCNN(), NONE, num_classes=5, in_channels=1, image_size=16)
    with pytest.raises(FileError, match=r"of the catalogue, but 'PlainCNN' is none of them: use --torch-export"):
        python_source(model, described(model), "w.pt")


def test_an_attention_of_a_plug_in_is_refused() -> None:
    register_attention(Entry("my_gate", MyGate, "A gate", "y = 2 x", "none"))
    try:
        model = placed("lenet", ["my_gate"], 32, wiring="gate", start="own")
        with pytest.raises(FileError, match=r"attentions of the catalogue, but 'my_gate' comes from test_python_file"):
            python_source(model, described(model), "w.pt")
    finally:
        ATTENTIONS.unregister("my_gate")


class MyGate(nn.Module):
    """An attention that another package could have."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((channels, 1, 1), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gain
