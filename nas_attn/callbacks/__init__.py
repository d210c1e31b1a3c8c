"""What is called as a run proceeds: the base class, and ready ones for trackers. This file only re-exports it."""

from nas_attn.callbacks.base import Callback
from nas_attn.callbacks.mlflow_runs import MLflow
from nas_attn.callbacks.tensorboard_events import TensorBoard
from nas_attn.callbacks.wandb_runs import WandB

__all__ = ["Callback", "MLflow", "TensorBoard", "WandB"]
