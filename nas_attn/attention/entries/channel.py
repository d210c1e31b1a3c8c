"""Attentions that gate each channel by one number."""

from __future__ import annotations

from nas_attn.attention import vocabulary as options
from nas_attn.attention.entry import Entry
from nas_attn.attention.forms import frequency, gates, pooled, projected
from nas_attn.attention.forms.widths import reduction_misfit

CHANNEL = (
    Entry(
        name="se",
        cls="nas_attn.attention.channel:SE",
        summary="Gates each channel by a bottleneck over the channels' means.",
        formula="y = x * sigmoid(W2 relu(W1 mean_hw(x))); with layers=0: y = x * mean_hw(x)",
        source="Hu et al., CVPR 2018, arXiv:1709.01507",
        options=(options.reduction(16), options.BIAS, options.min_hidden(1), options.LAYERS),
        idle=gates.se_idle,
        n_parameters=gates.se_parameters,
        n_macs=gates.se_macs,
        weighs="nas_attn.attention.weighing.gates:se",
        fits=reduction_misfit,
    ),
    Entry(
        name="ese",
        cls="nas_attn.attention.effective_se:ESE",
        summary="Gates each channel by one layer over the channels' means, without a bottleneck.",
        formula="y = x * hard_sigmoid(W mean_hw(x))",
        source="Lee and Park (VoVNet-v2), CVPR 2020, arXiv:1911.06667",
        options=options.ESE,
        n_parameters=projected.ese_parameters,
        n_macs=projected.ese_macs,
        weighs="nas_attn.attention.weighing.projected:ese",
    ),
    Entry(
        name="se_bn",
        cls="nas_attn.attention.channel:SEBN",
        summary="SE with a batch norm and dropout after both layers.",
        formula="y = x * sigmoid(bn(drop(W2 relu(bn(drop(W1 mean_hw(x)))))))",
        source="a Keras network for cats and dogs built on Hu et al., CVPR 2018, arXiv:1709.01507",
        options=options.SE_BN,
        n_parameters=pooled.se_bn_parameters,
        n_macs=gates.se_macs,
        weighs="nas_attn.attention.weighing.gates:se_bn",
        fits=reduction_misfit,
    ),
    Entry(
        name="gct",
        cls="nas_attn.attention.gct:GCT",
        summary="Gates each channel by its magnitude relative to all channels, with three parameters per channel.",
        formula="e = alpha * norm_hw(x); y = x * (1 + tanh(gamma * e / rms_c(e) + beta))",
        source="Yang et al., CVPR 2020, arXiv:1909.11519",
        options=options.GCT,
        n_parameters=pooled.gct_parameters,
        n_macs=pooled.free_macs,
        idle=pooled.gct_idle,
        weighs="nas_attn.attention.weighing.gates:gct",
        identity_start=True,
    ),
    Entry(
        name="eca",
        cls="nas_attn.attention.channel:ECA",
        summary="Gates each channel by a 1-d convolution over the means of its neighbouring channels.",
        formula="y = x * sigmoid(conv1d(mean_hw(x)))",
        source="Wang et al., CVPR 2020, arXiv:1910.03151",
        options=options.ECA,
        n_parameters=pooled.eca_parameters,
        n_macs=pooled.eca_macs,
        weighs="nas_attn.attention.weighing.gates:eca",
        effective=pooled.eca_effective,
        auto={"kernel_size": pooled.eca_kernel},
    ),
    Entry(
        name="fca",
        cls="nas_attn.attention.fca:FCA",
        summary="Gates each channel by a bottleneck over one frequency of each channel's cosine transform.",
        formula="y = x * sigmoid(W2 relu(W1 f)), f_c = sum_hw(x_c * cos(pi u (i + 1/2) / H) * cos(pi v (j + 1/2) / W))"
        ", normed; (u, v): the frequencies of channel c",
        source="Qin et al. (FcaNet), ICCV 2021, arXiv:2012.11879",
        options=options.FCA,
        n_parameters=frequency.fca_parameters,
        n_macs=frequency.fca_macs,
        weighs="nas_attn.attention.weighing.gates:fca",
        unused=frequency.fca_unused,
        fits=frequency.fca_misfit,
        smallest_map=2,
        needs_context=True,
    ),
)
