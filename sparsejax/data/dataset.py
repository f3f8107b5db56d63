"""What a data set is: two splits of uint8 images, small enough for a device."""

from typing import NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray


class Split(NamedTuple):
  """Images with their labels.

  Attributes:
    images: uint8[N, H, W, C], numpy or jax.
    labels: int32[N] in [0, K).
  """

  images: Array
  labels: Array


class Dataset(NamedTuple):
  """A train and a test split, and how to read their pixels.

  Attributes:
    train: what the parameters are trained on.
    test: what they are judged on; never trained on.
    classes: number of classes K.
    mean: mean of the train pixels, in uint8 units.
    std: standard deviation of the train pixels, in uint8 units.
    max_shift: pixels that augmentation may move an image by; 0 is none.
  """

  train: Split
  test: Split
  classes: int
  mean: float
  std: float
  max_shift: int
