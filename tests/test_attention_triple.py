"""Triple attention against a plain recomputation, and what auxiliary logits do while training."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from attention_cases import CHANNELS, CONTEXT, build, images
from torch import Tensor, nn

from nas_attn.attention.create import create_attention
from nas_attn.attention.entry import Context
from nas_attn.attention.triple import average_cells
from nas_attn.errors import SpaceError
from nas_attn.training.auxiliary import auxiliary_loss

TARGET = torch.tensor([0, 2, 1, 1])


def plain_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution with zeros outside the map, as a sum over the taps."""
    reach = weight.shape[-1] // 2
    height, width = x.shape[2:]
    outside = torch.zeros(*x.shape[:2], height + 2 * reach, width + 2 * reach)
    outside[:, :, reach : reach + height, reach : reach + width] = x
    total = torch.zeros(x.shape[0], weight.shape[0], height, width)
    for row in range(weight.shape[-1]):
        for column in range(weight.shape[-1]):
            window = outside[:, :, row : row + height, column : column + width]
            total += torch.einsum("oc,nchw->nohw", weight[:, :, row, column], window)
    return total if bias is None else total + bias[None, :, None, None]


def plain_channel(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    means = x.sum((2, 3)) / (x.shape[2] * x.shape[3])
    reduced = means @ state["channel.bottleneck.reduce.weight"].T + state["channel.bottleneck.reduce.bias"]
    expanded = reduced.clamp(min=0) @ state["channel.bottleneck.expand.weight"].T
    expanded = expanded + state["channel.bottleneck.expand.bias"]
    return x / (1 + (-expanded).exp())[:, :, None, None]


def plain_element(x: Tensor, state: dict[str, Tensor], softmax: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return y, A, S and the auxiliary logits."""
    hidden = plain_conv(x, state["element.attend.0.weight"], state["element.attend.0.bias"]).clamp(min=0)
    hidden = plain_conv(hidden, state["element.attend.2.weight"], state["element.attend.2.bias"]).clamp(min=0)
    raw = plain_conv(hidden, state["element.attend.4.weight"], state.get("element.attend.4.bias")).exp()
    attention = raw / raw.sum((2, 3) if softmax == "spatial" else 1, keepdim=True)
    scores = plain_conv(x, state["element.classify.weight"], state["element.classify.bias"])
    logits = torch.stack([(scores * attention)[:, :, row, :].sum(2) for row in range(x.shape[2])]).sum(0)
    gated = attention / (1 + (-scores).exp())
    y = x + plain_conv(gated, state["element.restore.weight"], state["element.restore.bias"])
    return y, attention, scores, logits


def plain_cells(x: Tensor, size: int) -> Tensor:
    means = torch.empty_like(x)
    for row in range(0, x.shape[2], size):
        for column in range(0, x.shape[3], size):
            cell = x[:, :, row : row + size, column : column + size]
            means[:, :, row : row + size, column : column + size] = cell.mean((2, 3), keepdim=True)
    return means


def plain_scale(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    raw = state["scale.mixture"].exp()
    mixed = sum(share * plain_cells(x, size) for share, size in zip(raw / raw.sum(), (1, 2, 4), strict=True))
    return x / (1 + (-mixed).exp())


@pytest.mark.parametrize(
    "parts",
    ["channel", "element", "scale", "channel+element", "channel+scale", "element+scale", "channel+element+scale"],
)
def test_every_quantity_equals_a_plain_recomputation(parts: str) -> None:
    for softmax in ("spatial", "channel") if "element" in parts else ("spatial",):
        for size in [(8, 8), (5, 7), (2, 2), (3, 9), (6, 2)]:
            compare_with_plain(parts, softmax, size)


def compare_with_plain(parts: str, softmax: str, size: tuple[int, int]) -> None:
    """Raise AssertionError unless every quantity of the module equals its plain recomputation."""
    module = build("triple", parts=parts, reduction=4, softmax=softmax).train()
    state, x = module.state_dict(), images(2, CHANNELS, *size)
    seen: dict[str, Tensor] = {}
    if "element" in parts:
        module.element.classify.register_forward_hook(lambda _, __, output: seen.update(scores=output))
        module.element.restore.register_forward_hook(lambda _, given, __: seen.update(gated=given[0]))
    output = module(x)

    expected = plain_channel(x, state) if "channel" in parts else x
    if "element" in parts:
        expected, attention, scores, logits = plain_element(expected, state, softmax)
        torch.testing.assert_close(seen["scores"], scores, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(seen["gated"], attention * scores.sigmoid(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(module.element.auxiliary.logits, logits, rtol=1e-4, atol=1e-4)
    expected = plain_scale(expected, state) if "scale" in parts else expected
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_cells_at_the_edge_hold_the_pixels_that_are_left(size: int) -> None:
    for shape in [(8, 8), (1, 1), (2, 3), (5, 5), (7, 9), (3, 11)]:
        x = images(2, 3, *shape)
        torch.testing.assert_close(average_cells(x, size), plain_cells(x, size))


def test_parameters_are_registered_in_the_order_of_the_data_flow() -> None:
    names = [name.rsplit(".", 1)[0] for name in build("triple", reduction=4).state_dict()]
    assert list(dict.fromkeys(names)) == [
        "channel.bottleneck.reduce",
        "channel.bottleneck.expand",
        "element.attend.0",
        "element.attend.2",
        "element.attend.4",
        "element.classify",
        "element.restore",
        "scale",
    ]


def test_auto_width_is_512_at_most() -> None:
    for channels, width in [(16, 16), (520, 512)]:
        with torch.device("meta"):
            module = create_attention("triple", channels, context=CONTEXT, hidden="auto")
        assert module.element.attend[0].out_channels == width


@pytest.mark.parametrize("num_classes", [1, 2])
def test_few_classes_keep_every_gradient_alive(num_classes: int) -> None:
    module = create_attention("triple", CHANNELS, context=Context(num_classes), reduction=4)
    (module(images(4, CHANNELS, 5, 5)) * images(4, CHANNELS, 5, 5, seed=1)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


def test_a_channel_softmax_over_one_class_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"num_classes >= 2 must hold .* softmax='channel', but got num_classes=1\."):
        create_attention("triple", CHANNELS, context=Context(1), reduction=4, softmax="channel")


def test_parts_without_classes_need_no_context() -> None:
    assert create_attention("triple", CHANNELS, parts="channel+scale", reduction=4) is not None


def two_triples(**options: float | str) -> nn.Sequential:
    """A network with two attentions that leave logits, and one that leaves none."""
    return nn.Sequential(
        build("triple", reduction=4, **options), build("se", reduction=4), build("triple", reduction=8, **options)
    ).train()


def test_auxiliary_loss_is_the_weighted_sum_and_is_taken_once() -> None:
    net, x = two_triples(aux_weight=0.25), images(4, CHANNELS, 5, 5)
    net(x)
    logits = [net[index].element.auxiliary.logits for index in (0, 2)]
    assert [tuple(one.shape) for one in logits] == [(4, 3), (4, 3)]
    expected = sum(0.25 * nn.functional.cross_entropy(one, TARGET) for one in logits)

    torch.testing.assert_close(auxiliary_loss(net, TARGET), expected)
    assert auxiliary_loss(net, TARGET).item() == 0.0


def test_auxiliary_loss_uses_the_loss_of_the_training() -> None:
    net, x = two_triples(aux_weight=2.0), images(4, CHANNELS, 5, 5)
    weights = torch.tensor([0.5, 1.0, 3.0])
    net(x)
    logits = [net[index].element.auxiliary.logits for index in (0, 2)]
    expected = sum(2.0 * nn.functional.cross_entropy(one, TARGET, weight=weights) for one in logits)

    torch.testing.assert_close(auxiliary_loss(net, TARGET, nn.CrossEntropyLoss(weight=weights)), expected)


def test_auxiliary_loss_trains_the_class_attention() -> None:
    module = build("triple", reduction=4).train()
    module(images(4, CHANNELS, 5, 5))
    auxiliary_loss(module, TARGET).backward()

    trained = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in module.named_parameters() if "restore" not in name and "scale" not in name}


def test_without_auxiliary_logits_the_loss_is_zero() -> None:
    loss = auxiliary_loss(build("se", reduction=4).train(), TARGET)
    assert loss.item() == 0.0
    assert loss.shape == ()


def test_logits_are_left_in_train_mode_with_gradients_only() -> None:
    module, x = build("triple", reduction=4), images(4, CHANNELS, 5, 5)
    module.eval()(x)
    assert module.element.auxiliary.logits is None

    module.train()(x)
    assert module.element.auxiliary.logits is not None
    with torch.no_grad():
        module(x)
    assert module.element.auxiliary.logits is None


def test_eval_deepcopy_and_pickle_drop_the_logits() -> None:
    module, x = build("triple", reduction=4).train(), images(4, CHANNELS, 5, 5)
    module(x)
    copied, pickled = copy.deepcopy(module), pickle.loads(pickle.dumps(module))

    assert module.element.auxiliary.logits is not None
    assert copied.element.auxiliary.logits is None
    assert pickled.element.auxiliary.logits is None
    assert copied.training
    module.eval()
    assert module.element.auxiliary.logits is None


def test_the_state_dict_holds_no_logits() -> None:
    module = build("triple", reduction=4).train()
    before = list(module.state_dict())
    module(images(4, CHANNELS, 5, 5))
    assert list(module.state_dict()) == before
