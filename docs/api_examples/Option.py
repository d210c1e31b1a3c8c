"""An option of an attention: default, type, meaning, and range."""

from nas_attn import Option

kernel = Option("kernel_size", 3, "int", "Size of the neighbourhood.", low=3, high=15, odd=True)
order = Option("order", "first", "str", "Which gate acts first.", choices=("first", "last"))
