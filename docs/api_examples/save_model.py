"""A model that you trained yourself, as the two files that `load_model` reads."""

from nas_attn import Placement, build_model, load_model, save_model

placement = Placement.from_dict({"stage1.pool": {"name": "simam"}})
model = build_model("lenet", placement, num_classes=10, in_channels=1, image_size=28)
record = {"mean": [0.13], "std": [0.31], "class_names": [str(digit) for digit in range(10)]}
save_model(model, "mine.json", record=record)  # and mine.safetensors
same = load_model("mine.json")
