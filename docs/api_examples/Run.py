"""A training function of your own receives a `Run`; create one yourself to try the function without a search."""

import torch

from nas_attn import Placement, Run, build_model


def my_training(model: torch.nn.Module, run: Run) -> float:
    torch.manual_seed(run.seed)
    images, targets = torch.rand(8, 1, 28, 28, device=run.device), torch.arange(8, device=run.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    accuracy = 0.0
    for epoch in range(1, run.epochs + 1):
        optimizer.zero_grad()
        logits = model(images)
        torch.nn.functional.cross_entropy(logits, targets).backward()
        optimizer.step()
        accuracy = float((logits.argmax(1) == targets).float().mean())
        run.report(epoch, accuracy)  # raises an exception to stop the trial: do not catch it
    return accuracy  # on test images if run.stage == "retrain", otherwise on validation images


model = build_model("lenet", Placement(), num_classes=10, in_channels=1, image_size=28)
print(my_training(model, Run(seed=0, epochs=2, device="cpu", stage="search", report=print)))
