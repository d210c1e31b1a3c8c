"""What an attention weighs is what it computes with: each entry of the catalogue, and each of its options."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn import create_attention
from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.entry import Entry
from nas_attn.attention.weighing.record import Weights, change, weigh
from nas_attn.errors import SpaceError
from nas_attn.placement import Convolution
from nas_attn.testing.cases import Case, cases_of

UNIT_GATES = (
    *("se", "se_bn", "scse", "cbam", "eca", "triplet", "ms_cam", "coord", "simam", "shuffle", "sge", "ema"),
    *("ese", "nam", "epsa", "fca"),
)
"""Attentions whose gates lie between 0 and 1; the others double, subtract, or are no gates."""


def weighed(case: Case) -> tuple[list[Tensor], Tensor, Weights]:
    """Return inputs, output and weights of a case with random parameters."""
    module, inputs = case.build(), case.inputs()
    output = module(*inputs).detach()
    return inputs, output, weigh(case.entry, module, tuple(inputs), output)


@pytest.mark.parametrize("name", list(ATTENTIONS.own))
def test_the_weights_of_every_attention_have_their_shape_and_range(name):
    for case in cases_of(ATTENTIONS[name]):
        inputs, output, weights = weighed(case)
        assert (weights.channels, weights.pixels) != (None, None), case
        if weights.channels is not None:
            assert weights.channels.shape == output.shape[:2], case
        if weights.pixels is not None:
            assert weights.pixels.shape == (2, *inputs[0].shape[2:]), case
        for part in (weights.channels, weights.pixels, weights.elements):
            assert part is None or (part.isfinite().all() and not part.requires_grad), case
            sums = case.resolved.get("merge") == "add" or case.resolved.get("layers") == 0
            if part is not None and name in UNIT_GATES and not sums:
                assert 0 <= part.min() <= part.max() <= 1, case
        attended = weights.channels if weights.pixels is None else weights.pixels
        if weights.meaning == "received":
            torch.testing.assert_close(attended.flatten(1).mean(1), torch.ones(2), msg=str(case))
        if weights.meaning in ("received", "read"):
            assert attended.min() >= 0, case
        if weights.meaning == "share":
            assert 0 <= weights.channels.min() <= weights.channels.max() <= 1, case


@pytest.mark.parametrize("name", list(ATTENTIONS.own))
def test_a_gate_times_the_input_is_the_output(name):
    gated = 0
    for case in cases_of(ATTENTIONS[name]):
        inputs, output, weights = weighed(case)
        if weights.elements is not None:
            torch.testing.assert_close(inputs[0] * weights.elements, output, rtol=1e-5, atol=1e-5, msg=str(case))
            gated += 1
    factors = {"lska", "lka", "bam", "gam", "gct", "triple", "polarized", *UNIT_GATES} - {"shuffle", "epsa"}
    assert (gated > 0) == (name in factors)


def test_every_attention_that_weighs_states_how():
    silent = {name for name in ATTENTIONS.own if ATTENTIONS[name].weighs is None}
    assert "daf" in silent, "a sum of two maps weighs nothing"
    assert len(ATTENTIONS.own) - len(silent) >= 25


@pytest.mark.parametrize("name", ["se", "cbam"])
def test_a_channel_whose_gate_is_closed_has_the_weight_0(name):
    module = create_attention(name, 16, reduction=4).eval()
    bottleneck = module.bottleneck if name == "se" else module.channel.bottleneck
    bottleneck.expand.bias.data[5] = -1e9
    x = torch.rand(2, 16, 6, 5)
    weights = weigh(ATTENTIONS[name], module, (x,), module(x)).channels
    assert (weights[:, 5] == 0).all()
    assert weights[:, [channel for channel in range(16) if channel != 5]].min() > 0


def test_the_weights_of_shuffled_channels_are_those_before_the_shuffle():
    case = cases_of(ATTENTIONS["shuffle"])[0]
    module, (x,) = case.build(), case.inputs()
    shuffled = functional.channel_shuffle(x * module.gate(x), 2)
    torch.testing.assert_close(shuffled, module(x), rtol=0, atol=0)
    torch.testing.assert_close(weighed(case)[2].channels, module.gate(x).mean((2, 3)).detach())


@pytest.mark.parametrize(("name", "doubled"), [("aff", 2), ("iaff", 1)])
def test_the_share_of_a_merge_mixes_both_maps(name, doubled):
    case = cases_of(ATTENTIONS[name])[0]
    module, (branch, shortcut) = case.build(), case.inputs()
    last = module.gate if name == "aff" else module.gate2
    for bias, share in ((1e3, 1.0), (-1e3, 0.0)):
        last.local.norm2.bias.data.fill_(bias)
        weights = weigh(case.entry, module, (branch, shortcut), module(branch, shortcut))
        assert (weights.channels == share).all()
        assert (weights.pixels == share).all()
        torch.testing.assert_close(module(branch, shortcut), doubled * (branch if share else shortcut))


def test_the_share_of_dilated_kernels_is_that_of_the_selector():
    case = cases_of(ATTENTIONS["sk"])[0]
    module, (x,) = case.build(), case.inputs()
    logits = module.selector.expand
    logits.weight.data.zero_()
    logits.bias = nn.Parameter(torch.zeros(2 * case.channels))
    logits.bias.data[3], logits.bias.data[case.channels + 4] = 1e3, 1e3
    share = weigh(case.entry, module, (x,), module(x)).channels
    assert (share[:, 3] == 0).all()
    assert (share[:, 4] == 1).all()
    assert (share[:, 5:] == 0.5).all()


def test_all_dilated_kernels_count_together():
    case = next(case for case in cases_of(ATTENTIONS["sk"]) if case.options["n_branches"] == 3)
    module, (x,) = case.fresh().eval(), case.inputs()
    module.selector.expand.weight.data.zero_()
    torch.testing.assert_close(
        weigh(case.entry, module, (x,), module(x)).channels, torch.full((2, case.channels), 2 / 3)
    )


def test_the_attention_of_a_class_counts_where_its_score_is_high():
    case = Case(ATTENTIONS["triple"], 8, {"parts": "element"})
    module, x = case.fresh().eval(), torch.zeros(1, 8, 4, 4)
    module.element.attend = nn.Conv2d(8, 3, 1)
    module.element.attend.weight.data.zero_()  # attends to all pixels alike
    module.element.classify.weight.data.fill_(300.0)
    module.element.classify.bias.data.fill_(-1000.0)
    x[0, :, 3, 0] = 1.0
    received = weigh(case.entry, module, (x,), module(x)).pixels[0]
    assert received[3, 0] == pytest.approx(16)


def test_the_weights_of_a_pooling_are_the_mean_over_its_heads():
    case = Case(ATTENTIONS["attention_pool"], 8, {"heads": 2})
    module, (x,) = case.build(), case.inputs()
    query = module.query(x.mean((2, 3))).view(2, 2, 1, 4)
    key = module.key(x.flatten(2).transpose(1, 2)).view(2, 30, 2, 4).transpose(1, 2)
    expected = 30 * (query @ key.transpose(2, 3) / 2).softmax(3).mean(1).view(2, 6, 5)
    torch.testing.assert_close(weigh(case.entry, module, (x,), module(x)).pixels, expected.detach())


@pytest.mark.parametrize("options", [{}, {"score": "general"}, {"score": "concat"}, {"heads": 2}, {"window": 3}])
def test_the_attention_that_pixels_receive_is_the_sum_over_all_pairs(options):
    entry = ATTENTIONS["self_attention"]
    case = Case(entry, 8, options)
    module, (x,) = case.build(), case.inputs()
    pixels, heads = x.flatten(2).transpose(1, 2), module.heads
    query, key = (layer(pixels).unflatten(2, (heads, -1)).transpose(1, 2) for layer in (module.query, module.key))
    if options.get("score") == "concat":
        scores = (torch.tanh(query[:, :, :, None] + key[:, :, None]) * module.score.weight[:, None, None]).sum(4)
    else:
        query = query @ module.score.weight if options.get("score") == "general" else query
        scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    rows, columns = torch.arange(30) // 5, torch.arange(30) % 5
    if "window" in options:
        near = ((rows[:, None] - rows).abs() <= 1) & ((columns[:, None] - columns).abs() <= 1)
        scores = scores.masked_fill(~near, -torch.inf)
    expected = scores.softmax(3).mean(1).sum(1).view(2, 6, 5)
    torch.testing.assert_close(weigh(entry, module, (x,), module(x)).pixels, expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"scale": True}, {"subsample": True}])
def test_non_local_attention_received_is_the_sum_over_all_pairs(options):
    case = Case(ATTENTIONS["non_local"], 8, options)
    module, (x,) = case.build((6, 4)), case.inputs(size=(6, 4))
    query = module.theta(x.flatten(2).transpose(1, 2))
    keys = module.phi(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    keys = functional.max_pool2d(keys, 2) if options.get("subsample") else keys
    received = (query @ keys.flatten(2) * module.scale).softmax(2).sum(1).view(2, *keys.shape[2:])
    expected = received / received.mean((1, 2), keepdim=True)
    if options.get("subsample"):
        expected = expected.repeat_interleave(2, 1).repeat_interleave(2, 2)
    found = weigh(case.entry, module, (x,), module(x)).pixels
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [("gc", {"reduction": 4}), ("attention_pool", {}), ("triple", {"parts": "element"}), ("triple", {"reduction": 4})],
)
def test_a_pixel_that_alone_is_attended_to_receives_everything(name, options):
    case = Case(ATTENTIONS[name], 8, options)
    module = case.fresh().eval()
    if name == "triple":
        module.element.attend = nn.Conv2d(8, 3, 1)
    for parameter in module.parameters():
        parameter.data.fill_(300.0 if parameter.ndim > 1 else 0.0)
    x = torch.zeros(1, 8, 4, 4)
    x[0, :, 1, 2] = 1.0
    received = weigh(case.entry, module, (x,), module(x)).pixels[0]
    assert received[1, 2] == pytest.approx(16)
    assert received.sum() == pytest.approx(16)


@pytest.mark.parametrize("options", [{}, {"modulated": True}, {"groups": 2}, {"offsets": "channel"}])
def test_a_deformable_convolution_at_its_start_reads_every_pixel_as_often_as_a_plain_one(options):
    case = Case(ATTENTIONS["deform"], 8, options, replaced=cases_of(ATTENTIONS["deform"], 8)[0].replaced)
    module, (x,) = case.fresh().eval(), case.inputs()
    torch.testing.assert_close(weigh(case.entry, module, (x,), module(x)).pixels, torch.ones(2, 6, 5))


def test_a_masked_tap_reads_nothing_and_a_pixel_between_the_taps_is_not_read():
    apart = Convolution(8, 8, stride=2, dilation=2, bias=False)
    case = Case(ATTENTIONS["deform"], 8, {"modulated": True}, replaced=apart)
    module, (x,) = case.fresh().eval(), case.inputs()
    read = weigh(case.entry, module, (x,), module(x)).pixels
    assert read[:, ::2, ::2].eq(1).all()
    assert read[:, 1::2].eq(0).all()
    module.offset.bias.data[18:] = -1e3
    assert weigh(case.entry, module, (x,), module(x)).pixels.eq(0).all()


def test_pixels_that_the_offsets_lead_to_are_read_more_often():
    case = Case(ATTENTIONS["deform"], 8, {"offsets": "channel"}, replaced=cases_of(ATTENTIONS["deform"], 8)[0].replaced)
    module, x = case.fresh().eval(), torch.ones(1, 8, 6, 5)
    module.offset.weight.data[1::2, :, 1, 1] = 1 / 8  # one column to the right
    read = weigh(case.entry, module, (x,), module(x)).pixels[0]
    torch.testing.assert_close(read, torch.tensor([0.0, 1.0, 1.0, 1.0, 2.0]).expand(6, 5))


def test_the_change_of_a_map_is_the_magnitude_of_a_gate():
    x = torch.randn(2, 4, 6, 5)
    channels, pixels = torch.tensor([0.0, -1.0, 0.5, 2.0]), torch.rand(6, 5)
    torch.testing.assert_close(change((x,), x * channels[:, None, None]).channels, channels.abs().expand(2, 4))
    torch.testing.assert_close(change((x,), x * pixels).pixels, pixels.expand(2, 6, 5))
    assert change((x * 0,), x).channels.eq(0).all()
    pooled = change((x,), x.mean((2, 3), keepdim=True))
    assert pooled.pixels is None
    assert pooled.channels.shape == (2, 4)


def test_a_function_that_cannot_be_imported_is_named():
    entry = Entry("mine", nn.Identity, "", "", "", weighs="nas_attn.attention.nowhere:se")
    with pytest.raises(
        SpaceError, match=r"^The function nas_attn\.attention\.nowhere:se of an attention cannot be loa"
    ):
        weigh(entry, nn.Identity(), (torch.ones(1, 1, 2, 2),), torch.ones(1, 1, 2, 2))
