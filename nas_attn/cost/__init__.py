"""What running a network takes: parameters, multiply-adds, time and memory. This is a face."""

from nas_attn.backbones.passes import count_parameters
from nas_attn.cost.measurement import bench_of, count_macs, measure

__all__ = ["bench_of", "count_macs", "count_parameters", "measure"]
