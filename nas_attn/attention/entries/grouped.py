"""Attentions that work in groups of channels."""

from __future__ import annotations

from nas_attn.attention import vocabulary as options
from nas_attn.attention.entry import SHAPE_KEEPING, Entry
from nas_attn.attention.forms import grouped, pooled, projected
from nas_attn.attention.forms.widths import divisor_misfit

GROUPED = (
    Entry(
        name="shuffle",
        cls="nas_attn.attention.grouped:Shuffle",
        summary="In each group of channels, gates half per channel and half per element, then shuffles the channels.",
        formula="y = shuffle([a * sigmoid(w mean_hw(a) + b), c * sigmoid(v gn(c) + d)]); a, c: halves of a group",
        source="Zhang and Yang (SA-Net), ICASSP 2021, arXiv:2102.00240",
        options=options.SHUFFLE,
        n_parameters=grouped.shuffle_parameters,
        n_macs=pooled.free_macs,
        weighs="nas_attn.attention.weighing.gates:shuffle",
        fits=divisor_misfit("groups", parts=2),
        auto={"groups": grouped.shuffle_groups},
        smallest_map=2,
    ),
    Entry(
        name="sge",
        cls="nas_attn.attention.grouped:SGE",
        summary="In each group of channels, gates the pixels by their similarity to the group's mean.",
        formula="y = x * sigmoid(w t + b), t = (s - mean_hw(s)) / (std_hw(s) + eps), s = mean_hw(x) . x in each group",
        source="Li et al., 2019, arXiv:1905.09646",
        options=options.SGE,
        n_parameters=grouped.sge_parameters,
        n_macs=pooled.free_macs,
        weighs="nas_attn.attention.weighing.gates:by_group",
        fits=divisor_misfit("groups"),
        auto={"groups": grouped.sge_groups},
        smallest_map=2,
    ),
    Entry(
        name="ema",
        cls="nas_attn.attention.grouped:EMA",
        summary="In each group of channels, a coordinate gate and a 3x3 convolution weight each other's pixels.",
        formula="a = gn(x * sigmoid(h) * sigmoid(w)), [h, w] = conv1x1([mean_w(x), mean_h(x)]); b = conv3x3(x); "
        "y = x * sigmoid(softmax_c(mean_hw(a)) . b + softmax_c(mean_hw(b)) . a)",
        source="Ouyang et al., ICASSP 2023, arXiv:2305.13563",
        options=options.EMA,
        n_parameters=grouped.ema_parameters,
        n_macs=grouped.ema_macs,
        weighs="nas_attn.attention.weighing.gates:by_group",
        fits=divisor_misfit("factor"),
        auto={"factor": grouped.ema_factor},
        smallest_map=2,
    ),
    Entry(
        name="epsa",
        cls="nas_attn.attention.pyramid:EPSA",
        summary="Convolves by kernels of four sizes, a quarter of the channels each, and weights the four by SE.",
        formula="u_i = conv_i(x), i = 1..4; y = [softmax_i(sigmoid(W2 relu(W1 mean_hw(u_i)))) * u_i], i = 4..1",
        source="Zhang et al. (EPSANet), ACCV 2022, arXiv:2105.14447",
        kinds=(*SHAPE_KEEPING, "conv"),
        options=options.EPSA,
        n_parameters=projected.epsa_parameters,
        n_macs=projected.epsa_macs,
        weighs="nas_attn.attention.weighing.projected:epsa",
        fits=projected.epsa_misfit,
        idle=projected.epsa_idle,
        effective=projected.epsa_effective,
        auto={"groups": projected.epsa_groups, "hidden": projected.epsa_hidden},
        needs_context=True,
    ),
)
