"""A reader of your own gets a name: `search(data="stripes")`, or `--data stripes` in a plug-in."""

import numpy as np

from nas_attn import DATA, DataSource, ImageDataset, LabelledImages, register_data


def read_stripes(request):
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    pixels = generator.integers(0, 100, (200, 8, 8, 1), dtype=np.uint8)
    pixels[labels == 0, ::2] += 100  # horizontal
    pixels[labels == 1, :, ::2] += 100  # vertical
    return ImageDataset(("horizontal", "vertical"), {"train": LabelledImages(pixels, labels)})


register_data(DataSource("stripes", read_stripes, "Horizontal and vertical stripes in noise."))
print(DATA["stripes"].form)
DATA.unregister("stripes")
