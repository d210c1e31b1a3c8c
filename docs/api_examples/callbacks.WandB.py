"""A run for each trial, in a group of the search; needs `pip install "nas_attn[wandb]"`."""

from nas_attn import NasAttnError
from nas_attn.callbacks import WandB

try:
    callback = WandB(project="attention", mode="offline")
except NasAttnError as error:  # Weights & Biases is not installed
    print(error)
