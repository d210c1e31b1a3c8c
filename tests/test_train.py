"""The training loop: it learns, repeats itself to the bit, and names what ends a trial."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas_attn.attention.create import create_attention
from nas_attn.attention.entry import Context
from nas_attn.config import DataConfig, Recipe
from nas_attn.data.dataset import Data, Images, load_data
from nas_attn.errors import TrialFailed
from nas_attn.model.tasks import class_weights
from nas_attn.training.batches import border, crop, epoch_batches, n_batches
from nas_attn.training.loop import (
    accuracy,
    is_out_of_memory,
    learning_rate,
    make_optimizer,
    predict,
    train,
)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data(DataConfig())


def tiny_cnn(*, classes: int = 10, dropout: float = 0.0, attention: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        attention or nn.Identity(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(32 * 16, classes),
    )


def ignore(epoch: int, value: float) -> None:
    pass


def fit(model: nn.Module, images: Images, validation: Images | None = None, **options):
    words = {"seed": 0, "epochs": 2, "device": "cpu", "report": ignore, "num_classes": 10, **options}
    recipe = words.pop("recipe", Recipe())
    return train(model, images, validation, recipe, **words)


def random_images(n: int = 40, *, size: int = 8, channels: int = 1, classes: int = 10) -> Images:
    generator = torch.Generator().manual_seed(n)
    pixels = torch.randint(0, 256, (n, size, size, channels), generator=generator, dtype=torch.uint8)
    targets = torch.arange(n) % classes
    return Images(pixels.permute(0, 3, 1, 2), targets, (0.4,) * channels, (0.3,) * channels)


# --- learning


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.1), ("adamw", 0.01), ("adam", 0.01)])
def test_a_tiny_network_learns_digits(digits: Data, optimizer: str, lr: float) -> None:
    model = tiny_cnn()
    seen: list[tuple[int, float]] = []
    recipe = Recipe(optimizer=optimizer, lr=lr, augment="crop")
    facts = fit(model, digits.train, digits.val, recipe=recipe, epochs=12, report=lambda *values: seen.append(values))
    assert [epoch for epoch, _ in seen] == list(range(1, 13))
    assert seen[-1][1] == accuracy(model, digits.val)
    assert accuracy(model, digits.test) > 0.90
    assert set(facts) == {"train_loss", "seconds_per_epoch", "images_per_second", "seconds_per_validation"}
    assert facts["images_per_second"] == pytest.approx(len(digits.train) / facts["seconds_per_epoch"])


def test_without_validation_the_accuracy_on_the_training_batches_is_reported(digits: Data) -> None:
    seen: list[float] = []
    facts = fit(tiny_cnn(), digits.train_val, epochs=8, report=lambda _, value: seen.append(value))
    assert seen[0] < 0.8 < seen[-1] <= 1.0
    assert "seconds_per_validation" not in facts


def test_accuracy_and_logits_are_those_of_a_plain_pass(digits: Data) -> None:
    model = tiny_cnn()
    model.train()
    images = digits.val
    pixels = (images.pixels.float() / 255 - images.mean[0]) / images.std[0]
    with torch.no_grad():
        expected = model.eval()(pixels)
    model.train()
    assert torch.allclose(predict(model, images), expected, atol=1e-5)
    assert torch.allclose(predict(model, images, batch_size=7), expected, atol=1e-5)
    assert accuracy(model, images) == (expected.argmax(1) == images.targets).double().mean()
    assert model.training


# --- repeating


def trained_weights(digits: Data, *, seed: int = 3, **recipe) -> Tensor:
    model = tiny_cnn(dropout=0.3)
    options = {"augment": "crop-flip", "class_weights": True, "label_smoothing": 0.1, **recipe}
    fit(model, digits.train, digits.val, recipe=Recipe(**options), seed=seed)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_the_same_seed_gives_bit_equal_weights_whatever_the_global_generators_hold(digits: Data) -> None:
    first = trained_weights(digits)
    torch.manual_seed(12345)
    np.random.seed(1)
    random.seed(1)
    torch.rand(100)
    assert torch.equal(trained_weights(digits), first)
    assert not torch.equal(trained_weights(digits, seed=4), first)


def test_the_global_generators_are_left_as_they_were_found(digits: Data) -> None:
    model = tiny_cnn(dropout=0.3)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    fit(model, digits.train, digits.val)
    assert torch.equal(torch.get_rng_state(), before)

    def stop(epoch: int, value: float) -> None:
        raise StopIteration("pruned")

    with pytest.raises(StopIteration, match="pruned"):
        fit(model, digits.train, digits.val, report=stop)
    assert torch.equal(torch.get_rng_state(), before)


# --- batches


@pytest.mark.parametrize("n", [2, 3, 4, 7, 31, 32, 33, 65, 179])
@pytest.mark.parametrize("batch_size", [2, 3, 32])
def test_an_epoch_shows_each_image_once_in_batches_that_are_never_too_small(n: int, batch_size: int) -> None:
    images = Images(torch.zeros(n, 1, 4, 4, dtype=torch.uint8), torch.arange(n))
    generator = torch.Generator().manual_seed(0)
    batches = [
        targets for _, targets in epoch_batches(images, batch_size=batch_size, augment="none", generator=generator)
    ]
    sizes = [len(batch) for batch in batches]
    assert sorted(torch.cat(batches).tolist()) == list(range(n))
    assert len(batches) == n_batches(n, batch_size)
    assert min(sizes) >= 2
    assert max(sizes) <= max(batch_size, 3)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("augment", ["none", "crop", "crop-flip"])
def test_batches_are_normalised_floats_channels_last(augment: str) -> None:
    images = random_images(channels=3)
    batches = epoch_batches(images, batch_size=16, augment=augment, generator=torch.Generator().manual_seed(0))
    for inputs, targets in batches:
        assert inputs.dtype == torch.float32
        assert inputs.shape == (len(targets), 3, 8, 8)
        assert inputs.is_contiguous(memory_format=torch.channels_last)
        assert float(inputs.min()) == pytest.approx((0 - 0.4) / 0.3, abs=0.1)
        assert float(inputs.max()) == pytest.approx((1 - 0.4) / 0.3, abs=0.1)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (9, 3), (32, 3)])
def test_a_crop_is_a_window_of_the_framed_image_mirrored_where_asked(size: int, channels: int) -> None:
    images = random_images(20, size=size, channels=channels)
    pad = border(size)
    tops, lefts = torch.randint(2 * pad + 1, (2, 20))
    mirrored = torch.arange(20) % 2 == 0
    framed = nn.functional.pad(images.pixels, (pad, pad, pad, pad))
    result = crop(images.pixels, tops, lefts, mirrored)
    for number in range(20):
        top, left = int(tops[number]), int(lefts[number])
        window = framed[number, :, top : top + size, left : left + size]
        assert torch.equal(result[number], window.flip(-1) if mirrored[number] else window)


def test_augmenting_draws_every_offset_and_mirrors_half() -> None:
    pixels = torch.zeros(4000, 1, 8, 8, dtype=torch.uint8)
    pixels[:, :, 3, 2] = 255
    images = Images(pixels, torch.zeros(4000, dtype=torch.int64))
    drawn = epoch_batches(images, batch_size=500, augment="crop-flip", generator=torch.Generator().manual_seed(0))
    shown = torch.cat([inputs for inputs, _ in drawn])[:, 0].argmax(-1).max(-1).values  # the column of the dot
    counts = torch.bincount(shown, minlength=8)
    assert counts.nonzero().flatten().tolist() == [1, 2, 3, 4, 5, 6]
    assert counts[1:4].sum().item() == pytest.approx(2000, abs=150)
    assert counts[1:7].float().div(4000).tolist() == pytest.approx([1 / 6] * 6, abs=0.03)


def test_one_epoch_differs_from_the_next() -> None:
    images = random_images()
    generator = torch.Generator().manual_seed(0)
    one, other = (
        torch.cat([targets for _, targets in epoch_batches(images, batch_size=8, augment="none", generator=generator)])
        for _ in range(2)
    )
    assert not torch.equal(one, other)


# --- the recipe


def test_the_rate_warms_up_over_a_tenth_and_falls_to_zero() -> None:
    rates = [learning_rate(step, 100, 0.5) for step in range(100)]
    assert rates[:10] == pytest.approx([0.05 * step for step in range(1, 11)])
    assert max(rates) == 0.5
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.25)
    assert 0 < rates[-1] < 0.001
    assert learning_rate(0, 1, 0.5) == 0.5


@pytest.mark.parametrize("name", ["sgd", "adamw", "adam"])
def test_only_weights_of_two_or_more_dimensions_decay(name: str) -> None:
    model = tiny_cnn()
    model[0].weight.requires_grad_(False)
    optimizer = make_optimizer(model, Recipe(optimizer=name, weight_decay=0.01))
    decays = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    assert id(model[0].weight) not in decays
    for parameter in list(model.parameters())[1:]:
        assert decays[id(parameter)] == (0.01 if parameter.ndim >= 2 else 0.0)


def test_sgd_has_nesterov_momentum() -> None:
    optimizer = make_optimizer(tiny_cnn(), Recipe())
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)


@pytest.mark.parametrize("name", ["sgd", "adamw", "adam"])
def test_a_step_is_that_of_the_plain_optimiser(name: str) -> None:
    ours, theirs = (tiny_cnn().to(memory_format=torch.channels_last) for _ in range(2))
    fast = make_optimizer(ours, Recipe(optimizer=name, lr=0.1, weight_decay=0.0))
    words = {"momentum": 0.9, "nesterov": True} if name == "sgd" else {"weight_decay": 0.0}
    plain = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[name]
    slow = plain(theirs.parameters(), lr=0.1, foreach=False, **words)
    for _ in range(3):
        for number, (one, other) in enumerate(zip(ours.parameters(), theirs.parameters(), strict=True)):
            one.grad = torch.full_like(one, 0.1 * (number + 1)) + 0.01 * one.detach()
            other.grad = one.grad.clone()
        fast.step()
        slow.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_rare_classes_weigh_more_with_mean_one() -> None:
    weights = class_weights(torch.tensor([0] * 6 + [1] * 3 + [2]), 3)
    assert weights.mean() == pytest.approx(1)
    assert (weights[1] / weights[0], weights[2] / weights[0]) == (pytest.approx(2), pytest.approx(6))
    assert class_weights(torch.tensor([0, 1]), 3).isfinite().all()


class Recorder(nn.Module):
    """One linear layer, which keeps the gradient of its bias for each step."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.gradients: list[Tensor] = []
        self.linear.bias.register_hook(lambda gradient: self.gradients.append(gradient.clone()))

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))


@pytest.mark.parametrize(("weighted", "smoothing"), [(False, 0.0), (True, 0.0), (True, 0.2)])
def test_the_loss_is_the_weighted_smoothed_cross_entropy(weighted: bool, smoothing: float) -> None:
    targets = torch.tensor([0] * 6 + [1] * 3 + [2])
    images = Images(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), targets)
    model = Recorder()
    recipe = Recipe(batch_size=16, class_weights=weighted, label_smoothing=smoothing)
    fit(model, images, recipe=recipe, epochs=1, num_classes=3)
    logits = torch.zeros(10, 3, requires_grad=True)
    weight = class_weights(targets, 3) if weighted else None
    nn.functional.cross_entropy(logits, targets, weight=weight, label_smoothing=smoothing).backward()
    assert torch.allclose(model.gradients[0], logits.grad.sum(0), atol=1e-6)


def test_auxiliary_logits_enter_the_loss_with_the_class_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    images = Images(random_images(10, classes=3).pixels, torch.tensor([0] * 6 + [1] * 3 + [2]), (0.5,), (0.3,))
    attention = create_attention("triple", 16, context=Context(num_classes=3), aux_weight=0.5)
    model = tiny_cnn(classes=3, attention=attention)
    asked: list[tuple[nn.Module, Tensor]] = []

    from nas_attn.training import loop as module

    real = module.auxiliary_loss

    def watched(network: nn.Module, target: Tensor, loss: nn.CrossEntropyLoss) -> Tensor:
        value = real(network, target, loss)
        asked.append((loss.weight, value.detach()))
        return value

    monkeypatch.setattr(module, "auxiliary_loss", watched)
    facts = fit(model, images, recipe=Recipe(class_weights=True), epochs=1, num_classes=3)
    weight, value = asked[0]
    assert torch.equal(weight, class_weights(images.targets, 3))
    assert value > 0
    assert facts["train_loss"] > value


def test_the_weights_lie_channels_last_after_training(digits: Data) -> None:
    model = tiny_cnn()
    fit(model, digits.train, epochs=1)
    assert model[5].weight.is_contiguous(memory_format=torch.channels_last)


# --- what ends a trial


def test_a_training_that_diverges_fails_the_trial(digits: Data) -> None:
    seen: list[int] = []
    with pytest.raises(
        TrialFailed, match=r"^Training diverged: the .* is (nan|inf) in epoch 1 of 2\. Try a smaller --lr\.$"
    ) as got:
        fit(
            tiny_cnn(),
            digits.train,
            digits.val,
            recipe=Recipe(lr=100.0, weight_decay=10.0),
            report=lambda *_: seen.append(1),
        )
    assert got.value.cause == "nan"
    assert not seen


def test_logits_that_are_no_numbers_fail_the_trial_though_the_loss_was_finite(digits: Data) -> None:
    class Bursting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny_cnn()

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images) if self.training else self.net(images) * float("inf")

    with pytest.raises(
        TrialFailed,
        match=r"the sum of the validation logits is (nan|inf|-inf) in epoch 1 of 2\. Try a",
    ) as got:
        fit(Bursting(), digits.train, digits.val)
    assert got.value.cause == "nan"


class Failing(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.error = error

    def forward(self, images: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_fails_the_trial_by_name(digits: Data, error: BaseException) -> None:
    assert is_out_of_memory(error)
    with pytest.raises(TrialFailed, match="Out of memory on cpu at batch size 32: ") as got:
        fit(Failing(error), digits.train)
    assert got.value.cause == "oom"
    assert got.value.__context__ is None


def test_a_real_allocation_that_is_too_large_is_out_of_memory(digits: Data) -> None:
    class Greedy(Failing):
        def forward(self, images: Tensor) -> Tensor:
            return torch.empty(2**46, dtype=torch.float32)

    with pytest.raises(TrialFailed, match="Out of memory on cpu"):
        fit(Greedy(RuntimeError()), digits.train)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("x")])
def test_other_errors_pass_as_they_are(digits: Data, error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error), match=str(error)):
        fit(Failing(error), digits.train)
