"""`nas-attn sites`: a network as a tree, with what fits where."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from nas_attn.backbones.site_table import site_table
from nas_attn.cli.commands import main


def _shown(capsys, *words: str) -> str:
    assert main(["sites", *words]) == 0
    return capsys.readouterr().out


def test_every_site_is_drawn_once_with_its_channels_and_map(capsys):
    shown = _shown(capsys, "resnet18", "stem=small", "--image-size", "9")
    table = site_table({"name": "resnet18", "stem": "small"}, num_classes=10, in_channels=3, image_size=9)
    tree, _, foot = shown.partition("\n\n")
    assert len(re.findall(r"  \d+x\d+x\d+  ", tree)) == len(table.sites)
    assert f"resnet18  3 channels, 9x9 pixels, 10 classes; {table.n_parameters:,} parameters" in tree
    assert re.search(r"├── stage2\n│   ├── block1\n│   │   ├── pre +64x9x9 +any\n", tree)
    assert re.search(r"merge +128x5x5 +aff, iaff, (\w+, )*daf\n", tree)
    assert re.search(r"head +512x2x2 +attention_pool", tree)
    columns = {
        line.index("x", line.index("x") - 4) for line in tree.splitlines() if " any" in line and "64x9x9" in line
    }
    assert len(columns) == 1  # one below the other
    assert re.search(r"any +the \d\d that keep a map's shape: (\w+, )*se, ", foot)


def test_what_does_not_fit_is_named(capsys):
    shown = _shown(capsys, "resnet18", "stem=small", "--image-size", "9")
    assert re.search(r"conv1 +conv +64x9x9 +(\w+, )*sk, (\w+, )*deform", shown)
    assert re.search(r"conv2 +conv +64x9x9 +(?!.*\bsk\b)(\w+, )*deform", shown)  # no ReLU follows
    narrow = _shown(capsys, "densenet", "growth_rate=8", "block_config=2,2")
    assert re.search(r"layer1 +output +8x32x32 +any but \[1\]\n", narrow)
    assert re.search(
        r"\[1\] +only with other options than their defaults, or on a larger map: (\w+, )*se, .*\bcbam,", narrow
    )


def test_the_foot_says_what_kinds_and_shorthands_stand_for(capsys):
    foot = _shown(capsys, "mobilenet_v2").partition("\n\n")[2]
    assert re.search(r"branch +10  at the end of a residual branch, before the addition\n", foot)
    assert re.search(r"pre, branch, shortcut, merge  in some blocks: only a block that keeps the map's size", foot)
    assert re.search(r"last +stage7\.block1\.output\n", foot)
    assert re.search(r"every block +17 sites, stage1\.block1\.output to stage7\.block1\.output\n", foot)
    assert re.search(r"every block\.KIND +10 pre, 10 branch, 10 shortcut, 17 hidden, 17 conv, 10 merge\n", foot)
    assert re.search(r"stageN\.\* +3 in stage1, 10 in stage2,", foot)


def test_a_network_of_ones_own_says_which_modules_are_no_sites(capsys):
    shown = _shown(capsys, "own_networks:make_odd", "--num-classes", "5", "--in-channels", "1", "--image-size", "8")
    assert re.search(r"conv +it runs 2 times, but must run once\n", shown)
    assert re.search(r"never +it never runs\n", shown)
    words = "it returns a tensor of shape"
    assert re.search(rf"flat and 1 more +{words}|flat +{words} \(2, 64\)", shown)


def test_the_foot_wraps_to_the_terminal(capsys, monkeypatch):
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setenv("COLUMNS", "60")
    foot = _shown(capsys, "lenet").partition("\n\n")[2]
    assert max(len(re.sub(r"\x1b\[[\d;]*m", "", line)) for line in foot.splitlines()) <= 60


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
