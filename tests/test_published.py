"""Networks of papers as placements: their totals, what they are built of, that they train, and the command."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from conftest import at_night
from torch.nn import functional

from nas_attn.backbones.catalog import image_sizes
from nas_attn.backbones.passes import count_parameters
from nas_attn.backbones.site_table import site_table
from nas_attn.cli.commands import main
from nas_attn.errors import SpaceError
from nas_attn.model.build import AttentionModel, build_model
from nas_attn.placement import Placement
from nas_attn.space.published import Published, available_published, load_published, read_published
from nas_attn.training.auxiliary import auxiliary_loss

# What papers state, or their authors' code has. Trainable parameters; sites with attention.
TOTALS = {
    "se_resnet50": (28_088_024, 16),
    "cbam_resnet18": (11_779_392, 8),
    "cbam_resnet50": (28_089_624, 16),
    "bam_resnet50": (25_915_099, 3),
    "triplet_resnet50": (25_557_032 + 16 * 300, 16),
    "eca_resnet50": (25_557_032 + 3 * 3 + 4 * 5 + 6 * 5 + 3 * 7, 16),
    "sknet50": (27_479_784, 16),
    "cbam_mini_xception": (56_951 + 390, 1),
    "gct_resnet50": (25_557_032 + 62_016, 48),
    "se_cats_dogs_cnn": (8_414_246, 3),
}

# What nobody states to the last one: the totals that follow from the papers, and those that the papers round.
DEDUCED = {
    "aff_resnet50": (30_353_960, 9, 30.3),
    "iaff_resnet50": (35_150_888, 9, 35.1),
    "gam_resnet50_cifar100": (149_516_644, 16, 149.5),
    "mnasnet_half_resnet50": (25_557_032 + 5 * 132_160 + 3 * 526_464, 8, None),
    "ean_sge_resnet50": (25_557_032 + 9 * 2 * 64, 9, None),
    "cotnet50": (22_222_416, 16, 22.2),
    "botnet50": (20_852_008, 3, 20.8),
    "fcanet50": (25_557_032 + 2_514_944, 16, 28.07),
    "a3net_densenet121": (16_428_674, 4, None),
    "cbam_mini_xception_four": (56_951 + 180 + 390 + 1194 + 4338, 4, None),
    "cbam_ends_resnet50": (25_557_032 + 680 + 526_564, 2, None),
    "a3net_toy_densenet121": (6_957_956 + 172_442, 1, None),
}

OURS = ("cbam_mini_xception_four", "mnasnet_half_resnet50")
"""Patterns of this package after somebody's."""

NAMES = sorted(available_published())

FILE = """
title = "SE in ResNet-18"
source = "a paper"
num_classes = 10
in_channels = 3
image_size = 32

[backbone]
name = "resnet18"
stem = "small"

[[sites]]
match = ["stage1.block*.branch"]
attention = { name = "se", reduction = 8 }

[[sites]]
match = ["stage4.block2.output"]
attention = { name = "eca", kernel_size = "auto", wiring = "residual" }
"""


def build(network: Published, image_size: int, num_classes: int) -> AttentionModel:
    shape = {"num_classes": num_classes, "in_channels": network.in_channels, "image_size": image_size}
    placement = network.placement(site_table(network.backbone, **shape))
    return build_model(network.backbone, placement, **shape, seed=0)


def test_the_networks_that_papers_are_known_for_are_there() -> None:
    assert sorted({**TOTALS, **DEDUCED}) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_its_parameters_are_those_of_the_paper_and_of_the_network_as_built(name: str) -> None:
    network = load_published(name)
    with torch.device("meta"):
        model = build(network, network.image_size, network.num_classes)
    assert count_parameters(model) == network.n_parameters
    assert (network.cost().n_macs >= network.table.n_macs) == (name not in ("cotnet50", "botnet50")), "these save some"
    assert network.where.endswith(f"{name}.toml")
    if name in TOTALS:
        total, n_sites = TOTALS[name]
        assert network.published_parameters == total
    else:
        total, n_sites, millions = DEDUCED[name]
        assert network.published_parameters is None
        assert millions is None or int(total / 1e5) == int(millions * 10)  # truncated, not rounded
        assert network.note
    assert network.n_parameters == total
    assert len(network.placement()) == n_sites


def test_attention_sits_where_the_papers_have_it() -> None:
    kinds = {
        name: {load_published(name).table.site(s).kind for s in load_published(name).placement()} for name in NAMES
    }
    unusual = {
        "output": {
            *("bam_resnet50", "a3net_densenet121", "a3net_toy_densenet121", "se_cats_dogs_cnn", "cbam_ends_resnet50")
        },
        "merge": {"aff_resnet50", "iaff_resnet50"},
        "conv": {"sknet50", "cotnet50", "botnet50"},
        "shortcut": {"cbam_mini_xception", "cbam_mini_xception_four"},
    }
    assert kinds.pop("gct_resnet50") == {"pre", "hidden"}
    for kind, names in unusual.items():
        assert {name for name, found in kinds.items() if found == {kind}} == names
    assert all(found == {"branch"} for name, found in kinds.items() if not any(name in u for u in unusual.values()))

    eca = load_published("eca_resnet50").placement()
    assert {(site[:6], eca[site].options["kernel_size"]) for site in eca} == {
        ("stage1", 3),
        ("stage2", 5),
        ("stage3", 5),
        ("stage4", 7),
    }

    ean = load_published("ean_sge_resnet50")
    branches = [site.name for site in ean.table.sites if site.kind == "branch"]
    assert "".join(str(int(name in ean.placement())) for name in branches) == "1001011010011011"

    half = load_published("mnasnet_half_resnet50")
    assert [name for name in branches if name in half.placement()] == branches[8:]


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("cbam_mini_xception", 58_813),
        ("cbam_mini_xception_four", 64_525),
        ("se_cats_dogs_cnn", 8_414_484),
    ],
)
def test_with_running_statistics_it_counts_what_keras_prints(name: str, total: int) -> None:
    network = load_published(name)
    with torch.device("meta"):
        model = build(network, network.image_size, network.num_classes)
    statistics = sum(buffer.numel() for key, buffer in model.named_buffers() if "running" in key)
    assert network.n_parameters + statistics == total


def test_the_cbam_of_the_shortcut_is_a_third_addend() -> None:
    network = load_published("cbam_mini_xception_four")
    assert {attention.wiring for attention in network.placement().attentions.values()} == {"addend"}

    model = build(network, 64, 7).eval()
    insert = model.insert_at("stage3.block1.shortcut")
    x = torch.randn(2, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(insert(x), x + insert.attention(x))


@pytest.mark.parametrize("name", OURS)
def test_a_pattern_of_this_package_says_so_and_claims_no_published_count(name: str) -> None:
    network = load_published(name)
    assert network.published_parameters is None
    assert network.source.startswith("nobody published this network")
    assert "this package's choice" in (network.departs or "")
    assert re.match("This package's: |A pattern after ", network.title)


def test_what_departs_from_the_source_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    for network in map(load_published, NAMES):
        assert (network.departs or network.title) in rows[network.name]
    assert main(["published", "bam_resnet50"]) == 0
    assert re.search(r"\ndeparts +The two branches are multiplied", capsys.readouterr().out)


def test_gct_before_each_convolution_has_the_parameters_of_its_authors_code() -> None:
    network = load_published("gct_resnet50")
    placement = network.placement()
    assert network.n_parameters - network.table.n_parameters == 62_016
    branches = {site.rpartition(".")[0] for site in placement}
    assert len(branches) == 16
    assert [len([site for site in placement if site.startswith(f"{branch}.")]) for branch in branches] == [3] * 16
    with torch.device("meta"):
        model = build(network, 64, 10)
    convs = [module for module in model.backbone.modules() if isinstance(module, torch.nn.Conv2d)]
    widths = [model.insert_at(site).attention.alpha.numel() for site in placement]
    assert sum(conv.in_channels for conv in convs) - 3 - (64 + 256 + 512 + 1024) == sum(widths)


def test_the_layout_features_attention_pooling_classes_works_on_one_pixel() -> None:
    network = load_published("a3net_toy_densenet121")
    site = network.table.site("features")
    assert (site.channels, site.height, site.width) == (1024, 1, 1)
    assert dict(network.placement()["features"].options)["softmax"] == "channel"
    spatial = {"features": {**network.placement().to_dict()["features"], "softmax": "spatial"}}
    with pytest.raises(SpaceError, match="does not fit site 'features': the map must be at least 2x2, but is 1x1"):
        build_model(network.backbone, Placement.from_dict(spatial), num_classes=10, in_channels=1, image_size=32)


def fit(model: AttentionModel, *, size: int, n_steps: int) -> list[float]:
    """Train on four images of four classes, and return the losses; dropout drops the same values at every step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.003)
    images = torch.randn(4, model.in_channels, size, size, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(4)
    losses = []
    for _ in range(n_steps):
        optimizer.zero_grad()
        torch.manual_seed(0)
        loss = functional.cross_entropy(model(images), labels)
        (loss + auxiliary_loss(model, labels)).backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


LEARNED = ("cbam_mini_xception_four", "cbam_resnet18", "se_cats_dogs_cnn")


@pytest.mark.parametrize("name", at_night(NAMES, but=LEARNED))
def test_it_trains_with_a_gradient_to_every_attention(name: str) -> None:
    network = load_published(name)
    size = max(8, image_sizes(network.backbone)[0]) if network.image_size == 32 else 64
    model = build(network, size, num_classes=4)
    losses = fit(model, size=size, n_steps=12 if name in LEARNED else 2)

    assert name not in LEARNED or losses[-1] < 0.9 * losses[0]
    assert all(math.isfinite(loss) for loss in losses)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    for site in model.placement:
        assert any(p.grad is not None and p.grad.any() for p in model.insert_at(site).parameters())


def test_a_file_says_what_sits_where(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(FILE)
    network = read_published(path)
    placement = network.placement()

    assert (network.name, network.backbone) == ("mine", {"name": "resnet18", "stem": "small"})
    assert list(placement) == ["stage1.block1.branch", "stage1.block2.branch", "stage4.block2.output"]
    assert placement["stage1.block2.branch"].options == {"reduction": 8}
    assert (placement["stage4.block2.output"].wiring, dict(placement["stage4.block2.output"].options)) == (
        "residual",
        {"kernel_size": None},
    )
    assert network.n_parameters == network.table.n_parameters + 2 * (2 * 64 * 8 + 8 + 64) + 5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title =", "titel =", "Unknown key 'titel' in .*mine.toml: did you mean 'title'"),
        ('source = "a paper"', "", "Key 'source' is missing in .*mine.toml"),
        (
            "num_classes = 10",
            "num_classes = 0",
            r"'num_classes' in .*mine\.toml must be a whole number from 1, but got 0\.",
        ),
        (
            "num_classes = 10",
            "num_classes = 1.5",
            r"'num_classes' in .*mine\.toml must be a whole number from 1, but got 1\.5\.",
        ),
        (
            'match = ["stage1',
            'mtach = ["stage1',
            r"Unknown key 'mtach' in \[\[sites\]\] 1 of .*mine\.toml: did you mean 'match'",
        ),
        ("resnet18", "resnet81", "Unknown backbone 'resnet81' in .*mine.toml: did you mean 'resnet18'"),
        ("stem =", "steam =", "Unknown option of backbone 'resnet18' 'steam' in .*: did you mean 'stem'"),
        ("image_size = 32", "image_size = 4", "takes images of 5x5 pixels or more, but got image_size=4"),
        ('"se"', '"so"', r"Unknown attention 'so' in \[\[sites\]\] 1 of .*mine.toml: did you mean 'sk'"),
        ("reduction", "reductoin", r"'reductoin' .*\[\[sites\]\] 1 of .*mine.toml: did you mean 'reduction'"),
        ("reduction = 8", "reduction = [8]", r"In \[\[sites\]\] 1 of .*: Option 'reduction' of 'se' must be a single"),
        ('"residual"', '"residaul"', r"In \[\[sites\]\] 2 of .*: Unknown wiring 'residaul': did you mean 'residual'"),
        ('name = "se", ', "", r"In \[\[sites\]\] 1 of .*: An attention must have a name"),
        ("[[sites]]", "[sites", "mine.toml must be TOML, but is not"),
    ],
)
def test_a_file_with_a_fault_is_refused_in_one_sentence(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(SpaceError, match=message) as refusal:
        read_published(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "stage1.block*.branch",
            "stage1.blok*.branch",
            r"Pattern 'stage1.blok\*.branch' in \[\[sites\]\] 1 of .* did you mean",
        ),
        (
            "stage4.block2.output",
            "stage1.block1.branch",
            "must be matched once, but 'stage1.block1.branch' is matched twice",
        ),
        (
            'name = "se", reduction = 8',
            'name = "aff"',
            "matches only sites of kind branch, which none of its attentions fits: they fit merge",
        ),
        ("reduction = 8", "reduction = 128", "reduction <= channels must hold, but got reduction=128, channels=64"),
    ],
)
def test_a_placement_that_the_backbone_cannot_take_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(SpaceError, match=message):
        read_published(path).placement()


def test_it_can_be_placed_at_another_image_size_but_not_in_another_backbone() -> None:
    network = load_published("cbam_resnet18")
    small = site_table({"name": "resnet18", "stem": "small"}, num_classes=10, in_channels=1, image_size=32)
    assert network.placement(small) == network.placement()

    other = site_table("resnet50", num_classes=10, in_channels=3)
    with pytest.raises(
        SpaceError, match=r"'cbam_resnet18' is a placement in backbone 'resnet18', but .* is 'resnet50'"
    ):
        network.placement(other)


def test_the_command_lists_every_network_with_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert set(NAMES) <= set(rows)
    assert rows["cbam_resnet18"].split()[1:4] == ["resnet18", "11,779,392", "11,779,392"]
    assert rows["gam_resnet50_cifar100"].split()[1:4] == ["resnet50", "149,516,644", "GAM"]


def test_the_command_gives_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == NAMES
    keys = ["name", "backbone", "parameters", "published_parameters", "source", "note", "departs"]
    assert all(list(row) == keys for row in rows)

    assert main(["published", "bam_resnet50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [row for row in rows if row["name"] == "bam_resnet50"]


def test_the_command_shows_one_network_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published", "eca_resnet50"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "ECA in every block",
        "arXiv:1910.03151",
        "3 channels, 224x224, 1,000 classes",
        "25,557,112",
        "24.37",
    ):
        assert words in shown
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("eca(")] == [
        f"eca(kernel_size={size})" for size in (3, 5, 7)
    ]

    assert main(["published", "cbam_resnet81"]) == 2
    assert "Unknown published network 'cbam_resnet81': did you mean 'cbam_resnet18'" in capsys.readouterr().err
