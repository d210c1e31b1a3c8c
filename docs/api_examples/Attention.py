"""An attention with its options, as a placement holds it."""

from nas_attn import Attention

attention = Attention("cbam", {"reduction": 8}, wiring="residual")
assert Attention.from_dict(attention.to_dict()) == attention
print(attention)  # cbam(reduction=8, wiring=residual)
