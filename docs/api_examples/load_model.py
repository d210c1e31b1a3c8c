"""The model that a search exported, with its weights, its preprocessing and its class names."""

import torch

from nas_attn import load_model

model = load_model("runs/densenet_attn/best.json")
images = torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8)
probabilities = model.probabilities(model(model.preprocess(images)))
print([model.class_names[i] for i in probabilities.argmax(1)])
