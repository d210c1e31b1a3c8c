"""Some attentions (`triple`) leave logits in training; add their loss to yours. Without any it is 0."""

import torch

from nas_attn import Placement, auxiliary_loss, build_model

placement = Placement.from_dict({"stage2.block2.output": {"name": "triple", "hidden": 16}})
model = build_model("resnet18", placement, num_classes=10, in_channels=3, image_size=32)
images, targets = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
loss = torch.nn.functional.cross_entropy(model(images), targets)
loss = loss + auxiliary_loss(model, targets)
loss.backward()
