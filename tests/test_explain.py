"""A watched network computes the same, Grad-CAM is its formula, and the figure shows both."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas_attn import Placement, build_model
from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.weighing.record import MEANINGS
from nas_attn.backbones.site_table import site_table
from nas_attn.errors import ConfigError
from nas_attn.explain import Explanation, draw, explain, watch
from nas_attn.explain.drawing import MOST_SITES, alternative_text, drawn_sites, row_titles
from nas_attn.explain.grad_cam import LastMap, grad_cam, last_map
from nas_attn.placement import NONE
from nas_attn.testing.cases import cases_of

SMALL = {"num_classes": 3, "in_channels": 3, "image_size": 8}
RESNET = {"name": "preact_resnet", "width": 32}


def network(options: dict[str, object] | None = None) -> nn.Module:
    """Return a small network in evaluation mode, with one attention or none."""
    placement = NONE if options is None else Placement.from_dict({"stage2.block1.output": options})
    return build_model({**RESNET, "width": 8}, placement, seed=0, **SMALL).eval()


def images(n: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


# Watching a network


def held(model: nn.Module) -> dict[str, tuple[list[str], list[int]]]:
    """Return the names of all attributes of all modules, and their forward hooks."""
    return {path: (sorted(vars(each)), list(each._forward_hooks)) for path, each in model.named_modules()}


@pytest.mark.parametrize("name", [name for name in ATTENTIONS.own if name != "daf"])
def test_a_watched_network_computes_the_same_and_keeps_nothing(name):
    entry = ATTENTIONS[name]
    site = next(site for site in site_table(RESNET, **SMALL).sites if site.kind in entry.kinds)
    placed = {"name": name, **cases_of(entry, site.channels)[0].options}
    model = build_model(RESNET, Placement.from_dict({site.name: placed}), seed=0, **SMALL).eval()
    before = held(model)
    with torch.no_grad():
        plain = model(images())
        with watch(model) as weights:
            watched = model(images())
        after = model(images())
    assert torch.equal(plain, watched)
    assert torch.equal(plain, after)
    assert list(weights) == [site.name]
    assert weights[site.name].meaning in MEANINGS
    assert held(model) == before


def test_weights_stand_in_the_order_of_the_data_flow_and_the_last_pass_counts():
    sites = ("stage1.block1.output", "stage2.block1.output", "stage3.block3.branch")
    placement = Placement.from_dict({site: {"name": "se", "reduction": 4} for site in reversed(sites)})
    model = build_model(RESNET, placement, seed=0, **SMALL).eval()
    with watch(model) as weights, torch.inference_mode():
        model(images(4))
        model(images(1))
    assert list(weights) == list(sites)
    assert [each.channels.shape for each in weights.values()] == [(1, 32), (1, 64), (1, 128)]
    assert not any(each.channels.is_inference() for each in weights.values())


def test_attention_received_is_recorded_in_inference_mode_too():
    model = network({"name": "self_attention"})
    with watch(model) as weights, torch.inference_mode():
        model(images())
    assert weights["stage2.block1.output"].pixels.shape == (2, 4, 4)


def test_hooks_are_gone_after_an_error():
    model = network({"name": "se", "reduction": 4})
    with pytest.raises(RuntimeError, match="channels"), watch(model):
        model(torch.rand(1, 5, 8, 8))
    assert not model.insert_at("stage2.block1.output").attention._forward_hooks


def test_a_network_in_train_mode_is_not_watched():
    with (
        pytest.raises(ConfigError, match=r"but is in train mode: call model\.eval\(\) first\.$"),
        watch(network().train()),
    ):
        pass


# Grad-CAM


class Linear(nn.Module):
    """A convolution, the mean over the map without a module, and a linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


def test_grad_cam_is_the_papers_formula():
    pytest.importorskip("captum")
    model = build_model(Linear(3), NONE, seed=0, **SMALL).eval().requires_grad_(False)
    at = last_map(model, images())
    assert at == LastMap("conv", False, (8, 8))
    maps = model.backbone.conv(images())
    expected = torch.stack(
        [(maps[row] * model.backbone.fc.weight[label, :, None, None] / 64).sum(0) for row, label in enumerate((2, 0))]
    )
    torch.testing.assert_close(grad_cam(model, images(), (2, 0), at, n_classes=3), expected.relu())


def test_one_logit_speaks_for_the_second_class_and_against_the_first():
    pytest.importorskip("captum")
    model = build_model(Linear(1), NONE, seed=0, **{**SMALL, "num_classes": 1}).eval()
    at = last_map(model, images())
    signed = (model.backbone.conv(images()) * model.backbone.fc.weight[0, :, None, None] / 64).sum(1).detach()
    torch.testing.assert_close(grad_cam(model, images(), (1, 1), at, n_classes=2), signed.relu())
    torch.testing.assert_close(grad_cam(model, images(), (0, 0), at, n_classes=2), (-signed).relu())
    torch.testing.assert_close(grad_cam(model, images(), (0, 0), at, n_classes=1), signed.relu())
    found = explain(model, images())
    assert found.predicted == tuple((model(images())[:, 0] > 0).long().tolist())


@pytest.mark.parametrize("backbone", ["resnet18", "densenet", "preact_resnet"])
def test_the_last_map_is_that_of_the_site_head(backbone):
    shape = {**SMALL, "image_size": 64}
    head = next(site for site in site_table(backbone, **shape).sites if site.kind == "head")
    found = last_map(build_model(backbone, NONE, seed=0, **shape).eval(), torch.zeros(1, 3, 64, 64))
    assert found.size == (head.height, head.width)
    assert f"{head.module}.".startswith(f"{found.path}.")


def test_where_the_end_is_one_pixel_the_last_larger_map_counts():
    model = build_model("resnet18", NONE, seed=0, num_classes=3, in_channels=3, image_size=32).eval()
    assert last_map(model, torch.zeros(1, 3, 32, 32)) == LastMap("layer4.0.downsample.0", True, (2, 2))


def test_a_network_without_a_map_is_refused():
    model = build_model(Linear(3), NONE, seed=0, **SMALL).eval()
    with pytest.raises(
        ConfigError, match=r"^Grad-CAM needs a map of more than one pixel, but no module of the network ha"
    ):
        last_map(model, torch.zeros(1, 3, 1, 1))


# The explanation and its figure


@pytest.fixture(scope="module")
def pair() -> tuple[Explanation, Explanation]:
    """A network with two attentions, and one without."""
    pytest.importorskip("captum")
    placed = {"stage1.block1.output": {"name": "cbam", "reduction": 4}, "stage2.block1.output": {"name": "eca"}}
    model = build_model({**RESNET, "width": 8}, Placement.from_dict(placed), seed=0, **SMALL).eval()
    model.insert_at("stage1.block1.output").attention.spatial.norm.weight.data.fill_(1.0)  # at 0 its gate is constant
    model.class_names = ("a$b", "a name that is longer than its place", "c")
    found = explain(model, images(3))
    return found, explain(network(), images(3), classes=found.classes)


def test_an_explanation_has_everything_for_each_image(pair):
    found, plain = pair
    assert len(found) == len(plain) == 3
    assert found.predicted == found.classes == plain.classes
    assert found.cams.shape == (3, *found.last_map.size)
    assert found.cams.min() >= 0
    assert {site: each.name for site, each in found.attentions.items()} == {
        "stage1.block1.output": "cbam",
        "stage2.block1.output": "eca",
    }
    assert plain.weights == {}
    assert found.pictures.amin((1, 2, 3)).eq(0).all()
    assert found.pictures.amax((1, 2, 3)).eq(1).all()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([0], r"^One class per image is needed, but got 1 for 2 images\.$"),
        ([0, 3], r"^Classes must lie in 0 to 2, but got \[0, 3\]\.$"),
    ],
)
def test_classes_that_do_not_fit_are_refused(classes, message):
    pytest.importorskip("captum")
    with pytest.raises(ConfigError, match=message):
        explain(network(), images(), classes=classes)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "captum" else find(name))
    sentence = r"^Grad-CAM needs the package captum, which is missing: pip install 'nas_attn\[maps\]'\.$"
    with pytest.raises(ConfigError, match=sentence):
        explain(network(), images())


def test_a_figure_has_a_column_for_each_attention_and_both_networks(pair):
    figure = draw(*pair, networks=("none", "found #1"))
    heads = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert [head.split("\n")[0] for head in heads] == ["image", "cbam", "eca", "Grad-CAM", "Grad-CAM"]
    assert [head.split("\n")[-1] for head in heads[3:]] == ["none", "found #1"]
    pixels = pair[0].weights["stage1.block1.output"].pixels
    assert heads[1].endswith(f"gate, 8x8 pixels\n{pixels.min():.3g} to {pixels.max():.3g}")
    assert "gate, 16 channels" in heads[2]
    assert len(draw(pair[0]).axes) == 3 * 4 + 1, "a grid of three images, and the scale of the colours"


def test_a_row_says_what_both_networks_predict(pair):
    found, plain = pair
    row = row_titles(found, plain, truths=["x"] * 3, names=["n"] * 3)[0].split("\n")
    assert row[:2] == ["n", "true: x"]
    assert row[2] == f"without: {plain.class_names[plain.predicted[0]]}"
    assert row[3].startswith("with: ")
    assert max(map(len, row)) <= 30


def test_bars_stand_in_one_order_in_every_row(pair):
    found, _ = pair
    weights = found.weights["stage2.block1.output"].channels
    patches = [axes.patches[0] for axes in draw(found).axes if axes.patches and axes.get_xlim() == (0, 1)]
    order = weights.mean(0).argsort(descending=True)
    tall = [patch.get_data().values for patch in patches if len(patch.get_data().values) == 16]
    np.testing.assert_allclose(np.stack(tall), weights[:, order].numpy())


def test_numbers_of_rows_must_agree(pair):
    with pytest.raises(ConfigError, match=r"^One image each is needed for the titles, but there are 3 and 1\.$"):
        draw(*pair, titles=["one"])


def test_of_many_sites_some_are_drawn_and_the_figure_says_so():
    pytest.importorskip("captum")
    sites = [f"stage{stage}.block{block}.output" for stage in (1, 2, 3) for block in (1, 2, 3)]
    model = build_model(
        RESNET, Placement.from_dict({site: {"name": "simam"} for site in sites}), seed=0, **SMALL
    ).eval()
    found = explain(model, images(1))
    assert len(drawn_sites(found)) == MOST_SITES
    assert {drawn_sites(found)[0], drawn_sites(found)[-1]} == {sites[0], sites[-1]}
    assert any(f"{MOST_SITES} of 9 sites" in text.get_text() for text in draw(found).texts)
    assert "simam at stage1.block1.output" in alternative_text(found)
