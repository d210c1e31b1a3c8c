"""Time and memory of a network of your own, beside the same without attention."""

from nas_attn import Placement, build_model
from nas_attn.cost import measure

placement = Placement.from_dict({"stage1.pool": {"name": "cbam", "reduction": 2}})
plain = build_model("lenet", Placement(), num_classes=10, in_channels=1, image_size=28)
model = build_model("lenet", placement, num_classes=10, in_channels=1, image_size=28)
measured = measure(model, (32, 1, 28, 28), "cpu", beside=plain)
print(f"{measured.latency_ms:.2f} ms, {measured.latency_ratio:.2f} times the plain network's")
