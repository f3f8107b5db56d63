"""Tasks: losses and measures by hand."""

import math
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import tasks
from sparsejax.tasks import image_classification, next_token


def test_next_token_by_hand():
  task = next_token(context=2)
  batch = task.draw(None, jnp.array([[1, 0, 1], [0, 0, 0]], jnp.uint8))
  np.testing.assert_array_equal(batch.inputs, [[1, 0], [0, 0]])
  np.testing.assert_array_equal(batch.targets, [[0, 1], [0, 0]])
  logits = jnp.zeros((2, 2, 4)).at[1, :, 0].set(math.log(5))
  losses = task.loss(logits, batch.targets)
  np.testing.assert_allclose(losses, [math.log(4), math.log(8 / 5)], rtol=1e-6)
  # argmax of equal logits is 0.
  found = task.metrics(logits, batch.targets)
  np.testing.assert_array_equal(found["accuracy"], [0.5, 1.0])
  derived = task.derived({"loss": math.log(4)})
  assert derived["perplexity"] == pytest.approx(4)
  assert derived["bits_per_byte"] == pytest.approx(2)
  assert task.derived({"loss": 1e6})["perplexity"] == math.inf


def test_bits_per_byte_count_the_bytes_of_a_token():
  task = next_token(context=2, bytes_per_token=4.0)
  assert task.derived({"loss": math.log(4)})["bits_per_byte"] == 0.5


def test_smoothed_losses_are_means_over_tokens():
  task = next_token(context=2)
  assert task.smoothed is not None
  logits = jnp.array([[[2.0, 0.0], [0.0, 1.0]]])
  tokens = jnp.array([[0, 0]])
  log = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
  wanted = -(0.8 * log[0, :, 0] + 0.2 * log[0].mean(-1)).mean()
  found = task.smoothed(0.2)(logits, tokens)
  np.testing.assert_allclose(found, [wanted], rtol=1e-6)


def test_image_classification_normalizes_and_augments_in_training_only():
  task = image_classification(
    mean=4.0, std=2.0, augment=lambda key, images: images + 2
  )

  class Examples:
    images = np.full((1, 2, 2, 1), 8, np.uint8)
    labels = np.array([1])

  for key, value in ((None, 2.0), (jnp.zeros(()), 3.0)):
    found = task.draw(key, Examples())
    assert found.inputs.dtype == jnp.float32 and (found.inputs == value).all()
  logits = jnp.array([[0.0, 1.0], [1.0, 0.0]])
  correct = task.metrics(logits, jnp.array([1, 1]))["accuracy"]
  assert correct.tolist() == [True, False]
  assert isinstance(task, tasks.Task) and task.derived({"loss": 1.0}) == {}


def test_the_trainer_has_no_word_of_images():
  package = pathlib.Path(tasks.__file__).parents[1]
  paths = [package / "train.py", *(package / "training").rglob("*.py")]
  words = re.compile(
    r"\b(images?|pixels?|augment\w*|classif(?!ier/)\w*)\b", re.IGNORECASE
  )
  found = {path.name: words.findall(path.read_text()) for path in paths}
  assert {name: x for name, x in found.items() if x} == {}
