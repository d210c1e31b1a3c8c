"""Attentions over two maps, and the gate that they share."""

from __future__ import annotations

from nas_attn.attention import vocabulary as options
from nas_attn.attention.entry import Entry
from nas_attn.attention.forms import fusion, gates, pooled
from nas_attn.attention.forms.widths import reduction_misfit

FUSION = (
    Entry(
        name="ms_cam",
        cls="nas_attn.attention.fusion:MSCAM",
        summary="Gates every element by a bottleneck at its pixel plus one over the channels' means.",
        formula="y = x * sigmoid(L(x) + G(mean_hw(x))), L and G: conv1x1, bn, relu, conv1x1, bn",
        source="Dai et al., WACV 2021, arXiv:2009.14082",
        options=(options.reduction(4),),
        n_parameters=fusion.ms_cam_parameters,
        n_macs=fusion.ms_cam_macs,
        weighs="nas_attn.attention.weighing.gates:ms_cam",
        fits=reduction_misfit,
    ),
    Entry(
        name="aff",
        cls="nas_attn.attention.fusion:AFF",
        summary="Adds two maps weighted against each other by the gate of MS-CAM over their sum.",
        formula="y = 2 * a * w + 2 * b * (1 - w), w = the gate of ms_cam over a + b",
        source="Dai et al., WACV 2021, arXiv:2009.14082",
        kinds=("merge",),
        options=(options.reduction(4),),
        n_parameters=fusion.ms_cam_parameters,
        n_macs=fusion.ms_cam_macs,
        weighs="nas_attn.attention.weighing.gates:aff",
        fits=reduction_misfit,
        n_inputs=2,
    ),
    Entry(
        name="iaff",
        cls="nas_attn.attention.fusion:IAFF",
        summary="Mixes two maps by a gate over a first mixture of them, which has a gate of its own.",
        formula="m = a * v + b * (1 - v), v = gate1(a + b); y = a * w + b * (1 - w), w = gate2(m)",
        source="Dai et al., WACV 2021, arXiv:2009.14082",
        kinds=("merge",),
        options=(options.reduction(4),),
        n_parameters=fusion.iaff_parameters,
        n_macs=fusion.iaff_macs,
        weighs="nas_attn.attention.weighing.gates:iaff",
        fits=reduction_misfit,
        n_inputs=2,
    ),
    Entry(
        name="se_parallel",
        cls="nas_attn.attention.fusion:SEParallel",
        summary="Gates a block's branch by SE over the block's input, beside its convolutions; for study.",
        formula="y = b + a * sigmoid(W2 relu(W1 mean_hw(b))), a: the branch, b: the shortcut",
        source="a tutorial on Hu et al., CVPR 2018, arXiv:1709.01507",
        kinds=("merge",),
        options=(options.reduction(16),),
        n_parameters=gates.se_parameters,
        n_macs=gates.se_macs,
        weighs="nas_attn.attention.weighing.gates:se_parallel",
        fits=reduction_misfit,
        n_inputs=2,
    ),
    Entry(
        name="daf",
        cls="nas_attn.attention.fusion:DAF",
        summary="Adds two maps, as a residual block without attention does.",
        formula="y = a + b",
        source="Dai et al., WACV 2021, arXiv:2009.14082",
        kinds=("merge",),
        n_parameters=pooled.free_parameters,
        n_macs=pooled.free_macs,
        n_inputs=2,
        identity_start=True,
        neutral=True,
    ),
)
