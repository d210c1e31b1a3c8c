"""The whole engine (ledger, resume, confirm, arms, report) around a training function of your own."""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from nas_attn import Run, auxiliary_loss, search


def digits() -> dict[str, tuple[Tensor, Tensor]]:
    """Your own data, read your own way: train, validation and test."""
    found = load_digits()
    images = torch.from_numpy(found.images).float().unsqueeze(1) / 16
    targets = torch.from_numpy(found.target).long()
    learned, tested = train_test_split(range(len(targets)), train_size=0.3, stratify=targets, random_state=0)
    learned, checked = train_test_split(learned, train_size=0.5, stratify=targets[learned], random_state=0)
    parts = {"train": learned, "val": checked, "test": tested}
    return {name: (images[rows], targets[rows]) for name, rows in parts.items()}


def my_training(model: nn.Module, run: Run) -> float:
    """Train as you like; report each epoch; return validation accuracy, or test accuracy for `retrain`."""
    torch.manual_seed(run.seed)
    data = digits()
    inputs, targets = data["train"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(1, run.epochs + 1):
        model.train()
        for batch in torch.randperm(len(targets)).split(32):
            loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
            loss = loss + auxiliary_loss(model, targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        run.report(epoch, accuracy(model, *data["val"]))
    return accuracy(model, *data["test" if run.stage == "retrain" else "val"])


def accuracy(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Return the share of images that are named right."""
    model.eval()
    with torch.inference_mode():
        return float((model(inputs).argmax(1) == targets).float().mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/own_training")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--executor", default="tune")
    arguments = parser.parse_args()
    run = search(
        "densenet_attn",
        train=my_training,
        out=arguments.out,
        num_classes=10,
        in_channels=1,
        image_size=8,
        trials=arguments.trials,
        epochs=arguments.epochs,
        seeds=arguments.seeds,
        top=1,
        executor=arguments.executor,
    )
    print(f"report: {run.folder / 'report.html'}")
