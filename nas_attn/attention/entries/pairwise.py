"""Attentions that compare pixels, or channels, with each other."""

from __future__ import annotations

from nas_attn.attention import vocabulary as options
from nas_attn.attention.entry import SHAPE_KEEPING, Entry
from nas_attn.attention.forms import danet, pairwise, projected, replacing
from nas_attn.attention.forms.widths import divisor_misfit, reduction_misfit

FUSED_ONCE = (
    "torch's fused attention has no second derivative, except inside torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
)

PAIRWISE = (
    Entry(
        name="gc",
        cls="nas_attn.attention.pairwise:GC",
        summary="Adds one vector to every pixel, computed from a weighted mean of all pixels.",
        formula="y = x + W2 relu(ln(W1 sum_hw(softmax_hw(conv1x1(x)) * x)))",
        source="Cao et al., ICCVW 2019, arXiv:1904.11492",
        options=(options.reduction(16),),
        n_parameters=pairwise.gc_parameters,
        n_macs=pairwise.gc_macs,
        weighs="nas_attn.attention.weighing.pairwise:gc",
        unused=pairwise.gc_unused,
        fits=reduction_misfit,
        smallest_map=2,
        identity_start=True,
        exceptions={"bias_gradient": "the bias of the scores is the same for all pixels, so the softmax cancels it"},
    ),
    Entry(
        name="non_local",
        cls="nas_attn.attention.pairwise:NonLocal",
        summary="Adds to every pixel a mean of all pixels, weighted by similarity.",
        formula="y = x + bn(W softmax(theta(x)^T phi(x)) g(x))",
        source="Wang et al., CVPR 2018, arXiv:1711.07971",
        options=options.NON_LOCAL,
        n_parameters=pairwise.non_local_parameters,
        n_macs=pairwise.non_local_macs,
        weighs="nas_attn.attention.weighing.pairwise:non_local",
        effective=pairwise.non_local_effective,
        unused=pairwise.non_local_unused,
        fits=reduction_misfit,
        idle=pairwise.non_local_idle,
        smallest_map=2,
        identity_start=True,
        exceptions={
            "bias_gradient": "phi's bias adds the same value to all scores of a pixel, so the softmax cancels it",
            "second_derivative": FUSED_ONCE,
        },
    ),
    Entry(
        name="double_attention",
        cls="nas_attn.attention.double_attention:DoubleAttention",
        summary="Adds to every pixel its own mixture of a few weighted means of all pixels.",
        formula="y = x + W (A softmax_hw(B)^T) softmax_n(V); A, B, V: conv1x1(x)",
        source="Chen et al. (A2-Nets), NeurIPS 2018, arXiv:1810.11579",
        options=options.DOUBLE_ATTENTION,
        n_parameters=projected.double_parameters,
        n_macs=projected.double_macs,
        weighs="nas_attn.attention.weighing.projected:double_attention",
        unused=projected.double_unused,
        fits=reduction_misfit,
        auto={"descriptors": projected.double_descriptors},
        smallest_map=2,
        identity_start=True,
        exceptions={
            "bias_gradient": "the bias of the gathering scores is the same for all pixels, so the softmax cancels it"
        },
    ),
    Entry(
        name="self_attention",
        cls="nas_attn.attention.self_attention:SelfAttention",
        summary="Adds to every pixel a weighted mean of all pixels, or of a window around it, in several heads.",
        formula="y = x + Wo sum_j softmax_j(s(q_i, k_j)) v_j; s: q.k / sqrt(d), q.W k / sqrt(d), or u.tanh(q + k)",
        source="Vaswani et al., NeurIPS 2017, arXiv:1706.03762; scores and windows: Luong et al., EMNLP 2015, "
        "arXiv:1508.04025",
        options=options.SELF_ATTENTION,
        n_parameters=pairwise.scored_parameters,
        n_macs=pairwise.self_attention_macs,
        weighs="nas_attn.attention.weighing.pairwise:self_attention",
        effective=pairwise.self_attention_effective,
        fits=divisor_misfit("heads"),
        smallest_map=2,
        identity_start=True,
        exceptions={
            "bias_gradient": "the keys' bias adds the same value to all scores of a query, except in concat",
            "second_derivative": FUSED_ONCE,
        },
    ),
    Entry(
        name="attention_pool",
        cls="nas_attn.attention.self_attention:AttentionPool",
        summary="Pools the map by a weighted mean of its pixels, in several heads.",
        formula="y = mean_hw(x) + Wo sum_j softmax_j(score(q, k_j)) v_j, q from mean_hw(x)",
        source="Radford et al. (CLIP), ICML 2021, arXiv:2103.00020",
        kinds=("head",),
        options=(options.HEADS, options.SCORE),
        n_parameters=pairwise.scored_parameters,
        n_macs=pairwise.attention_pool_macs,
        weighs="nas_attn.attention.weighing.pairwise:attention_pool",
        fits=divisor_misfit("heads"),
        smallest_map=2,
        identity_start=True,
        exceptions={
            "bias_gradient": "the keys' bias adds the same value to all scores of a query, except in concat",
            "second_derivative": FUSED_ONCE,
        },
    ),
    Entry(
        name="bot",
        cls="nas_attn.attention.bot:BoT",
        summary="Replaces each pixel by a mean of all pixels in several heads, by content and relative position.",
        formula="y = sum_j softmax_j(q_i . (k_j + r_(j - i))) v_j, q = Wq x / sqrt(d), r: an embedding of the rows and "
        "one of the columns between i and j, added",
        source="Srinivas et al. (BoTNet), CVPR 2021, arXiv:2101.11605",
        kinds=(*SHAPE_KEEPING, "conv"),
        options=(options.HEADS,),
        n_parameters=replacing.bot_parameters,
        n_macs=replacing.bot_macs,
        weighs="nas_attn.attention.weighing.replacing:bot",
        fits=replacing.bot_misfit,
        smallest_map=2,
        needs_context=True,
    ),
    Entry(
        name="pam",
        cls="nas_attn.attention.danet:PAM",
        summary="Adds to every pixel a mean of all pixels, weighted by similarity, times a factor that starts at 0.",
        formula="y = x + gamma * sum_j softmax_j(q_i . k_j) v_j, q, k, v = conv1x1(x), no scale",
        source="Fu et al. (DANet), CVPR 2019, arXiv:1809.02983",
        options=(options.reduction(8),),
        n_parameters=danet.pam_parameters,
        n_macs=danet.pam_macs,
        weighs="nas_attn.attention.weighing.danet:pam",
        fits=reduction_misfit,
        smallest_map=2,
        identity_start=True,
        exceptions={
            "bias_gradient": "the keys' bias adds the same value to all scores of a pixel, so the softmax cancels it"
        },
    ),
    Entry(
        name="cam",
        cls="nas_attn.attention.danet:CAM",
        summary="Adds to every channel a mean of all channels, weighted by dissimilarity, times a factor from 0 on.",
        formula="y = x + gamma * sum_d softmax_d(max_d(e_cd) - e_cd) x_d, e_cd = sum_hw(x_c * x_d)",
        source="Fu et al. (DANet), CVPR 2019, arXiv:1809.02983",
        n_parameters=danet.cam_parameters,
        n_macs=danet.cam_macs,
        weighs="nas_attn.attention.weighing.danet:cam",
        identity_start=True,
    ),
)
