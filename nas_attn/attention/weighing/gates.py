"""The weights of attentions that gate channels, pixels or elements; see `nas_attn.attention.weighing.record`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.axes import Coord, PlaneGate, Triplet
from nas_attn.attention.cbam import CBAM, GATES, PooledChannel, PooledSpatial
from nas_attn.attention.channel import ECA, SE, SEBN, means
from nas_attn.attention.fca import FCA
from nas_attn.attention.fusion import AFF, IAFF, MSCAM, SEParallel, mix
from nas_attn.attention.gam import GAM
from nas_attn.attention.gct import GCT
from nas_attn.attention.grouped import EMA, SGE, Shuffle
from nas_attn.attention.kernel import SK
from nas_attn.attention.mixed import BAM, SCSE
from nas_attn.attention.spatial import LSKA, SimAM
from nas_attn.attention.triple import ElementWise, ScaleWise, Triple
from nas_attn.attention.weighing.record import Weights, by_channel, by_element


def se(module: SE, x: Tensor) -> Weights:
    """SE: the gate of each channel."""
    return by_channel(module.gate(x))


def se_bn(module: SEBN, x: Tensor) -> Weights:
    """SE with norms: the gate of each channel."""
    return by_channel(torch.sigmoid(module.expand(torch.relu(module.reduce(means(x))))))


def eca(module: ECA, x: Tensor) -> Weights:
    """ECA: the gate of each channel."""
    return by_channel(torch.sigmoid(module.conv(means(x)[:, None])[:, 0]))


def fca(module: FCA, x: Tensor) -> Weights:
    """FCA: the gate of each channel."""
    return by_channel(module.gate(x))


def gct(module: GCT, x: Tensor) -> Weights:
    """GCT: the gate of each channel, between 0 and 2."""
    alpha = module.alpha.flatten()
    if module.mode == "l2":
        size = (x.square().sum((2, 3)) + module.eps).sqrt() * alpha
        scale = (size.square().mean(1, keepdim=True) + module.eps).sqrt()
    else:
        size = (x if module.after_relu else x.abs()).sum((2, 3)) * alpha
        scale = size.abs().mean(1, keepdim=True) + module.eps
    return by_channel(1 + torch.tanh(module.gamma * size / scale + module.beta))


def scse(module: SCSE, x: Tensor) -> Weights:
    """scSE: the gate of each channel and that of each pixel, before both maps are merged."""
    channels = torch.sigmoid(module.channel(means(x)))
    pixels = torch.sigmoid(module.spatial(x))
    both = channels[:, :, None, None].expand(x.shape), pixels.expand(x.shape)
    merged = both[0] + both[1]
    if module.merge == "max":
        merged = torch.where(x >= 0, torch.maximum(*both), torch.minimum(*both))
    return Weights("gate", channels, pixels[:, 0], merged)


def cbam(module: CBAM, x: Tensor) -> Weights:
    """CBAM: the gate of each channel and that of each pixel, as far as it has both branches."""
    found: dict[type[nn.Module], Tensor] = {}
    gated = x
    for branch in module.children():
        assert isinstance(branch, PooledChannel | PooledSpatial), f"a branch of CBAM is {type(branch).__name__}"
        seen = x if module.parallel else gated
        logits = branch(seen.amax(branch.over, keepdim=True), seen.mean(branch.over, keepdim=True))
        found[type(branch)] = gate = GATES[module.gate](logits)
        gated = gated * gate
    channels, pixels = found.get(PooledChannel), found.get(PooledSpatial)
    first, *others = found.values()
    return Weights(
        "gate",
        None if channels is None else channels.flatten(1),
        None if pixels is None else pixels[:, 0],
        first * others[0] if others else first,
    )


def bam(module: BAM, x: Tensor) -> Weights:
    """BAM: the gate of each element, between 1 and 2."""
    channels, pixels = module.channel(means(x))[:, :, None, None], module.spatial(x)
    return by_element(1 + torch.sigmoid(channels * pixels if module.merge == "product" else channels + pixels))


def gam(module: GAM, x: Tensor) -> Weights:
    """GAM: the product of both gates of each element; the first is any number, unless it has a sigmoid."""
    gate = torch.ones_like(x)
    if module.channel is not None:
        gate = module.channel(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        gate = torch.sigmoid(gate) if module.channel_gate else gate
    if module.spatial is not None:
        gate = gate * torch.sigmoid(module.spatial(x * gate))
    return by_element(gate)


def triplet(module: Triplet, x: Tensor) -> Weights:
    """Triplet attention: the mean of the gates of the planes, for each element."""

    def gate(plane: PlaneGate, axis: int) -> Tensor:
        pooled = x.amax(axis, keepdim=True), x.mean(axis, keepdim=True)
        found: Tensor = plane(*(part.transpose(1, axis) for part in pooled))
        return found.transpose(1, axis)

    planes = (module.over_channels, module.over_rows, module.over_columns)
    gates = [gate(plane, axis) for axis, plane in enumerate(planes, start=1) if plane is not None]
    return by_element(torch.stack([gate.expand(x.shape) for gate in gates]).mean(0))


def coord(module: Coord, x: Tensor) -> Weights:
    """Coordinate attention: the product of a row's and a column's gate, for each element."""
    height, width = x.shape[2:]
    pooled = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2)
    hidden = functional.hardswish(module.norm(module.reduce(pooled)))
    rows, columns = torch.split(hidden, [height, width], 2)
    by_column = torch.sigmoid(module.expand_columns(columns)).transpose(2, 3)
    return by_element(torch.sigmoid(module.expand_rows(rows)) * by_column)


def simam(module: SimAM, x: Tensor) -> Weights:
    """SimAM: the gate of each element, from sigmoid(1/2) on."""
    return by_element(module.gate(x))


def lska(module: LSKA, x: Tensor) -> Weights:
    """LSKA: the gate of each element, any number."""
    return by_element(module.kernel(x))


def ms_cam(module: MSCAM, x: Tensor) -> Weights:
    """MS-CAM: the gate of each element."""
    return by_element(module.gate(x))


def aff(module: AFF, branch: Tensor, shortcut: Tensor) -> Weights:
    """AFF: the share of the branch, for each element."""
    return by_element(module.gate(branch + shortcut), "share")


def iaff(module: IAFF, branch: Tensor, shortcut: Tensor) -> Weights:
    """Iterative AFF: the share of the branch in the final mixture, for each element."""
    first = mix(branch, shortcut, module.gate1(branch + shortcut))
    return by_element(module.gate2(first), "share")


def se_parallel(module: SEParallel, branch: Tensor, shortcut: Tensor) -> Weights:
    """SE from the block's input: the gate of each channel of the branch."""
    return Weights("gate", channels=module.gate(shortcut))


def sk(module: SK, x: Tensor) -> Weights:
    """SK: for each channel, the share of the branches other than the first, which is the least dilated one."""
    maps = [branch(x) for branch in module.branches]
    shares = module.selector(torch.stack([means(each) for each in maps]).sum(0))
    return Weights("share", channels=1 - shares[0].flatten(1))


def shuffle(module: Shuffle, x: Tensor) -> Weights:
    """Shuffle attention: the gate of each element, before the channels are shuffled."""
    gated = by_element(module.gate(x))
    return Weights("gate", gated.channels, gated.pixels)


def by_group(module: SGE | EMA, x: Tensor) -> Weights:
    """SGE and EMA: the gate of each pixel in each group of channels."""
    return by_element(module.gate(x).repeat_interleave(x.shape[1] // module.groups, 1))


def triple(module: Triple, x: Tensor) -> Weights:
    """Triple attention: SE's gate of each channel, and how much of the class attention each pixel receives.

    Without the element part, it is the product of the gates of the other parts.
    """
    gates: dict[type[nn.Module], Tensor] = {}
    for part in module.children():
        if isinstance(part, SE):
            gates[SE] = part.gate(x)[:, :, None, None]
        elif isinstance(part, ElementWise):
            gates[ElementWise] = _class_attention(part, x)
        elif isinstance(part, ScaleWise):
            gates[ScaleWise] = part.gate(x)
        x = part(x)
    channels = gates.get(SE)
    if ElementWise in gates:
        return Weights("received", None if channels is None else channels.flatten(1), gates[ElementWise])
    if ScaleWise in gates:
        return by_element(gates[ScaleWise] if channels is None else channels * gates[ScaleWise])
    assert channels is not None, "triple attention has a part"
    return by_channel(channels.flatten(1))


def _class_attention(part: ElementWise, x: Tensor) -> Tensor:
    """Return the sum over the classes of sigmoid(S) * A at each pixel, divided by its mean. Shape: (N, H, W)."""
    attended = (torch.sigmoid(part.classify(x)) * part.attention(x)).sum(1)
    return attended / attended.mean((1, 2), keepdim=True)
