"""The seeds of one arm trained as one: exactly what each would be alone, or a reason why they cannot be."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import Tensor, nn

from nas_attn.config import DataConfig, Recipe
from nas_attn.data.dataset import Images, load_data
from nas_attn.errors import TrialFailed
from nas_attn.model.build import build_model
from nas_attn.model.tasks import CrossEntropy
from nas_attn.placement import Attention, Placement
from nas_attn.training import stacked
from nas_attn.training.loop import make_optimizer, take_step, train
from nas_attn.training.stacked import Stack, train_seeds

SEEDS = (3, 1, 2)
LENET = {"name": "lenet"}
DENSENET = {"name": "densenet", "growth_rate": 4, "block_config": [1, 1]}


@pytest.fixture(scope="module")
def images() -> Images:
    return load_data(DataConfig(split=(0.05, 0.05, 0.9), image_size=12)).train


def networks(spec: dict, placement: Placement) -> list[nn.Module]:
    shape = {"num_classes": 10, "in_channels": 1, "image_size": 12}
    return [build_model(spec, placement, **shape, seed=seed) for seed in SEEDS]


def seeds_of(
    models: list[nn.Module], images: Images, recipe: Recipe, **more: object
) -> list[dict[str, float] | TrialFailed]:
    return train_seeds(models, images, recipe, seeds=SEEDS, epochs=2, device="cpu", num_classes=10, **more)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(
    ("spec", "placement"),
    [
        (LENET, Placement({"stage1.pool": Attention("cbam", {"reduction": 2}), "stage2.pool": Attention("lska")})),
        (LENET, Placement({"stage1.pool": Attention("triple", {"reduction": 2})})),
        (DENSENET, Placement({"denseblock1": Attention("se", {"reduction": 4})})),
    ],
    ids=["lenet with two", "auxiliary loss", "batch norm"],
)
def test_three_steps_in_float64_are_those_of_single_trainings(
    images: Images, spec: dict, placement: Placement, optimizer: str
) -> None:
    recipe = Recipe(optimizer=optimizer, backbone_lr=0.5)  # type: ignore[arg-type]
    alone = [model.double().train() for model in networks(spec, placement)]
    together = copy.deepcopy(alone)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, len(SEEDS), 8, 1, 12, 12, dtype=torch.float64, generator=generator)
    targets = torch.randint(10, (3, len(SEEDS), 8), generator=generator)
    stack = Stack(together, images, recipe, 10)
    losses = [stack.step(*batch)[1] for batch in zip(inputs, targets, strict=True)]
    stack.unstack()
    for index, model in enumerate(alone):
        optimizer_alone = make_optimizer(model, recipe, num_classes=10)
        for step in range(3):
            _, loss = take_step(model, inputs[step, index], targets[step, index], CrossEntropy(), optimizer_alone)
            torch.testing.assert_close(losses[step][index], loss, rtol=1e-10, atol=1e-12)
        found = together[index].state_dict()
        for name, value in model.state_dict().items():
            torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-9, msg=name)


def test_a_training_has_the_order_augmentation_and_curve_of_each_seed(images: Images) -> None:
    placement, recipe = Placement({"denseblock1": Attention("se", {"reduction": 4})}), Recipe(augment="crop-flip")
    curves: dict[int, list[float]] = {seed: [] for seed in SEEDS}
    models = networks(DENSENET, placement)
    found = seeds_of(models, images, recipe, report=lambda seed, epoch, value: curves[seed].append(value))
    for model, again, seed, facts in zip(networks(DENSENET, placement), models, SEEDS, found, strict=True):
        curve: list[float] = []
        alone = train(
            *(model, images, None, recipe), seed=seed, epochs=2, device="cpu", num_classes=10,
            report=lambda epoch, value, curve=curve: curve.append(value),
        )  # fmt: skip
        assert facts.keys() == alone.keys()
        assert facts["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-4)
        assert curves[seed] == pytest.approx(curve, abs=0.03)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(again.state_dict()[name], value, rtol=0.05, atol=1e-3, msg=name)
    assert len({facts["train_loss"] for facts in found}) == len(SEEDS)


class Branching(nn.Module):
    """A network that decides by a value."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(144, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.last(x.flatten(1))
        return logits if logits.mean() > 0 else 2 * logits


class Rolling(Branching):
    """A network that draws a number which torch does not know of."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flatten(1)) * random.random()


class Remembering(Branching):
    """A network that keeps a tensor of its last pass as a plain attribute."""

    seen: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.seen = 0.5 * self.seen + x.mean().detach()
        return self.last(x.flatten(1)) * self.seen


class Assigning(Branching):
    """A network that assigns a statistic instead of writing it in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.5 * self.mean + x.mean().detach()
        return self.last(x.flatten(1)) * self.mean


DROPPING = {**DENSENET, "drop_rate": 0.2}


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (
            lambda: networks(DROPPING, Placement()),
            r"^The network draws random numbers in training, such as for dropout\.$",
        ),
        (lambda: [Branching() for _ in SEEDS], r"^The network cannot be stacked: .*data-dependent control flow"),
        (lambda: [Rolling() for _ in SEEDS], r"^The seeds would not train as they do alone: the loss differs\.$"),
        (lambda: [Assigning() for _ in SEEDS], r"^The seeds would not train as they do alone: the loss differs\.$"),
        (lambda: [Remembering() for _ in SEEDS], r"what the trained network predicts differs|cannot be stacked: "),
    ],
    ids=["dropout", "branch", "random", "assigned statistic", "attribute"],
)
def test_what_cannot_be_stacked_keeps_its_weights(images: Images, made, reason: str) -> None:
    torch.manual_seed(0)
    models = made()
    before = copy.deepcopy(models)
    with pytest.raises(stacked.CannotStack, match=reason):
        seeds_of(models, images, Recipe(lr=0.01))
    for model, again in zip(before, models, strict=True):
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("recipe", "number", "reason"),
    [
        (Recipe(freeze_epochs=1), 3, "backbone is frozen"),
        (Recipe(compile="default"), 3, "is compiled"),
        (Recipe(), 1, r"^There is only one seed\.$"),
    ],
)
def test_recipes_that_are_not_stacked(images: Images, recipe: Recipe, number: int, reason: str) -> None:
    with pytest.raises(stacked.CannotStack, match=reason):
        stacked.refuse(networks(LENET, Placement())[:number], images, recipe, 10)


def test_a_seed_that_diverges_fails_alone(images: Images) -> None:
    models = networks(LENET, Placement())
    with torch.no_grad():
        next(models[1].parameters()).fill_(float("inf"))
    reported: list[int] = []
    found = seeds_of(models, images, Recipe(lr=0.01), report=lambda seed, epoch, value: reported.append(seed))
    assert [type(facts) for facts in found] == [dict, TrialFailed, dict]
    assert str(found[1]).startswith("Training diverged: the loss is nan in epoch 1 of 2.")
    assert reported == [3, 2, 3, 2]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            r"^The memory of cpu does not hold 3 trainings at once\.$",
        ),
        (RuntimeError("Batching rule not implemented"), r"^The network cannot be stacked: .*Batching rule"),
    ],
    ids=["memory", "operation"],
)
def test_a_whole_batch_that_fails_is_a_reason_and_the_networks_keep_their_weights(
    images: Images, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    n_steps = 0
    step = Stack.step

    def failing(stack: Stack, *batch: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal n_steps
        n_steps += 1
        if n_steps > 4:  # two are those of the comparison in float64
            raise error
        return step(stack, *batch)

    models = networks(LENET, Placement())
    before = copy.deepcopy(models)
    monkeypatch.setattr(Stack, "step", failing)
    with pytest.raises(stacked.CannotStack, match=reason):
        seeds_of(models, images, Recipe(lr=0.01))
    for model, again in zip(before, models, strict=True):
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
