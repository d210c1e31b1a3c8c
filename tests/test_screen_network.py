"""The network with shared weights: its paths, its draws, its batch statistics, and its training."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nas_attn.backbones.site_table import site_table
from nas_attn.config import DataConfig, Recipe
from nas_attn.data.dataset import load_data
from nas_attn.errors import SpaceError
from nas_attn.model.build import build
from nas_attn.model.shared_network import SharedNetwork, build_shared
from nas_attn.placement import Placement, Shape, SiteTable
from nas_attn.records import Paths, Task
from nas_attn.space.search_space import SearchSpace
from nas_attn.study.screen import paths_of
from nas_attn.training.context import TrialContext
from nas_attn.training.keeper import Keeper
from nas_attn.training.shared_weights import rank, refit
from nas_attn.training.trial import evaluate

BACKBONE = {"name": "densenet", "growth_rate": 4, "block_config": [1, 1], "num_init_features": 8, "stem": "small"}
SPACE = {
    "title": "For tests",
    "backbone": BACKBONE,
    "sites": [
        {"match": ["denseblock*"], "attentions": ["se", "cbam"]},
        {"match": ["transition1"], "attentions": ["eca"], "wiring": "concat"},
    ],
    "attentions": {"se": {"reduction": [2, 4]}, "cbam": {"reduction": 2, "kernel_size": 3}},
}
SHAPE = Shape(2, 1, 8)


def paths(number: int = 1_000) -> Paths:
    """Return the paths of the space: 4 x 4 x 2 placements."""
    return paths_of(SearchSpace.from_dict(SPACE, where="test.toml").bind(table()), number, seed=0)


def table() -> SiteTable:
    """Return the sites of the network."""
    return site_table(SearchSpace.from_dict(SPACE, where="test.toml").backbone, **vars(SHAPE))


def shared(seed: int = 3) -> SharedNetwork:
    """Return the network of the space."""
    return build_shared(BACKBONE, paths().decisions, SHAPE, seed=seed)


def context_of(folder: Path, **recipe: object) -> TrialContext:
    """Return the context of a training on 60 random images."""
    file = folder / "images.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    np.savez(file, train_images=pixels, train_labels=np.arange(60) % 2)
    data = DataConfig(name=f"npz:{file}")
    return TrialContext(BACKBONE, SHAPE, Recipe(**{"batch_size": 8, **recipe}), data=data, checkpoint_seconds=0.0)


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    """Return the batch norms of a network."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def test_every_path_is_the_network_of_its_placement_with_the_same_initial_weights():
    network, images = shared().eval(), torch.randn(3, 1, 8, 8)
    found = paths()
    assert len(found.ranked) == 32
    outputs = []
    for numbers in found.ranked[::3]:
        placement = found.placement(numbers)
        single = build(BACKBONE, placement, SHAPE, seed=3).eval()
        network.select(placement)
        with torch.inference_mode():
            outputs.append(network(images))
            torch.testing.assert_close(outputs[-1], single(images), rtol=0, atol=0)
    assert len({tuple(output.flatten().tolist()) for output in outputs}) == 11


def test_a_step_changes_the_weights_of_its_path_alone():
    network, images = shared().train(), torch.randn(4, 1, 8, 8)
    torch.manual_seed(1)
    network(images).sum().backward()
    torch.manual_seed(1)
    drawn = shared().draw()
    for site, alternatives in zip(network._sites, network.attention, strict=True):
        for attention, name in alternatives._names.items():
            has_gradient = any(weight.grad is not None for weight in alternatives.get_submodule(name).parameters())
            assert has_gradient == (drawn.attentions.get(site) == attention)
    assert all(weight.grad is not None for weight in network.backbone.parameters())


def test_draws_are_fair_and_go_on_where_a_checkpoint_was_taken():
    network, other = shared(), shared()
    torch.manual_seed(0)
    drawn = [network.draw() for _ in range(40)]
    for decision in paths().decisions:
        (site,) = {site for part in decision for site, _ in part}
        counts = Counter(str(placement.attentions.get(site)) for placement in drawn)
        assert set(counts.values()) == {40 // len(decision)}
    assert len({placement.key for placement in drawn}) > 15
    for _ in range(3):
        network.draw()
    other.load_state_dict(network.state_dict())
    state = torch.get_rng_state()
    after = [network.draw().key for _ in range(5)]
    torch.set_rng_state(state)
    assert [other.draw().key for _ in range(5)] == after


def test_batch_statistics_are_those_of_the_selected_path():
    network, batches = shared().train(), [torch.randn(6, 1, 8, 8), 2 * torch.randn(6, 1, 8, 8)]
    for batch in batches:
        network(batch)
    network.eval()
    network.select(Placement())
    refit(network, batches)
    single = build(BACKBONE, Placement(), SHAPE, seed=3)
    for module in norms(single):
        module.momentum = None
    for batch in batches:
        single(batch)
    expected = dict(single.backbone.named_buffers())
    found = dict(network.backbone.named_buffers())
    assert any("running_mean" in name for name in expected)
    for name, buffer in expected.items():
        torch.testing.assert_close(found[name], buffer)
    assert not any(module.training for module in network.modules())
    assert [module.momentum for module in norms(network)] == [module.momentum for module in norms(shared())]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_screen_is_trained_ranks_and_ends_alike_after_an_interruption(optimizer, tmp_path: Path):
    context = context_of(tmp_path, optimizer=optimizer, lr=0.01)
    task = Task(0, "screen", Placement(), seed=5, epochs=4, artifacts=("ranking",), paths=paths(7))
    whole = evaluate(task, context, lambda epoch, value: None)
    values = json.loads(whole.artifacts["ranking"])
    assert (whole.state, len(values), whole.facts["n_ranked"]) == ("complete", 7, 7.0)
    assert whole.value == pytest.approx(np.mean(values))
    states: list[bytes] = []
    evaluate(task, context, lambda epoch, value: None, Keeper(0.0, states.append))
    curve: dict[int, float] = {}
    continued = evaluate(task, context, curve.__setitem__, Keeper(None, content=states[1]))
    assert continued.artifacts["ranking"] == whole.artifacts["ranking"]
    assert list(curve) == [1, 2, 3, 4]


def test_a_path_without_finite_outputs_is_ranked_last_and_the_others_as_before(tmp_path: Path):
    context = context_of(tmp_path)
    data = load_data(context.data, device="cpu")
    network, found = shared(), paths(12)
    values = rank(network, found, data, context.recipe)
    assert values == rank(network, found, data, context.recipe)
    with torch.no_grad():
        for weight in network.attention.parameters():
            weight.fill_(torch.nan)
    spoiled = dict(zip(found.ranked, rank(network, found, data, context.recipe), strict=True))
    assert spoiled.pop((0, 0, 0)) == values[found.ranked.index((0, 0, 0))] > 0
    assert set(spoiled.values()) == {0.0}


def test_choices_that_cannot_stand_side_by_side_are_refused():
    space = SearchSpace.from_dict(
        {
            "title": "t",
            "backbone": {"name": "resnet18", "stem": "small"},
            "sites": [{"match": ["stage1.block1.conv2"], "attentions": ["bot"]}],
        },
        where="t",
    )
    bound = space.bind(site_table(space.backbone, num_classes=10, in_channels=3, image_size=32))
    with pytest.raises(SpaceError, match=r"'stage1\.block1\.conv2', of kind 'conv', an attention takes the place of"):
        build_shared(space.backbone, paths_of(bound, 5, 0).decisions, Shape(10, 3, 32), seed=0)
