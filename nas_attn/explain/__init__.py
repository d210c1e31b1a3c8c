"""What a network looks at: the weights of its attentions, and Grad-CAM. This file only re-exports it."""

from nas_attn.explain.drawing import draw
from nas_attn.explain.explanation import Explanation, explain
from nas_attn.explain.watching import watch

__all__ = ["Explanation", "draw", "explain", "watch"]
