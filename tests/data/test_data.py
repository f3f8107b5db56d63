"""Digits, synthetic images, and batches as functions of (key, step)."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import datasets

from sparsejax.data import Split, augment, batches, digits, synthetic


@pytest.fixture(scope="module")
def dataset():
  return digits()


def test_split_is_stratified_and_complete(dataset):
  train, test = dataset.train, dataset.test
  assert train.images.dtype == np.uint8
  assert train.images.shape == (1438, 8, 8, 1)
  assert test.images.shape == (359, 8, 8, 1)
  full = datasets.load_digits()
  assert train.images.sum() + test.images.sum() == full.images.sum()
  for label in range(10):
    members = (full.target == label).sum()
    held_out = (test.labels == label).sum()
    assert held_out == round(0.2 * members)
    assert held_out + (train.labels == label).sum() == members


def test_split_is_fixed(dataset):
  # A change here changes every result: the changelog has to say so.
  assert zlib.crc32(dataset.test.images.tobytes()) == 1867873428
  assert zlib.crc32(dataset.test.labels.tobytes()) == 454731895


def test_training_images_have_mean_0_and_std_1(dataset):
  images = dataset.train.images
  x = dataset.task.draw(None, dataset.train).inputs
  assert x.shape == images.shape
  assert x.dtype == jnp.float32
  np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-4)


def test_a_permutation_depends_only_on_key_and_epoch():
  key = jax.random.key(3)
  two = batches.permutations(key, jnp.int32(4), epochs=2, examples=50)
  one = batches.permutations(key, jnp.int32(5), epochs=1, examples=50)
  np.testing.assert_array_equal(np.sort(two), [np.arange(50)] * 2)
  np.testing.assert_array_equal(two[1], one[0])
  assert (two[0] != two[1]).any()
  other = batches.permutations(
    jax.random.key(4), jnp.int32(4), epochs=1, examples=50
  )
  assert (two[0] != other[0]).any()


def test_an_epoch_has_each_example_at_most_once(dataset):
  size, count = 64, dataset.train.labels.size
  order = batches.permutations(
    jax.random.key(0), jnp.int32(0), epochs=1, examples=count
  )[0]
  split = Split(np.arange(count), dataset.train.labels)
  seen = [
    batches.take(split, order, jnp.int32(i), size) for i in range(count // size)
  ]
  images = np.concatenate([batch.images for batch in seen])
  assert np.unique(images).size == images.size == count // size * size
  np.testing.assert_array_equal(
    np.concatenate([batch.labels for batch in seen]), split.labels[images]
  )


@pytest.mark.parametrize("max_shift", [0, 1, 2])
def test_shift_stays_within_its_bound(dataset, max_shift):
  images = dataset.train.images[:100]
  key = batches.draw_key(jax.random.key(0), jnp.int32(7))
  moved = np.asarray(augment.shift(max_shift)(key, jnp.asarray(images)))
  assert moved.dtype == np.uint8
  reach = range(-max_shift, max_shift + 1)
  seen = {
    (row, column)
    for row in reach
    for column in reach
    for before, after in zip(images, moved, strict=True)
    if np.array_equal(after, reference(before, row, column))
  }
  assert seen == {(row, column) for row in reach for column in reach}
  for before, after in zip(images, moved, strict=True):
    assert any(
      np.array_equal(after, reference(before, row, column))
      for row in reach
      for column in reach
    )


def reference(image, rows, columns):
  """Shifts an image and fills with zeros."""
  out = np.zeros_like(image)
  height, width, _ = image.shape
  for row in range(height):
    for column in range(width):
      source = row + rows, column + columns
      if 0 <= source[0] < height and 0 <= source[1] < width:
        out[row, column] = image[source]
  return out


def test_augmentation_depends_on_key_and_step(dataset):
  examples = dataset.train.take(np.arange(64))

  def shifted(seed, step):
    key = batches.draw_key(jax.random.key(seed), jnp.int32(step))
    return np.asarray(dataset.task.draw(key, examples).inputs)

  np.testing.assert_array_equal(shifted(0, 5), shifted(0, 5))
  assert (shifted(0, 5) != shifted(0, 6)).any()
  assert (shifted(0, 5) != shifted(1, 5)).any()


def test_a_shift_beyond_the_image_raises():
  with pytest.raises(ValueError, match=r"`max_shift` must be in \[0, 7\]"):
    digits(max_shift=8)


def test_validation_is_the_end_of_the_training_split(dataset):
  split = digits(validation=138)
  assert (split.train.examples, split.validation.examples) == (1300, 138)
  np.testing.assert_array_equal(
    np.concatenate([split.train.images, split.validation.images]),
    dataset.train.images,
  )
  np.testing.assert_array_equal(
    np.concatenate([split.train.labels, split.validation.labels]),
    dataset.train.labels,
  )
  assert dataset.validation is None
  with pytest.raises(ValueError, match=r"`validation` must be in \[0, 1438\)"):
    digits(validation=1438)


def test_synthetic_data_is_fixed_and_its_splits_are_disjoint():
  one, other = (
    synthetic(
      num_classes=3,
      size=8,
      train_examples=30,
      test_examples=6,
      validation_examples=4,
    )
    for _ in range(2)
  )
  splits = [one.train, one.validation, one.test]
  assert [split.examples for split in splits] == [30, 4, 6]
  np.testing.assert_array_equal(one.train.images, other.train.images)
  np.testing.assert_array_equal(np.bincount(one.train.labels), [10, 10, 10])
  assert np.unique(
    np.concatenate([split.images for split in splits]), axis=0
  ).shape == (
    40,
    8,
    8,
    3,
  )


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"num_classes": 1}, "`num_classes` must be at least 2"),
    ({"test_examples": 9}, "`test_examples` at least `num_classes`"),
    ({"size": 30}, "`size` must be a positive multiple of 4"),
    ({"validation_examples": -1}, "`validation_examples` at least 0"),
  ],
)
def test_synthetic_arguments_out_of_range_raise(kwargs, message):
  with pytest.raises(ValueError, match=message):
    synthetic(**kwargs)
