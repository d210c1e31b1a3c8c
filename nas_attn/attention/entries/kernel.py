"""Attentions in place of a convolution."""

from __future__ import annotations

from nas_attn.attention import vocabulary as options
from nas_attn.attention.entry import SHAPE_KEEPING, Entry
from nas_attn.attention.forms import fusion, replacing

KERNEL = (
    Entry(
        name="sk",
        cls="nas_attn.attention.kernel:SK",
        summary="Selects, for each channel, between 3x3 convolutions of several dilations.",
        formula="u_i = relu(bn(conv3x3_i(x))); z = relu(bn(W1 mean_hw(sum_i u_i))); y = sum_i softmax_i(W2 z)_i * u_i",
        source="Li et al., CVPR 2019, arXiv:1903.06586",
        kinds=("conv",),
        options=options.SK,
        n_parameters=fusion.sk_parameters,
        n_macs=fusion.sk_macs,
        weighs="nas_attn.attention.weighing.gates:sk",
        unused=fusion.sk_unused,
        fits=fusion.sk_misfit,
        auto={"groups": fusion.sk_groups},
        replaces_norm=True,
        needs_context=True,
    ),
    Entry(
        name="deform",
        cls="nas_attn.attention.kernel:Deform",
        summary="A 3x3 convolution whose taps, or whose input channels, are moved by learned offsets.",
        formula="y(p) = sum_k w_k x(p + p_k + d_k(p)) (* m_k(p) if modulated), [d, m] = conv3x3(x)",
        source="Dai et al., ICCV 2017, arXiv:1703.06211; modulated: Zhu et al., CVPR 2019, arXiv:1811.11168",
        kinds=("conv",),
        options=options.DEFORM,
        n_parameters=fusion.deform_parameters,
        n_macs=fusion.deform_macs,
        weighs="nas_attn.attention.weighing.pairwise:deform",
        fits=fusion.deform_misfit,
        idle=fusion.deform_idle,
        smallest_map=2,
        needs_context=True,
        identity_start=True,
        exceptions={"second_derivative": "neither torchvision's operator nor torch's grid_sample has one"},
    ),
    Entry(
        name="cot",
        cls="nas_attn.attention.cot:CoT",
        summary="Weighs the surroundings of each pixel against their mean by a kernel of the pixel's own.",
        formula="k = relu(bn(conv3x3(x))); w = gn(conv1x1(relu(bn(conv1x1([x, k]))))); "
        "d = silu(bn(sum_j w_j * bn(conv1x1(x))_j)), j: the neighbours; "
        "y = s * d + (1 - s) * k, [s, 1 - s] = softmax(mlp(mean_hw(d + k)))",
        source="Li et al., TPAMI 2022, arXiv:2107.12292",
        kinds=(*SHAPE_KEEPING, "conv"),
        options=options.COT,
        n_parameters=replacing.cot_parameters,
        n_macs=replacing.cot_macs,
        weighs="nas_attn.attention.weighing.replacing:cot",
        unused=replacing.cot_unused,
        fits=replacing.cot_misfit,
        replaces_norm=True,
        needs_context=True,
    ),
    Entry(
        name="split_attention",
        cls="nas_attn.attention.split_attention:SplitAttention",
        summary="Weighs the splits of a grouped 3x3 convolution against each other for each channel.",
        formula="[u_1, ..., u_r] = relu(bn(conv3x3(x))); y = sum_i s_i * u_i, "
        "s = softmax_i(W2 relu(bn(W1 mean_hw(sum_i u_i))))",
        source="Zhang et al. (ResNeSt), CVPRW 2022, arXiv:2004.08955",
        kinds=(*SHAPE_KEEPING, "conv"),
        options=options.SPLIT_ATTENTION,
        n_parameters=replacing.split_parameters,
        n_macs=replacing.split_macs,
        weighs="nas_attn.attention.weighing.replacing:split_attention",
        fits=replacing.split_misfit,
        auto={"groups": replacing.split_groups},
        replaces_norm=True,
        needs_context=True,
    ),
)
