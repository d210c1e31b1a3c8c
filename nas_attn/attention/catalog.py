"""The table of attention modules: facts only, complete at import, no torch."""

from __future__ import annotations

from itertools import combinations

from nas_attn.attention.entry import Entry, Option
from nas_attn.attention.forms import fusion, gates, grouped, pairwise, pooled
from nas_attn.attention.forms.widths import divisor_misfit, reduction_misfit
from nas_attn.attention.registry import Catalogue
from nas_attn.errors import SpaceError, placed, unknown


def attention_entry(name: str, where: str = "") -> Entry:
    """Return the entry called `name`.

    Raises: SpaceError that names the nearest attention and `where`, e.g. `site 'denseblock2'`.
    """
    if name not in ATTENTIONS:
        raise SpaceError(unknown("attention", name, ATTENTIONS, where))
    try:
        return ATTENTIONS[name]
    except SpaceError as error:
        raise SpaceError(f"Attention '{name}'{placed(where)} cannot be used: {error}") from error


def register_attention(entry: Entry) -> None:
    """Add an attention of one's own for this process and the workers of its searches, e.g. in a notebook.

    An installed package adds its own for everybody by the entry-point group `nas_attn.attentions`.

    Raises: SpaceError for a name that is taken, or that cannot be a key in a space file.
    """
    ATTENTIONS.register(entry)


_SQUASHES = ("sigmoid", "hard_sigmoid")
_BRANCHES = ("both", "channel", "spatial")
_PARTS = tuple("+".join(words) for count in (3, 2, 1) for words in combinations(("channel", "element", "scale"), count))
_SCORES = ("dot", "general", "concat")


def _reduction(default: int) -> Option:
    return Option("reduction", default, "int", "Channels over the hidden width of the bottleneck.", low=1)


def _min_hidden(default: int) -> Option:
    return Option("min_hidden", default, "int", "Floor of the hidden width.", low=1, high=4096)


def _heads(default: int) -> Option:
    return Option("heads", default, "int", "Heads, each over its share of the channels; divides them.", low=1)


_KERNEL = Option("kernel_size", 7, "int", "Kernel of the spatial convolutions.", low=1, high=63, odd=True)
_SCORE = Option("score", "dot", "str", "How well a query fits a key.", choices=_SCORES)

ATTENTIONS = Catalogue(
    Entry(
        name="se",
        cls="nas_attn.attention.channel:SE",
        summary="Gates each channel by a bottleneck over the channels' means.",
        formula="y = x * sigmoid(W2 relu(W1 mean_hw(x)))",
        source="Hu et al., CVPR 2018, arXiv:1709.01507",
        options=(_reduction(16), Option("bias", True, "bool", "Whether the bottleneck has biases."), _min_hidden(1)),
        n_parameters=gates.se_parameters,
        n_macs=gates.se_macs,
        fits=reduction_misfit,
    ),
    Entry(
        name="se_bn",
        cls="nas_attn.attention.channel:SEBN",
        summary="SE with a batch norm and dropout behind both layers.",
        formula="y = x * sigmoid(bn(drop(W2 relu(bn(drop(W1 mean_hw(x)))))))",
        source="a Keras network for cats and dogs built on Hu et al., CVPR 2018, arXiv:1709.01507",
        options=(
            _reduction(16),
            Option("dropout", 0.5, "float", "Share of hidden and gate values dropped in training.", low=0.0, high=0.95),
        ),
        n_parameters=pooled.se_bn_parameters,
        n_macs=gates.se_macs,
        fits=reduction_misfit,
    ),
    Entry(
        name="scse",
        cls="nas_attn.attention.mixed:SCSE",
        summary="Gates channels by SE and pixels by a 1x1 convolution, side by side, and merges both.",
        formula="y = max(x * se(x), x * sigmoid(conv1x1(x))), or their sum",
        source="Roy et al., MICCAI 2018, arXiv:1803.02579",
        options=(_reduction(2), Option("merge", "max", "str", "How both gated maps merge.", choices=("max", "add"))),
        n_parameters=pooled.scse_parameters,
        n_macs=pooled.scse_macs,
        fits=reduction_misfit,
    ),
    Entry(
        name="cbam",
        cls="nas_attn.attention.cbam:CBAM",
        summary="Gates the channels, then the pixels, each by their means and maxima.",
        formula="u = x * sigmoid(mlp(mean_hw(x)) + mlp(max_hw(x))); y = u * sigmoid(bn(conv([max_c(u), mean_c(u)])))",
        source="Woo et al., ECCV 2018, arXiv:1807.06521",
        options=(
            _reduction(16),
            _KERNEL,
            Option(
                "order",
                "channel_first",
                "str",
                "Which gate acts first.",
                choices=("channel_first", "spatial_first", "parallel"),
            ),
            Option("branches", "both", "str", "Which gates there are.", choices=_BRANCHES),
            Option("gate", "sigmoid", "str", "What squashes both gates.", choices=_SQUASHES),
            Option("spatial_norm", True, "bool", "Whether a batch norm follows the spatial convolution."),
        ),
        n_parameters=gates.cbam_parameters,
        n_macs=gates.cbam_macs,
        fits=reduction_misfit,
        idle=gates.cbam_idle,
    ),
    Entry(
        name="bam",
        cls="nas_attn.attention.mixed:BAM",
        summary="Gates by a bottleneck over the channels' means times (or plus) dilated convolutions over the pixels.",
        formula="y = x * (1 + sigmoid(mlp(mean_hw(x)) * convs(x))), or with + between both",
        source="Park et al., BMVC 2018, arXiv:1807.06514",
        options=(
            _reduction(16),
            Option("dilation", 4, "int", "Dilation of the two 3x3 convolutions.", low=1, high=32),
            Option("merge", "product", "str", "How both branches merge.", choices=("product", "sum")),
        ),
        n_parameters=pooled.bam_parameters,
        n_macs=pooled.bam_macs,
        fits=reduction_misfit,
    ),
    Entry(
        name="gam",
        cls="nas_attn.attention.gam:GAM",
        summary="Gates every element by a bottleneck over its channels, then by two large convolutions; no pooling.",
        formula="x1 = x * mlp_c(x); y = x1 * sigmoid(bn(conv(relu(bn(conv(x1))))))",
        source="Liu et al., 2021, arXiv:2112.05561",
        options=(
            _reduction(16),
            _KERNEL,
            Option("groups", 1, "int", "Groups of both spatial convolutions; above 1 with a channel shuffle.", low=1),
            Option("branches", "both", "str", "Which gates there are.", choices=_BRANCHES),
            Option("padding_mode", "zeros", "str", "What lies outside the map.", choices=("zeros", "replicate")),
            Option("channel_gate", False, "bool", "Whether a sigmoid squashes the channel branch."),
        ),
        n_parameters=gates.gam_parameters,
        n_macs=gates.gam_macs,
        fits=gates.gam_misfit,
        idle=gates.gam_idle,
    ),
    Entry(
        name="triplet",
        cls="nas_attn.attention.axes:Triplet",
        summary="Gates the planes (C, W), (H, C) and (H, W), each by a convolution over its maxima and means.",
        formula="y = mean over the axes a = H, W, C of x * sigmoid(bn(conv([max_a(x), mean_a(x)])))",
        source="Misra et al., WACV 2021, arXiv:2010.03045",
        options=(_KERNEL, Option("spatial", True, "bool", "Whether the plane (H, W) is among the three.")),
        n_parameters=pooled.triplet_parameters,
        n_macs=pooled.triplet_macs,
    ),
    Entry(
        name="triple",
        cls="nas_attn.attention.triple:Triple",
        summary="Gates channels, adds what each class attends to, gates by scale; trains on auxiliary logits.",
        formula="X = se(x); A = softmax_hw(f(X)); S = conv1x1(X); Y = X + conv1x1(sigmoid(S) * A); "
        "y = Y * sigmoid(sum_s p_s mean_s(Y))",
        source="Wang et al. (A3Net), Medical Image Analysis 67, 2021, doi:10.1016/j.media.2020.101846",
        options=(
            Option("parts", _PARTS[0], "str", "Which of the three parts there are.", choices=_PARTS),
            _reduction(16),
            Option(
                "hidden",
                None,
                "int",
                "Width of the class attention; auto is min(512, channels).",
                low=1,
                high=4096,
                optional=True,
            ),
            Option("softmax", "spatial", "str", "Axis of the class attention.", choices=("spatial", "channel")),
            Option("aux_weight", 0.1, "float", "Weight of the auxiliary loss.", low=0.0, high=100.0),
        ),
        n_parameters=gates.triple_parameters,
        n_macs=gates.triple_macs,
        fits=reduction_misfit,
        idle=gates.triple_idle,
        auto={"hidden": lambda channels, context: min(512, channels)},
        smallest_map=2,
        auxiliary=True,
        needs_context=True,
    ),
    Entry(
        name="sk",
        cls="nas_attn.attention.kernel:SK",
        summary="Selects, for each channel, between 3x3 convolutions of several dilations.",
        formula="u_i = relu(bn(conv3x3_i(x))); z = relu(bn(W1 mean_hw(sum_i u_i))); y = sum_i softmax_i(W2 z)_i * u_i",
        source="Li et al., CVPR 2019, arXiv:1903.06586",
        kinds=("conv",),
        options=(
            Option(
                "groups", 32, "int", "Groups of the convolutions; auto: as in the one replaced.", low=1, optional=True
            ),
            _reduction(16),
            _min_hidden(32),
            Option("n_branches", 2, "int", "Convolutions to select from, dilated by 1, 2, ...", low=2, high=8),
            Option("bias", False, "bool", "Whether convolutions and the bottleneck have biases."),
        ),
        n_parameters=fusion.sk_parameters,
        n_macs=fusion.sk_macs,
        fits=fusion.sk_misfit,
        auto={"groups": fusion.sk_groups},
        replaces_norm=True,
        needs_context=True,
    ),
    Entry(
        name="ms_cam",
        cls="nas_attn.attention.fusion:MSCAM",
        summary="Gates every element by a bottleneck at its pixel plus one over the channels' means.",
        formula="y = x * sigmoid(L(x) + G(mean_hw(x))), L and G: conv1x1, bn, relu, conv1x1, bn",
        source="Dai et al., WACV 2021, arXiv:2009.14082",
        options=(_reduction(4),),
        n_parameters=fusion.ms_cam_parameters,
        n_macs=fusion.ms_cam_macs,
        fits=reduction_misfit,
    ),
    Entry(
        name="aff",
        cls="nas_attn.attention.fusion:AFF",
        summary="Adds two maps weighed against each other by the gate of MS-CAM over their sum.",
        formula="y = 2 * a * w + 2 * b * (1 - w), w = the gate of ms_cam over a + b",
        source="Dai et al., WACV 2021, arXiv:2009.14082",
        kinds=("merge",),
        options=(_reduction(4),),
        n_parameters=fusion.ms_cam_parameters,
        n_macs=fusion.ms_cam_macs,
        fits=reduction_misfit,
        n_inputs=2,
    ),
    Entry(
        name="iaff",
        cls="nas_attn.attention.fusion:IAFF",
        summary="Mixes two maps by a gate over a first mixture of them, made by a gate of its own.",
        formula="m = a * v + b * (1 - v), v = gate1(a + b); y = a * w + b * (1 - w), w = gate2(m)",
        source="Dai et al., WACV 2021, arXiv:2009.14082",
        kinds=("merge",),
        options=(_reduction(4),),
        n_parameters=fusion.iaff_parameters,
        n_macs=fusion.iaff_macs,
        fits=reduction_misfit,
        n_inputs=2,
    ),
    Entry(
        name="daf",
        cls="nas_attn.attention.fusion:DAF",
        summary="Adds two maps: what a residual block does without attention.",
        formula="y = a + b",
        source="Dai et al., WACV 2021, arXiv:2009.14082",
        kinds=("merge",),
        n_parameters=pooled.free_parameters,
        n_macs=pooled.free_macs,
        n_inputs=2,
        identity_start=True,
        neutral=True,
    ),
    Entry(
        name="gct",
        cls="nas_attn.attention.gct:GCT",
        summary="Gates each channel by how large it is among the channels, with three numbers a channel.",
        formula="e = alpha * norm_hw(x); y = x * (1 + tanh(gamma * e / rms_c(e) + beta))",
        source="Yang et al., CVPR 2020, arXiv:1909.11519",
        options=(
            Option("mode", "l2", "str", "Norm of a channel's map.", choices=("l2", "l1")),
            Option("eps", 1e-5, "float", "Added below roots, or to the divisor.", low=1e-12, high=1.0),
        ),
        n_parameters=pooled.gct_parameters,
        n_macs=pooled.free_macs,
        identity_start=True,
    ),
    Entry(
        name="eca",
        cls="nas_attn.attention.channel:ECA",
        summary="Gates each channel by a 1-d convolution over the means of its neighbours.",
        formula="y = x * sigmoid(conv1d(mean_hw(x)))",
        source="Wang et al., CVPR 2020, arXiv:1910.03151",
        options=(
            Option(
                "kernel_size",
                None,
                "int",
                "Channels that a gate sees; auto is the paper's rule.",
                low=1,
                high=63,
                odd=True,
                optional=True,
            ),
        ),
        n_parameters=pooled.eca_parameters,
        n_macs=pooled.eca_macs,
        auto={"kernel_size": pooled.eca_kernel},
    ),
    Entry(
        name="coord",
        cls="nas_attn.attention.axes:Coord",
        summary="Gates rows and columns by a bottleneck over their means.",
        formula="[r, c] = hswish(bn(conv1x1([mean_w(x), mean_h(x)]))); y = x * sigmoid(conv_h(r)) * sigmoid(conv_w(c))",
        source="Hou et al., CVPR 2021, arXiv:2103.02907",
        options=(_reduction(32), _min_hidden(8)),
        n_parameters=pooled.coord_parameters,
        n_macs=pooled.coord_macs,
        fits=reduction_misfit,
    ),
    Entry(
        name="simam",
        cls="nas_attn.attention.spatial:SimAM",
        summary="Gates each element by its distance from its channel's mean; nothing to learn.",
        formula="y = x * sigmoid(d / (4 * (sum_hw(d) / (HW - 1) + lam)) + 1/2), d = (x - mean_hw(x))^2",
        source="Yang et al., ICML 2021, proceedings.mlr.press/v139/yang21o",
        options=(Option("lam", 1e-4, "float", "Added to the variance of a channel.", low=1e-12, high=100.0),),
        n_parameters=pooled.free_parameters,
        n_macs=pooled.free_macs,
    ),
    Entry(
        name="gc",
        cls="nas_attn.attention.pairwise:GC",
        summary="Adds to every pixel one vector, made from a weighted mean of all pixels.",
        formula="y = x + W2 relu(ln(W1 sum_hw(softmax_hw(conv1x1(x)) * x)))",
        source="Cao et al., ICCVW 2019, arXiv:1904.11492",
        options=(_reduction(16),),
        n_parameters=pairwise.gc_parameters,
        n_macs=pairwise.gc_macs,
        fits=reduction_misfit,
        identity_start=True,
    ),
    Entry(
        name="non_local",
        cls="nas_attn.attention.pairwise:NonLocal",
        summary="Adds to every pixel a mean of all pixels, weighed by likeness.",
        formula="y = x + bn(W softmax(theta(x)^T phi(x)) g(x))",
        source="Wang et al., CVPR 2018, arXiv:1711.07971",
        options=(
            _reduction(2),
            Option("scale", False, "bool", "Whether likeness is divided by the root of the hidden width."),
            Option("subsample", False, "bool", "Whether keys and values are max-pooled by 2."),
        ),
        n_parameters=pairwise.non_local_parameters,
        n_macs=pairwise.non_local_macs,
        fits=reduction_misfit,
        smallest_map=2,
        identity_start=True,
    ),
    Entry(
        name="self_attention",
        cls="nas_attn.attention.self_attention:SelfAttention",
        summary="Lets every pixel collect from all pixels, or from a window around it, in several heads.",
        formula="y = x + Wo sum_j softmax_j(s(q_i, k_j)) v_j; s: q.k / sqrt(d), q.W k / sqrt(d), or u.tanh(q + k)",
        source="Vaswani et al., NeurIPS 2017, arXiv:1706.03762; scores and windows: Luong et al., EMNLP 2015, "
        "arXiv:1508.04025",
        options=(
            _heads(4),
            _SCORE,
            Option(
                "window",
                None,
                "int",
                "Height and width of what a pixel sees, around it; auto: the whole map.",
                low=3,
                high=63,
                odd=True,
                optional=True,
            ),
            Option("residual", True, "bool", "Whether the map is added; it then starts as the identity."),
        ),
        n_parameters=pairwise.scored_parameters,
        fits=divisor_misfit("heads"),
        identity_start=True,
    ),
    Entry(
        name="shuffle",
        cls="nas_attn.attention.grouped:Shuffle",
        summary="In each group of channels gates half by channel, half by element, then shuffles the channels.",
        formula="y = shuffle([a * sigmoid(w mean_hw(a) + b), c * sigmoid(v gn(c) + d)]); a, c: halves of a group",
        source="Zhang and Yang (SA-Net), ICASSP 2021, arXiv:2102.00240",
        options=(
            Option(
                "groups",
                None,
                "int",
                "Groups; auto: the authors' 64, or fewer where twice as many do not divide the channels.",
                low=1,
                optional=True,
            ),
        ),
        n_parameters=grouped.shuffle_parameters,
        n_macs=pooled.free_macs,
        fits=divisor_misfit("groups", parts=2),
        auto={"groups": grouped.shuffle_groups},
        smallest_map=2,
    ),
    Entry(
        name="ema",
        cls="nas_attn.attention.grouped:EMA",
        summary="In each group of channels lets a coordinate gate and a 3x3 convolution weigh each other's pixels.",
        formula="a = gn(x * sigmoid(h) * sigmoid(w)), [h, w] = conv1x1([mean_w(x), mean_h(x)]); b = conv3x3(x); "
        "y = x * sigmoid(softmax_c(mean_hw(a)) . b + softmax_c(mean_hw(b)) . a)",
        source="Ouyang et al., ICASSP 2023, arXiv:2305.13563",
        options=(
            Option(
                "factor",
                None,
                "int",
                "Groups; auto: the authors' 32, or fewer where those do not divide the channels.",
                low=1,
                optional=True,
            ),
        ),
        n_parameters=grouped.ema_parameters,
        n_macs=grouped.ema_macs,
        fits=divisor_misfit("factor"),
        auto={"factor": grouped.ema_factor},
        smallest_map=2,
    ),
    Entry(
        name="lska",
        cls="nas_attn.attention.spatial:LSKA",
        summary="Gates every element by a large kernel, taken apart into four thin depthwise convolutions and a 1x1.",
        formula="y = x * conv1x1(dw_kx1'(dw_1xk'(dw_kx1(dw_1xk(x))))), ' = dilated",
        source="Lau et al., Expert Systems with Applications 2024, arXiv:2309.01439",
        options=(Option("kernel_size", 7, "int", "Size of the whole kernel.", choices=tuple(grouped.LSKA_KERNELS)),),
        n_parameters=grouped.lska_parameters,
        n_macs=grouped.lska_macs,
    ),
    Entry(
        name="deform",
        cls="nas_attn.attention.kernel:Deform",
        summary="Lets a 3x3 convolution look where it wants: every tap, or every channel, is moved by learned offsets.",
        formula="y(p) = sum_k w_k x(p + p_k + d_k(p)) (* m_k(p) if modulated), [d, m] = conv3x3(x)",
        source="Dai et al., ICCV 2017, arXiv:1703.06211; modulated: Zhu et al., CVPR 2019, arXiv:1811.11168",
        kinds=("conv",),
        options=(
            Option("modulated", False, "bool", "Whether each tap is also weighed by 2 * sigmoid of a learned map."),
            Option("groups", 1, "int", "Groups of channels with offsets of their own.", low=1),
            Option("offsets", "kernel", "str", "What is moved.", choices=("kernel", "channel")),
        ),
        n_parameters=fusion.deform_parameters,
        n_macs=fusion.deform_macs,
        fits=fusion.deform_misfit,
        idle=fusion.deform_idle,
        needs_context=True,
        identity_start=True,
    ),
    Entry(
        name="attention_pool",
        cls="nas_attn.attention.self_attention:AttentionPool",
        summary="Pools the map by a weighted mean of its pixels, in several heads.",
        formula="y = mean_hw(x) + Wo sum_j softmax_j(score(q, k_j)) v_j, q from mean_hw(x)",
        source="Radford et al. (CLIP), ICML 2021, arXiv:2103.00020",
        kinds=("head",),
        options=(_heads(4), _SCORE),
        n_parameters=pairwise.scored_parameters,
        fits=divisor_misfit("heads"),
        identity_start=True,
    ),
)
