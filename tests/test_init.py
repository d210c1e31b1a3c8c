"""`nas-attn init`: the file is valid as written, says what its groups are, and nothing is overwritten."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from nas_attn import SearchSpace
from nas_attn.backbones.site_table import site_table
from nas_attn.cli.commands import main
from nas_attn.run import dry_run

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, from which the networks of the tests can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HERE))
    return tmp_path


def init(words: str) -> int:
    return main(["init", *words.split()])


OWN = "own_networks:make_residual --channels 1 --image-size 8"


def test_the_file_of_an_own_network_says_what_each_group_is(folder, capsys):
    assert init(OWN) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Network: ResidualCNN, 6,309 parameters, images of 8x8.",
        "Space: se, eca, cbam at stage1.0, stage1.1, stage2.0 (one decision per site).",
        "make_residual.toml: edit it, then: nas-attn search --space make_residual.toml --data folder:PATH --dry-run",
    ]
    text = (folder / "make_residual.toml").read_text()
    assert "# stage1: the outputs of 2 blocks, 8 channels, maps of 8x8.\n# Other attentions that fit: " in text
    assert "# stage2: the output of 1 block, 16 channels, maps of 4x4.\n# Other attentions that fit: " in text
    assert max(map(len, text.splitlines())) <= 120
    record = tomllib.loads(text)
    assert record["backbone"] == {"import": "own_networks:make_residual"}
    assert [rule["match"] for rule in record["sites"]] == [["stage1.0", "stage1.1"], ["stage2.0"]]
    assert record["data"] == {"image_size": 8}
    assert "recipe" not in record


def test_it_is_searched_as_it_stands_and_with_every_comment_that_is_a_setting(folder, capsys, monkeypatch):
    monkeypatch.setattr(dry_run, "train", lambda *words, **named: {"seconds_per_epoch": 1.0})
    assert init(OWN) == 0
    file = folder / "make_residual.toml"
    assert main(["search", "--space", file.name, "--dry-run"]) == 0
    assert "Space: Attention in ResidualCNN, 512 placements." in capsys.readouterr().out
    setting = re.compile(
        r"^# (\[(?:limits|recipe)\]|(?:max_params|split|epochs|batch_size|optimizer|lr|weight_decay) =)", re.M
    )
    text, n_settings = setting.subn(r"\1", file.read_text())
    assert n_settings == 9
    file.write_text(text)
    assert main(["search", "--space", file.name, "--dry-run"]) == 0
    assert SearchSpace.load(file).limits.max_params == 7_600


@pytest.mark.parametrize(
    ("words", "n_decisions"),
    [("resnet18 stem=small --image-size 32", 8), ("mobilenet_v2", 7), ("densenet block_config=2,2 growth_rate=8", 3)],
)
def test_a_backbone_keeps_the_options_that_were_written_and_the_file_reads_back(words, n_decisions, capsys):
    assert init(f"{words} --classes 7 --out made.toml") == 0
    space = SearchSpace.load("made.toml", num_classes=7)
    assert len(space.bound.decisions) == n_decisions
    written = tomllib.loads(Path("made.toml").read_text())["backbone"]
    assert set(written) == {"name", *(word.partition("=")[0] for word in words.split() if "=" in word)}
    assert space.data["image_size"] == site_table(space.backbone, num_classes=7, in_channels=3, image_size=None if (
        "--image-size" not in words) else 32).image_size  # fmt: skip
    again = SearchSpace.from_dict(space.to_dict(), num_classes=7)
    assert again.bound.choices == space.bound.choices


def test_many_blocks_of_a_stage_are_one_shorthand(capsys):
    assert init("resnet101 --image-size 64") == 0
    record = tomllib.loads(Path("resnet101.toml").read_text())
    assert [rule["match"] for rule in record["sites"]][2] == ["stage3.every block"]
    assert {rule["share"] for rule in record["sites"]} == {"stage"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("own_networks:make_odd --channels 1 --classes 5 --image-size 8", "Error: No site of Odd takes attention"),
        ("own_networks:make_odd --channels 1", "Error: The network Odd does not accept images (2, 1, 64, 64)"),
        ("own_networks:make_nothing", "must return a torch module, but returned object"),
        ("own_networks.py", "write own_networks:make_net."),
        ("resnet18 stem", "must be KEY=VALUE, but got 'stem'"),
        ("lenet --image-size 3", "'--image-size' must be a whole number from 4 to 2,048, but got 3."),
        ("lenet --out there/is/none.toml --image-size 8", "takes images of"),
    ],
)
def test_what_cannot_be_surveyed_is_one_sentence_and_writes_nothing(words, sentence, folder, capsys):
    assert init(words) == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert len(printed.splitlines()) == 1
    assert list(folder.iterdir()) == []


def test_an_existing_file_is_never_overwritten(folder, capsys):
    (folder / "lenet.toml").write_text("mine")
    assert init("lenet") == 2
    assert "never overwritten, but lenet.toml exists: choose another --out" in capsys.readouterr().err
    assert (folder / "lenet.toml").read_text() == "mine"
    (folder / "file").touch()
    assert init("lenet --out file/x.toml") == 2
    assert "The space file file/x.toml cannot be written: " in capsys.readouterr().err
