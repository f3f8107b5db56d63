"""scikit-learn's digits: 1,797 handwritten digits of 8x8 pixels.

They ship with scikit-learn, so no download is needed. Pixels are integers in
[0, 16].
"""

from typing import Any

import numpy as np

from sparsejax.data import augment
from sparsejax.data.dataset import Dataset, hold_out, labeled_images
from sparsejax.data.splits import Split

# The split belongs to the data set, not to a run: every seed of every
# experiment is tested on the same 359 images.
_SPLIT_SEED = 0
_TEST_FRACTION = 0.2


def digits(*, max_shift: int = 1, validation: int = 0) -> Dataset:
  """Load the digits with their fixed, stratified split.

  Args:
    max_shift: augmentation shifts each training image by up to this many pixels
      along each axis and fills with background; in [0, 7].
    validation: number of training images, the last ones, to hold out for
      validation.

  Returns:
    The data set: 1,438 training and 359 test images; a fifth of each class
    (rounded) is in the test split.

  Raises:
    ValueError: if an argument is out of range.
  """
  if not 0 <= max_shift <= 7:
    raise ValueError(
      f"`max_shift` must be in [0, 7] for images of 8 pixels, got {max_shift}."
    )
  # Imported here: scikit-learn takes a second to import.
  from sklearn import datasets

  bunch: Any = datasets.load_digits()
  images = np.asarray(bunch.images, np.uint8)[..., None]
  labels = np.asarray(bunch.target, np.int32)
  test = _stratified(labels)
  train, held_out = hold_out(Split(images[~test], labels[~test]), validation)
  return labeled_images(
    train=train,
    test=Split(images[test], labels[test]),
    classes=10,
    mean=float(train.images.mean(dtype=np.float64)),
    std=float(train.images.std(dtype=np.float64)),
    augment=augment.shift(max_shift),
    validation=held_out,
  )


def _stratified(labels: np.ndarray) -> np.ndarray:
  """Returns bool[N], the test split: the same fraction of every class."""
  # RandomState is frozen; the stream of default_rng may change.
  random = np.random.RandomState(_SPLIT_SEED)
  test = np.zeros(labels.shape, bool)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    count = round(_TEST_FRACTION * members.size)
    test[random.permutation(members)[:count]] = True
  return test
