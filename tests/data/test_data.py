"""The split is fixed, and a batch is a function of key and step alone."""

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


def test_split_is_stratified_and_loses_nothing(dataset):
  train, test = dataset.train, dataset.test
  assert train.images.dtype == np.uint8
  assert train.images.shape == (1438, 8, 8, 1)
  assert test.images.shape == (359, 8, 8, 1)
  everything = datasets.load_digits()
  assert train.images.sum() + test.images.sum() == everything.images.sum()
  for label in range(10):
    members = (everything.target == label).sum()
    held_out = (test.labels == label).sum()
    assert held_out == round(0.2 * members)
    assert held_out + (train.labels == label).sum() == members


def test_split_is_the_same_everywhere(dataset):
  # A change here changes every result: say so in the changelog.
  assert zlib.crc32(dataset.test.images.tobytes()) == 1867873428
  assert zlib.crc32(dataset.test.labels.tobytes()) == 454731895


def test_train_images_are_normalized_by_their_own_statistics(dataset):
  images = dataset.train.images
  x = batches.normalize(images, dataset.mean, dataset.std)
  assert x.dtype == jnp.float32
  np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-4)


def test_an_order_is_a_permutation_and_depends_on_its_epoch_alone():
  key = jax.random.key(3)
  two = batches.orders(key, jnp.int32(4), epochs=2, examples=50)
  one = batches.orders(key, jnp.int32(5), epochs=1, examples=50)
  np.testing.assert_array_equal(np.sort(two), [np.arange(50)] * 2)
  np.testing.assert_array_equal(two[1], one[0])
  assert (two[0] != two[1]).any()
  other = batches.orders(jax.random.key(4), jnp.int32(4), epochs=1, examples=50)
  assert (two[0] != other[0]).any()


def test_batches_of_an_epoch_show_each_example_once(dataset):
  size, count = 64, dataset.train.labels.size
  order = batches.orders(
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
def test_shift_moves_each_image_within_its_bound(dataset, max_shift):
  images = dataset.train.images[:100]
  key = batches.augment_key(jax.random.key(0), jnp.int32(7))
  moved = np.asarray(augment.shift(max_shift)(key, jnp.asarray(images)))
  assert moved.dtype == np.uint8
  reach = range(-max_shift, max_shift + 1)
  seen = {
    (row, column)
    for row in reach
    for column in reach
    for before, after in zip(images, moved, strict=True)
    if np.array_equal(after, by_hand(before, row, column))
  }
  assert seen == {(row, column) for row in reach for column in reach}
  for before, after in zip(images, moved, strict=True):
    assert any(
      np.array_equal(after, by_hand(before, row, column))
      for row in reach
      for column in reach
    )


def by_hand(image, rows, columns):
  """Moves an image, filling with zeros."""
  out = np.zeros_like(image)
  height, width, _ = image.shape
  for row in range(height):
    for column in range(width):
      source = row + rows, column + columns
      if 0 <= source[0] < height and 0 <= source[1] < width:
        out[row, column] = image[source]
  return out


def test_augmentation_depends_on_key_and_step(dataset):
  images = jnp.asarray(dataset.train.images[:64])

  def shifted(seed, step):
    key = batches.augment_key(jax.random.key(seed), jnp.int32(step))
    return np.asarray(dataset.augment(key, images))

  np.testing.assert_array_equal(shifted(0, 5), shifted(0, 5))
  assert (shifted(0, 5) != shifted(0, 6)).any()
  assert (shifted(0, 5) != shifted(1, 5)).any()


def test_a_shift_beyond_the_image_is_refused():
  with pytest.raises(ValueError, match=r"`max_shift` must be in \[0, 7\]"):
    digits(max_shift=8)


def test_validation_is_cut_off_the_end_of_what_is_trained_on(dataset):
  cut = digits(validation=138)
  assert (cut.train.examples, cut.validation.examples) == (1300, 138)
  np.testing.assert_array_equal(
    np.concatenate([cut.train.images, cut.validation.images]),
    dataset.train.images,
  )
  np.testing.assert_array_equal(
    np.concatenate([cut.train.labels, cut.validation.labels]),
    dataset.train.labels,
  )
  assert dataset.validation is None
  with pytest.raises(ValueError, match=r"`validation` must be in \[0, 1438\)"):
    digits(validation=1438)


def test_made_up_images_are_the_same_every_time_and_differ_by_part():
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
  parts = [one.train, one.validation, one.test]
  assert [part.examples for part in parts] == [30, 4, 6]
  np.testing.assert_array_equal(one.train.images, other.train.images)
  np.testing.assert_array_equal(np.bincount(one.train.labels), [10, 10, 10])
  assert np.unique(np.concatenate([p.images for p in parts]), axis=0).shape == (
    40,
    8,
    8,
    3,
  )


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"num_classes": 1}, "`num_classes` must be at least 2"),
    ({"test_examples": 9}, "`test_examples` not below it"),
    ({"size": 30}, "`size` must be a positive multiple of 4"),
    ({"validation_examples": -1}, "`validation_examples` not below 0"),
  ],
)
def test_made_up_images_out_of_range_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    synthetic(**kwargs)
