"""Images and labels of one part: class numbers, or a column of 0 and 1 per label."""

import numpy as np

from nas_attn import LabelledImages

pixels = np.zeros((4, 8, 8, 1), np.uint8)
one_label = LabelledImages(pixels, np.array([0, 1, 0, 1]))
several_labels = LabelledImages(pixels, np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]]))
