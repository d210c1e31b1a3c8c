"""One contract for every entry of the catalogue, with every value of every option beside the others' base."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from attention_cases import (
    CHANNELS,
    CONTEXT,
    VARIANTS,
    base_options,
    build,
    images,
    other_values,
    variant_id,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.entry import Context
from nas_attn.attention.options import resolve_options
from nas_attn.attention.registry import load_class
from nas_attn.attention.create import auxiliary_loss, create_attention
from nas_attn.errors import SpaceError

each_entry = pytest.mark.parametrize("name", ATTENTIONS)
each_variant = pytest.mark.parametrize("case", VARIANTS, ids=variant_id)
Case = tuple[str, dict[str, Any]]


@each_variant
def test_shape_and_finite_values_down_to_the_smallest_map(case: Case) -> None:
    name, options = case
    smallest = ATTENTIONS[name].smallest_map
    for height, width in [(smallest, smallest), (smallest, smallest + 2), (3, 5), (9, 7), (8, 8)]:
        x = images(2, CHANNELS, height, width)
        for module in (build(name, **options), build(name, **options).train()):
            output = module(x)
            assert output.shape == x.shape
            assert output.isfinite().all()


@each_entry
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_is_kept(name: str, dtype: torch.dtype) -> None:
    module = build(name, **base_options(ATTENTIONS[name])).to(dtype)
    x = images(2, CHANNELS, 5, 6)

    assert module(x.to(dtype)).dtype == dtype
    expected = build(name, **base_options(ATTENTIONS[name]))(x)
    torch.testing.assert_close(module(x.to(dtype)).float(), expected, rtol=0.1, atol=0.1)


@each_variant
def test_every_parameter_gets_a_gradient(case: Case) -> None:
    name, options = case
    smallest = ATTENTIONS[name].smallest_map
    for height, width in [(6, 6), (smallest, smallest)]:
        module = build(name, **options)  # in train mode a norm cancels the bias before it
        x = images(4, CHANNELS, height, width).requires_grad_()
        (module(x) * images(4, CHANNELS, height, width, seed=1)).sum().backward()
        assert x.grad is not None
        for parameter_name, parameter in module.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
            if (height, width) == (6, 6):
                assert parameter.grad.any(), parameter_name


@each_entry
def test_a_fresh_module_trains(name: str) -> None:
    torch.manual_seed(0)
    module = create_attention(name, CHANNELS, context=CONTEXT, **base_options(ATTENTIONS[name])).train()
    target = torch.tensor([0, 2, 1, 1])
    (module(images(4, CHANNELS, 6, 6)).square().mean() + auxiliary_loss(module, target)).backward()

    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@each_variant
def test_one_image_trains_where_the_map_is_larger_than_a_pixel(case: Case) -> None:
    name, options = case
    module = build(name, **options).train()
    output = module(images(1, CHANNELS, 2, 3))
    output.sum().backward()

    assert output.isfinite().all()


@each_variant
def test_images_of_a_batch_do_not_see_each_other_in_eval_mode(case: Case) -> None:
    name, options = case
    module, x = build(name, **options), images(3, CHANNELS, 5, 4)

    torch.testing.assert_close(module(x)[1:2], module(x[1:2]), rtol=1e-4, atol=1e-5)


@each_variant
def test_memory_layout_does_not_matter_and_channels_last_is_kept(case: Case) -> None:
    name, options = case
    module, x = build(name, **options), images(2, CHANNELS, 6, 5)
    expected = module(x)
    last = module(x.contiguous(memory_format=torch.channels_last))
    turned = module(x.transpose(2, 3).contiguous().transpose(2, 3))

    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned, expected, rtol=1e-4, atol=1e-5)


@each_variant
def test_the_input_is_left_as_it_was(case: Case) -> None:
    name, options = case
    x = images(2, CHANNELS, 4, 4)
    before = x.clone()
    build(name, **options).train()(x)

    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [(name, option, value) for name, entry in ATTENTIONS.items() for option, value in other_values(entry)],
)
def test_each_option_changes_what_is_computed(name: str, option: str, value: Any) -> None:
    base = base_options(ATTENTIONS[name])
    x, target = images(4, CHANNELS, 6, 6), torch.tensor([0, 2, 1, 1])
    one, other = (build(name, **{**base, **change}).train() for change in ({}, {option: value}))

    outputs_differ = not torch.allclose(one(x), other(x), rtol=1e-3, atol=1e-3)
    losses_differ = not torch.allclose(auxiliary_loss(one, target), auxiliary_loss(other, target))
    assert outputs_differ or (option == "aux_weight" and losses_differ)


@each_entry
def test_an_option_left_out_has_the_catalogue_default(name: str) -> None:
    entry = ATTENTIONS[name]
    defaults = {option.name: option.default for option in entry.options}
    given = {"context": CONTEXT} if entry.needs_context else {}
    direct = load_class(entry.cls)(CHANNELS, **given)

    for module in (create_attention(name, CHANNELS, context=CONTEXT, **defaults), direct):
        expected = create_attention(name, CHANNELS, context=CONTEXT).state_dict()
        assert {key: tensor.shape for key, tensor in module.state_dict().items()} == {
            key: tensor.shape for key, tensor in expected.items()
        }


@each_entry
def test_copies_and_pickles_are_equal(name: str) -> None:
    module, x = build(name, **base_options(ATTENTIONS[name])), images(2, CHANNELS, 5, 5)
    module.train()(x)  # leaves what it leaves
    pickled = pickle.loads(pickle.dumps(module))
    saved = io.BytesIO()
    torch.save(module.state_dict(), saved)
    loaded = create_attention(name, CHANNELS, context=CONTEXT, **base_options(ATTENTIONS[name]))
    loaded.load_state_dict(torch.load(io.BytesIO(saved.getvalue()), weights_only=True), strict=True)

    for other in (copy.deepcopy(module), pickled, loaded):
        assert torch.equal(other.eval()(x), module.eval()(x))


@each_entry
def test_it_compiles_into_one_graph(name: str) -> None:
    module, x = build(name, **base_options(ATTENTIONS[name])), images(2, CHANNELS, 5, 6)
    compiled = torch.compile(module, backend="eager", fullgraph=True)

    torch.testing.assert_close(compiled(x), module(x))
    torch.compiler.reset()


@each_entry
def test_modules_with_one_seed_are_equal(name: str) -> None:
    def seeded() -> nn.Module:
        torch.manual_seed(3)
        return create_attention(name, CHANNELS, context=CONTEXT, **base_options(ATTENTIONS[name]))

    first, second = seeded().state_dict(), seeded().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@each_variant
@pytest.mark.parametrize(("channels", "height", "width"), [(16, 4, 4), (32, 5, 3)])
def test_closed_forms_equal_the_built_module(case: Case, channels: int, height: int, width: int) -> None:
    name, options = case
    check_closed_forms(name, channels, height, width, options, CONTEXT)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(list(ATTENTIONS)),
    channels=st.integers(1, 40),
    num_classes=st.integers(2, 5),
    draw=st.data(),
)
def test_closed_forms_equal_any_module(name: str, channels: int, num_classes: int, draw: st.DataObject) -> None:
    entry = ATTENTIONS[name]
    options = base_options(entry) | dict(draw.draw(st.lists(st.sampled_from(other_values(entry)), max_size=4)))
    options["reduction"] = draw.draw(st.integers(1, channels))
    if entry.fits(channels, options) is None:
        check_closed_forms(name, channels, 3, 4, options, Context(num_classes=num_classes))


def check_closed_forms(
    name: str, channels: int, height: int, width: int, options: dict[str, Any], context: Context
) -> None:
    """Count the parameters and the multiply-adds of the built module."""
    entry = ATTENTIONS[name]
    resolved = resolve_options(entry, channels, options)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        module = create_attention(name, channels, context=context, **options).eval()
        module(torch.empty(1, channels, height, width))

    n_parameters = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    assert entry.n_parameters(channels, resolved, context) == n_parameters
    assert entry.n_macs(channels, height, width, resolved, context) == counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("name", "channels", "options", "n_parameters"),
    [
        ("se", 64, {"reduction": 16}, 580),
        ("se", 64, {"reduction": 16, "bias": False}, 512),
        ("cbam", 64, {"reduction": 16}, 680),
        ("cbam", 64, {"reduction": 8, "spatial_norm": False, "gate": "hard_sigmoid"}, 1194),
        ("gam", 64, {"reduction": 4}, 102_720),
    ],
)
def test_published_parameter_counts(name: str, channels: int, options: dict[str, Any], n_parameters: int) -> None:
    module = create_attention(name, channels, **options)
    assert sum(parameter.numel() for parameter in module.parameters()) == n_parameters


def test_published_totals_of_resnet50() -> None:
    """SE, CBAM and GAM behind every block of ResNet-50: the authors' networks, GAM's paper at 149.5 M on CIFAR."""
    widths = {256: 3, 512: 4, 1024: 6, 2048: 3}

    def total(name: str, **options: Any) -> int:
        entry = ATTENTIONS[name]
        return sum(n * entry.n_parameters(c, resolve_options(entry, c, options), Context()) for c, n in widths.items())

    assert 25_557_032 + total("se") == 28_088_024
    assert 25_557_032 + total("se", bias=False) == 28_071_976
    assert 25_557_032 + total("cbam") == 28_089_624
    assert round((23_705_252 + total("gam")) / 1e6, 1) == 149.5
    assert 57.0 < (23_705_252 + total("gam", groups=4)) / 1e6 < 57.1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cbma", {}, r"Unknown attention 'cbma': did you mean 'cbam'\? Known: cbam, gam, se, triple\."),
        ("cbam", {"kernal_size": 3}, r"Unknown option of 'cbam' 'kernal_size': did you mean 'kernel_size'\?"),
        ("cbam", {"kernel_size": 4}, r"'kernel_size' of 'cbam' must be an odd number from 1 to 63, but got 4\."),
        (
            "cbam",
            {"order": "channel"},
            r"one of channel_first, .* \(did you mean '.*'\?\), but got 'channel'\.",
        ),
        ("se", {"reduction": 17}, r"reduction <= channels must hold, but got reduction=17, channels=16; the nearest"),
        ("gam", {"reduction": 4, "groups": 3}, r"groups must divide .* groups=3, .* hidden width 4; .*groups=2 or 4\."),
        ("triple", {"context": None}, r"must know the classes: pass context=Context\(num_classes=...\)\."),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        create_attention(name, CHANNELS, **options)


@each_entry
def test_no_channels_are_refused(name: str) -> None:
    with pytest.raises(SpaceError, match=r"channels >= 1 must hold for attention '.*', but got channels=0\."):
        create_attention(name, 0, context=CONTEXT)
