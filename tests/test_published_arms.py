"""Published networks, files and the last stage as further arms of a comparison."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas_attn.errors import Refused
from nas_attn.run.extent import runs_and_epochs
from nas_attn.run.job import search
from nas_attn.run.request import bind, read_settings
from nas_attn.space.published import load_published

SPACE = """
title = "One place in mini_XCEPTION"

[backbone]
name = "mini_xception"

[[sites]]
match = ["stage4.block1.branch"]
attentions = ["se"]
"""
RUN = {"trials": 2, "epochs": 1, "batch_size": 64, "seeds": 2, "top": 1, "image_size": 16, "executor": "local"}
RUN |= {"split": (0.1, 0.1, 0.1)}  # a tenth of the digits is enough to be tested on


def test_a_published_network_is_an_arm_of_the_comparison(tmp_path: Path) -> None:
    space, out = tmp_path / "space.toml", tmp_path / "run"
    space.write_text(SPACE)
    before = search(space, out=out, **RUN)
    assert {row.label for row in before.retrain} == {"none", "found #1 = se everywhere"}

    label = "published:cbam_mini_xception"
    run = search(space, out=out, arm=label, **RUN)
    arms = {row.label: row for row in run.retrain}
    assert set(arms) == {"none", "found #1 = se everywhere", label}
    assert len(run.search) == len(before.search)
    assert len(run.retrain) == len(before.retrain) + RUN["seeds"]
    assert {row.seed for row in run.retrain if row.label == label} == {20_000, 20_001}

    core = 2 * (7 * 7 - 5 * 5)  # on a map of 3x3, a 7x7 kernel is its 5x5 core
    grey_digits = 56_951 + 3 * (128 * 9 + 1) + 390 - core  # three classes more
    assert arms[label].n_parameters == grey_digits
    placement = load_published("cbam_mini_xception").placement()
    assert list(run.config["arms"]) == [label]
    assert list(run.config["arms"][label]) == list(arms[label].placement) == list(placement)
    assert label in (out / "arms.csv").read_text()
    assert label in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("cbam_resnet50", "'--arm' must be published:NAME, last-stage or the path of a JSON file .*, but got cbam_re"),
        ("none.json", r"'--arm' names the file none\.json, but there is none\."),
        ("published:cbam_resnet81", "Unknown published network 'cbam_resnet81': did you mean 'cbam_resnet18'"),
        (
            "published:cbam_resnet18",
            "An arm must be in the space's backbone, but 'cbam_resnet18' is in 'resnet18' and .*space.toml in "
            "'mini_xception'",
        ),
    ],
)
def test_an_arm_that_cannot_be_is_refused_before_anything_starts(tmp_path: Path, arm: str, message: str) -> None:
    space = tmp_path / "space.toml"
    space.write_text(SPACE)
    with pytest.raises(Refused, match=message):
        search(space, out=tmp_path / "run", arm=[arm], **RUN)
    assert not (tmp_path / "run").exists()


def test_an_arm_counts_in_the_plan_and_equal_ones_once(tmp_path: Path) -> None:
    space = tmp_path / "space.toml"
    space.write_text(SPACE)
    words = ("published:cbam_mini_xception", "published:cbam_mini_xception")
    requests = [bind(read_settings({"space": space, **RUN, "arm": arms})) for arms in ((), words)]
    assert [runs_and_epochs(request)["retrain"][0] for request in requests] == [4 * 2, 5 * 2], "one arm is random"


def test_a_file_and_the_last_stage_are_arms(tmp_path: Path) -> None:
    space, file = tmp_path / "space.toml", tmp_path / "mine.json"
    space.write_text(SPACE.replace('["stage4.block1.branch"]', '["stage*.block1.branch"]'))
    placement = {"stage2.block1.branch": {"name": "eca", "kernel_size": 3}}
    for content in (placement, {"placement": placement, "digest": "of a model file"}):
        file.write_text(json.dumps(content))
        request = bind(read_settings({"space": space, **RUN, "arm": [str(file), "last-stage"]}))
        assert list(request.arms) == ["mine", "se in the last stage"]
        assert list(request.arms["mine"]) == ["stage2.block1.branch"]
        assert list(request.arms["se in the last stage"]) == ["stage4.block1.branch"]
    for content, message in (("{", "must be a JSON file with a placement"), ("[1]", "must have a placement, site")):
        file.write_text(content)
        with pytest.raises(Refused, match=message):
            read_settings({"space": space, **RUN, "arm": str(file)})
    shared = tmp_path / "shared.toml"
    shared.write_text(SPACE.replace('["stage4.block1.branch"]', '["stage*.block1.branch"]\nshare = "all"'))
    with pytest.raises(Refused, match=r"^'--arm last-stage' needs a decision on the last stage alone"):
        bind(read_settings({"space": shared, **RUN, "arm": "last-stage"}))
