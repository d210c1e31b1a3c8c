"""Cost of a network: parameters, multiply-adds, time and memory. This module only exports names."""

from nas_attn.backbones.passes import count_parameters
from nas_attn.cost.measurement import bench_of, count_macs, measure

__all__ = ["bench_of", "count_macs", "count_parameters", "measure"]
