"""`nas-attn sites`: a network as a tree, with what fits where."""

from __future__ import annotations

import re

import pytest

from nas_attn.backbones.table import site_table
from nas_attn.cli import main


def _shown(capsys, *words: str) -> str:
    assert main(["sites", *words]) == 0
    return capsys.readouterr().out


def test_every_site_is_drawn_once_with_its_channels_and_map(capsys):
    shown = _shown(capsys, "resnet18", "stem=small", "--image-size", "9")
    table = site_table({"name": "resnet18", "stem": "small"}, num_classes=10, in_channels=3, image_size=9)
    assert len(re.findall(r"\d+x\d+x\d+, ", shown)) == len(table.sites)
    assert f"resnet18  3 channels, 9x9 pixels, 10 classes; {table.n_parameters:,} parameters" in shown
    assert re.search(r"├── stage2\n│   ├── block1\n│   │   ├── pre  64x9x9, all \d+ that keep a shape\n", shown)
    assert "merge  128x5x5, aff, iaff, daf" in shown
    assert "head  512x2x2, attention_pool" in shown


def test_what_does_not_fit_is_named(capsys):
    shown = _shown(capsys, "resnet18", "stem=small", "--image-size", "9")
    assert "conv1  conv, 64x9x9, sk, deform" in shown
    assert "conv2  conv, 64x9x9, deform" in shown  # no ReLU follows
    narrow = _shown(capsys, "densenet", "growth_rate=8", "block_config=2,2")
    assert re.search(r"layer1  output, 8x32x32, all \d+ that keep a shape but se, se_bn, cbam,", narrow)


def test_a_space_and_a_network_of_ones_own_are_drawn_too(capsys):
    assert "denseblock3" in _shown(capsys, "densenet_attn")
    assert "resnet18  3 channels, 32x32 pixels" in _shown(capsys, "resnet18_attn")
    own = _shown(capsys, "own_networks:PlainCNN", "--num-classes", "5", "--in-channels", "1", "--image-size", "8")
    assert own.startswith("PlainCNN  1 channels, 8x8 pixels, 5 classes")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["resnet81"], "Unknown backbone 'resnet81': did you mean 'resnet18'?"),
        (["resnet18", "stm=small"], "Unknown option of backbone 'resnet18' 'stm': did you mean 'stem'?"),
        (["resnet18", "small"], "An option of a network must be KEY=VALUE, but got 'small': write stem=small."),
        (["resnet18", "--image-size", "8"], "takes images of 17x17 pixels or more, but got image_size=8"),
        (
            ["own_networks:Nothing", "--image-size", "8"],
            "import 'own_networks:Nothing' cannot be loaded",
        ),
        (["nowhere.toml"], "Unknown space 'nowhere.toml'"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_sentence(words, sentence, capsys):
    assert main(["sites", *words]) == 2
    assert sentence in capsys.readouterr().err
