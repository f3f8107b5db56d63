"""Augmentations against pixel-by-pixel references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from sparsejax.data import augment

IMAGES = np.random.default_rng(3).integers(0, 256, (300, 9, 6, 3), np.uint8)


def run(augmentation, images=IMAGES, seed=0):
  return np.asarray(jax.jit(augmentation)(jax.random.key(seed), images))


@pytest.mark.parametrize(
  ("padding", "mode"), [("reflect", "reflect"), ("zero", "constant")]
)
def test_crops_are_windows_of_the_padded_or_flipped_image(padding, mode):
  border = 2
  moved = run(augment.crop_and_flip(border, padding))
  assert moved.dtype == np.uint8 and moved.shape == IMAGES.shape
  seen = np.zeros((5, 5, 2), int)
  edge = (border, border)
  for before, after in zip(IMAGES, moved, strict=True):
    padded = np.pad(before, (edge, edge, (0, 0)), mode=mode)
    found = [
      (row, column, flip)
      for row in range(5)
      for column in range(5)
      for flip in (0, 1)
      if np.array_equal(window(padded, row, column, flip), after)
    ]
    assert len(found) == 1
    seen[found[0]] += 1
  # 300 samples of 50 windows: all occur, and flips about half of the time.
  assert (seen > 0).all()
  assert 110 < seen[..., 1].sum() < 190


def window(padded, row, column, flip):
  out = padded[row : row + 9, column : column + 6]
  return out[:, ::-1] if flip else out


@pytest.mark.parametrize("degrees", [0.0, 10.0, 33.0])
def test_rotation_and_shift_match_scipy(degrees):
  # As in Keras: shift, then rotate about the center; nearest-pixel fill.
  angle, shifts = np.deg2rad(degrees), np.array([0.7, -1.3])
  cos, sin = np.cos(angle), np.sin(angle)
  rotation = np.array([[cos, -sin], [sin, cos]])
  center = (np.array(IMAGES.shape[1:3]) - 1) / 2
  offset = rotation @ (shifts - center) + center
  image = IMAGES[0].astype(np.float32)
  expected = np.stack(
    [
      ndimage.affine_transform(
        image[..., c], rotation, offset, order=1, mode="nearest"
      )
      for c in range(3)
    ],
    axis=-1,
  )
  found = augment.rotate_and_shift(
    jnp.asarray(IMAGES[0]), jnp.float32(angle), jnp.asarray(shifts, jnp.float32)
  )
  np.testing.assert_allclose(found, expected, atol=1e-2)


def test_shifts_stay_within_their_bounds():
  height, width = IMAGES.shape[1:3]
  rows = np.broadcast_to(np.arange(height)[:, None, None], (height, width, 1))
  columns = np.broadcast_to(np.arange(width)[:, None], (height, width, 1))
  positions = np.concatenate([rows, columns], -1).astype(np.uint8)
  images = np.repeat(positions[None], 400, 0)
  moved = run(augment.rotate_shift_flip(0.0, 0.1), images)
  # The center row gives the shift, the order of its columns the flip.
  down = moved[:, 4, 2, 0] - 4
  assert (abs(down) <= 0.1 * height + 1e-5).all()
  assert down.min() < -0.7 and down.max() > 0.7
  flipped = moved[:, 4, 0, 1] > moved[:, 4, -1, 1]
  assert 150 < flipped.sum() < 250


def test_identity_and_a_zero_shift_change_nothing():
  for augmentation in (augment.identity, augment.shift(0)):
    np.testing.assert_array_equal(run(augmentation), IMAGES)


def test_augmentation_depends_on_the_key():
  augmentation = augment.crop_and_flip()
  np.testing.assert_array_equal(run(augmentation), run(augmentation))
  assert (run(augmentation) != run(augmentation, seed=1)).any()


def test_unknown_padding_raises():
  with pytest.raises(
    ValueError, match="`padding` must be one of reflect, zero"
  ):
    augment.crop_and_flip(padding="edge")
