"""Bad input about networks and their sites: one sentence with the reason or the nearest name, by both doors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nas_attn import SearchSpace, build_model
from nas_attn.cli.commands import main
from nas_attn.errors import FileError, SpaceError
from nas_attn.placement import Attention, Placement

SHAPE = {"num_classes": 5, "in_channels": 1}
BUDGET = ("--trials", "1", "--epochs", "1", "--seeds", "1", "--executor", "local", "--dry-run")


def _built(backbone, site: str, attention: str = "simam", **shape):
    return build_model(backbone, Placement({site: Attention(attention)}), **{**SHAPE, **shape})


def _space(folder: Path, backbone: str, pattern: str, attention: str = "simam") -> Path:
    path = folder / "mine.toml"
    path.write_text(
        f'title = "t"\n[backbone]\nname = "{backbone}"\n'
        f'[[sites]]\nmatch = ["{pattern}"]\nattentions = ["{attention}"]\n'
    )
    return path


@pytest.mark.parametrize(
    ("backbone", "site", "sentence"),
    [
        (
            "densenet",
            "denseblock1.branch",
            r"Unknown site 'denseblock1\.branch' in backbone 'densenet': none of its sites is of kind 'branch' \(a "
            r"layer's maps are concatenated with those before, and nothing is added\); its kinds are output, conv, "
            r"head\.",
        ),
        ("shufflenet_v2", "stage1.block1.merge", r"\(a block's halves are concatenated and shuffled, not added\)"),
        ("squeezenet", "head", r"none of its sites is of kind 'head' \(what it pools to a pixel is the scores of the"),
        ("lenet", "stage1.block1.conv", r"none of its sites is of kind 'conv' \(its convolutions are 5x5\)"),
        ("resnet18", "stage1.block1.hidden", r"\(a basic block's branch has no 1x1 convolution at its end\)"),
        (
            "preact_resnet",
            "stage2.block1.pre",
            r"in backbone 'preact_resnet' \(where the size or the channels change, the shortcut begins with the "
            r"branch's norm and ReLU\): did you mean 'stage2\.block\d\.pre'",
        ),
        (
            "mobilenet_v2",
            "stage1.block1.branch",
            r"'mobilenet_v2' \(only a block that keeps the map's size and channels is added to its input\): did",
        ),
    ],
)
def test_a_kind_that_a_family_does_not_have_is_refused_with_the_reason(backbone, site, sentence):
    with pytest.raises(SpaceError, match=sentence) as refusal:
        _built(backbone, site)
    assert "\n" not in str(refusal.value)


def test_a_reason_that_has_nothing_to_do_with_a_name_is_not_given():
    with pytest.raises(
        SpaceError, match=r"Unknown site 'stage9\.block1\.branch' in backbone 'mobilenet_v2': did you mean"
    ):
        _built("mobilenet_v2", "stage9.block1.branch")


def test_of_many_sites_the_nearest_few_are_named_and_the_command_that_lists_them():
    with pytest.raises(
        SpaceError, match=r"Unknown site 'stage3\.block2\.brunch' in backbone 'resnet18': did you m"
    ) as refusal:
        _built("resnet18", "stage3.block2.brunch")
    sentence = str(refusal.value)
    assert "did you mean 'stage3.block2.branch'? Known: stage3.block2.branch, " in sentence
    assert sentence.endswith(" and 49 more (`nas-attn sites resnet18` lists them).")
    assert sentence.count("stage") <= 11


def test_a_pattern_is_no_name_of_a_placement():
    with pytest.raises(
        SpaceError, match=r"must name each site, but got 'stage\*\.block1\.branch' for backbone 'resnet18': use patt"
    ):
        _built("resnet18", "stage*.block1.branch")


@pytest.mark.parametrize(
    ("backbone", "pattern", "sentence"),
    [
        (
            "densenet",
            "stage*.block*.branch",
            r"matches no site of densenet: none of its sites is of kind 'branch' \(a layer",
        ),
        ("resnet18", "stage1.blok*.branch", r"did you mean 'stage1\.block1\.branch'\? Known: stage1\.block1\.branch, "),
        ("resnet18", "stage1.blok*.branch", r"\(`nas-attn sites .*mine\.toml` lists them\)\."),
        ("lenet", "stage1.blok1.output", r"did you mean 'stage1\.block1\.output'\? Known: stage1\.block1\.output, "),
    ],
)
def test_a_pattern_without_a_site_is_refused_by_both_doors(backbone, pattern, sentence, tmp_path, monkeypatch, capsys):
    path = _space(tmp_path, backbone, pattern)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpaceError, match=rf"^Pattern '.*' in \[\[sites\]\] 1 of mine\.toml .*{sentence}"):
        SearchSpace.load(path, **SHAPE).bound.choices  # noqa: B018
    assert main(["search", "--space", "mine.toml", *BUDGET]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"Error: Pattern '{pattern}' in [[sites]] 1 of mine.toml ")
    assert err.count("\n") == 1


def test_weights_of_another_network_are_refused_at_the_first_key_that_differs(tmp_path, monkeypatch, capsys):
    torch.save(build_model("lenet", Placement(), **SHAPE).backbone.state_dict(), tmp_path / "lenet.pt")
    with pytest.raises(
        FileError, match=r"lenet\.pt do not fit the network: 'features\.0\.weight' must be \(16, 1, 3, 3\), "
    ):
        build_model(
            {"name": "cats_dogs_cnn", "weights": str(tmp_path / "lenet.pt")}, Placement(), **SHAPE, image_size=32
        )
    path = _space(tmp_path, "cats_dogs_cnn", "conv3x3", "deform")
    path.write_text(path.read_text().replace("[[sites]]", 'weights = "lenet.pt"\n[[sites]]'))
    monkeypatch.chdir(tmp_path)
    assert main(["search", "--space", "mine.toml", *BUDGET]) == 2
    assert "do not fit the network: 'features.0.weight' must be " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("resnt50", "Unknown backbone 'resnt50': did you mean 'resnet50'? Known: alexnet, "),
        (
            "vgg16 --image-size 31",
            "'vgg16' takes images of 32x32 pixels or more, but got image_size=31: its default is 224.",
        ),
        ("my_nets.py", "A network of your own is MODULE:FUNCTION, but got 'my_nets.py': write my_nets:make_net."),
        ("own_networks:make_residual", "must be stated: add --image-size, such as 64."),
        ("own_networks:make_residul --image-size 16", "'own_networks:make_residul' cannot be loaded: "),
        ("no_such_module:net --image-size 16", "'no_such_module:net' cannot be loaded: No module named"),
        ("own_networks:make_nothing --image-size 16", "must return a torch module, but returned object"),
        ("own_networks:make_odd --image-size 16 --in-channels 1", "does not accept images (2, 1, 16, 16): "),
    ],
)
def test_what_cannot_be_listed_is_refused_in_one_sentence(words, sentence, capsys):
    assert main(["sites", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert sentence in err
