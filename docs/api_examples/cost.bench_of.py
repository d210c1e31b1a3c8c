"""The conditions that `measure` works under here: figures are compared only where they are the same."""

import torch

from nas_attn.cost import bench_of

print(bench_of((32, 3, 32, 32), torch.device("cpu"), optimizer="sgd"))
