"""The network that a run recommends, with its weights, its preprocessing and its class names; or any other arm."""

import torch

from nas_attn import load_model

model = load_model("runs/densenet_attn")
images = torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8)
probabilities = model.probabilities(model(model.preprocess(images)))
print([model.class_names[i] for i in probabilities.argmax(1)])
found = load_model("runs/densenet_attn", arm="found #1")
print(found.about)
