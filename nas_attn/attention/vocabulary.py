"""The options of attentions; the catalogue says which attention has which."""

from __future__ import annotations

from itertools import combinations

from nas_attn.attention.entry import Option
from nas_attn.attention.forms.frequency import FREQUENCIES
from nas_attn.attention.forms.grouped import LSKA_KERNELS
from nas_attn.attention.forms.projected import EPSA_KERNELS, LKA_KERNELS

_WORDS = ("channel", "element", "scale")
_PARTS = tuple("+".join(words) for count in (3, 2, 1) for words in combinations(_WORDS, count))

BIAS = Option("bias", True, "bool", "Whether the bottleneck has biases.")
LAYERS = Option(
    "layers",
    2,
    "int",
    "Layers between the means and the gate; 0, for study: the means themselves are the gate.",
    choices=(2, 0),
    implied=True,
)
BRANCHES = Option("branches", "both", "str", "Which of the two gates to use.", choices=("both", "channel", "spatial"))
KERNEL = Option("kernel_size", 7, "int", "Kernel of the spatial convolutions.", low=1, high=63, odd=True)
HEADS = Option("heads", 4, "int", "Number of heads, each over its share of the channels; divides them.", low=1)
SCORE = Option("score", "dot", "str", "Score of a query and a key.", choices=("dot", "general", "concat"))


def reduction(default: int) -> Option:
    """Return the reduction of a bottleneck."""
    return Option("reduction", default, "int", "Channels divided by the hidden width of the bottleneck.", low=1)


def min_hidden(default: int) -> Option:
    """Return the minimum of a bottleneck's hidden width."""
    return Option("min_hidden", default, "int", "Minimum of the hidden width.", low=1, high=4096)


SE_BN = (
    reduction(16),
    Option("dropout", 0.5, "float", "Fraction of hidden and gate values dropped in training.", low=0.0, high=0.95),
)
SCSE = (reduction(2), Option("merge", "max", "str", "How the two gated maps are merged.", choices=("max", "add")))
CBAM = (
    reduction(16),
    KERNEL,
    Option(
        "order",
        "channel_first",
        "str",
        "Which gate is applied first.",
        choices=("channel_first", "spatial_first", "parallel"),
    ),
    BRANCHES,
    Option(
        "gate",
        "sigmoid",
        "str",
        "Activation of both gates; hard_sigmoid is Keras 3's and torch's, hard_sigmoid_keras2 that of tf.keras 2.",
        choices=("sigmoid", "hard_sigmoid", "hard_sigmoid_keras2"),
    ),
    Option("spatial_norm", True, "bool", "Whether a batch norm follows the spatial convolution."),
)
BAM = (
    reduction(16),
    Option("dilation", 4, "int", "Dilation of the two 3x3 convolutions.", low=1, high=32),
    Option("merge", "product", "str", "How the two branches are merged.", choices=("product", "sum")),
)
GAM = (
    reduction(16),
    KERNEL,
    Option(
        "groups",
        1,
        "int",
        "Groups of both spatial convolutions; more than 1, the paper's gc, adds a channel shuffle.",
        low=1,
    ),
    BRANCHES,
    Option("padding_mode", "zeros", "str", "Padding of the spatial convolutions.", choices=("zeros", "replicate")),
    Option("channel_gate", False, "bool", "Whether a sigmoid follows the channel branch."),
    Option(
        "pooling",
        "none",
        "str",
        "What the spatial branch sees: every channel, or their maximum and mean (the ablation that the paper rejects).",
        choices=("none", "channels"),
        implied=True,
    ),
)
TRIPLE = (
    Option(
        "parts",
        _PARTS[0],
        "str",
        "Which of the three parts to use; the scales are within the site's own map, not across stages.",
        choices=_PARTS,
    ),
    reduction(16),
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
)
TRIPLET = (KERNEL, Option("spatial", True, "bool", "Whether to gate the plane (H, W) too."))
SK = (
    Option(
        "groups",
        32,
        "int",
        "Groups of the convolutions; auto: those of the replaced convolution.",
        low=1,
        optional=True,
    ),
    reduction(16),
    min_hidden(32),
    Option("n_branches", 2, "int", "Number of convolutions to select from, dilated by 1, 2, ...", low=2, high=8),
    Option("bias", False, "bool", "Whether convolutions and the bottleneck have biases."),
)
GCT = (
    Option("mode", "l2", "str", "Norm of a channel's map.", choices=("l2", "l1")),
    Option("eps", 1e-5, "float", "Added under roots, or to the divisor.", low=1e-12, high=1.0),
    Option(
        "after_relu",
        False,
        "bool",
        "Whether the map is without negative values, so that l1 sums it as it is.",
        implied=True,
    ),
)
ECA = (
    Option(
        "kernel_size",
        None,
        "int",
        "Channels in the input of a gate; auto: the paper's rule.",
        low=1,
        high=63,
        odd=True,
        optional=True,
    ),
)
SIMAM = (Option("lam", 1e-4, "float", "Added to the variance of a channel.", low=1e-12, high=100.0),)
NON_LOCAL = (
    reduction(2),
    Option("scale", False, "bool", "Whether scores are divided by the square root of the hidden width."),
    Option("subsample", False, "bool", "Whether keys and values are max-pooled by 2."),
)
SELF_ATTENTION = (
    HEADS,
    Option(
        "score",
        "dot",
        "str",
        "Score of a query and a key; dot, or scaled_dot, is divided by sqrt(d); location sees the key's place alone.",
        choices=("dot", "general", "concat", "scaled_dot", "unscaled_dot", "location"),
    ),
    Option(
        "position",
        "none",
        "str",
        "What is added to the inputs of queries and keys: nothing, or sines of the row and the column.",
        choices=("none", "sine"),
        implied=True,
    ),
    Option(
        "window",
        None,
        "int",
        "Height and width of the window around each pixel; auto: the whole map.",
        low=3,
        high=63,
        odd=True,
        optional=True,
    ),
    Option("residual", True, "bool", "Whether the input is added; it then starts as the identity."),
)
SHUFFLE = (
    Option(
        "groups",
        None,
        "int",
        "Groups; auto: the authors' 64, or the most below that divide the channels and have 4 each.",
        low=1,
        optional=True,
    ),
)
SGE = (
    Option(
        "groups",
        None,
        "int",
        "Groups; auto: the authors' 64, or the most below that divide the channels and have 4 each.",
        low=1,
        optional=True,
    ),
)
EMA = (
    Option(
        "factor",
        None,
        "int",
        "Groups; auto: the authors' 32, or the most below that divide the channels and have 4 each.",
        low=1,
        optional=True,
    ),
)
LSKA = (Option("kernel_size", 7, "int", "Size of the whole kernel.", choices=tuple(LSKA_KERNELS)),)
DEFORM = (
    Option("modulated", False, "bool", "Whether each tap is also weighted by 2 * sigmoid of a learned map."),
    Option("groups", 1, "int", "Groups of channels, each with its own offsets.", low=1),
    Option(
        "offsets",
        "kernel",
        "str",
        "What the offsets move: the kernel's taps, or whole channels.",
        choices=("kernel", "channel"),
    ),
)
ESE = (Option("gate", "hard_sigmoid", "str", "Activation of the gate.", choices=("hard_sigmoid", "sigmoid")),)
POLARIZED = (
    Option("layout", "parallel", "str", "How the two gates are applied.", choices=("parallel", "sequential")),
    reduction(2),
)
NAM = (Option("branches", "channel", "str", "Which gates to use.", choices=("channel", "spatial", "both")),)
LKA = (
    Option(
        "form",
        "block",
        "str",
        "The gate between 1x1 convolutions behind a norm, scaled; those alone; or the gate alone.",
        choices=("block", "attention", "gate"),
    ),
    Option("kernel_size", 21, "int", "Size of the whole kernel.", choices=tuple(LKA_KERNELS)),
)
DOUBLE_ATTENTION = (
    reduction(4),
    Option(
        "descriptors",
        None,
        "int",
        "Number of descriptors of the map; auto: a quarter of the channels.",
        low=1,
        high=4096,
        optional=True,
    ),
    Option(
        "softmax",
        "descriptors",
        "str",
        "Axis over which a pixel's weights for the descriptors are normalised.",
        choices=("descriptors", "pixels"),
    ),
    Option("residual", True, "bool", "Whether the input is added; it then starts as the identity."),
)
EPSA = (
    Option(
        "groups",
        None,
        "int",
        "Groups of the largest kernel; auto: 16, or the most below that divide a quarter of the channels.",
        low=1,
        optional=True,
    ),
    Option("spread", "rising", "str", "Groups of the other kernels: fewer, or as many.", choices=("rising", "equal")),
    Option("kernel_sizes", "3+5+7+9", "str", "Sizes of the four kernels.", choices=tuple(EPSA_KERNELS)),
    Option(
        "hidden",
        None,
        "int",
        "Hidden width of the bottleneck; auto: a 64th of the channels.",
        low=1,
        high=4096,
        optional=True,
    ),
)
COT = (
    Option("kernel_size", 3, "int", "Size of the grouped convolution and of each pixel's kernel.", choices=(3, 5, 7)),
)
SPLIT_ATTENTION = (
    Option("radix", 2, "int", "Number of splits that are weighed against each other.", low=1, high=8),
    Option(
        "groups",
        None,
        "int",
        "Groups of a split (cardinality); auto: those of the replaced convolution, or 1.",
        low=1,
        optional=True,
    ),
)
FCA = (
    reduction(16),
    Option(
        "frequencies",
        "top16",
        "str",
        "Frequencies of the cosine transform, shared out over the channels: the best, the lowest, or the worst.",
        choices=tuple(FREQUENCIES),
    ),
)
