"""Attentions in place of a convolution."""

from __future__ import annotations

from nas_attn.attention import vocabulary as options
from nas_attn.attention.entry import Entry
from nas_attn.attention.forms import fusion

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
    ),
)
