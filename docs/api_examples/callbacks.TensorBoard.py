"""A run for each trial with its curve, and one with all values: `tensorboard --logdir runs/mine/tensorboard`."""

from nas_attn.callbacks import TensorBoard

callback = TensorBoard()  # search(..., callbacks=[callback]), or --callback nas_attn.callbacks:TensorBoard
