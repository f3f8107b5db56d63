"""Next-token prediction: cross-entropy, bits per byte and perplexity."""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.tasks import cross_entropy
from sparsejax.tasks.task import Batch, Measure, Task


def next_token(*, context: int, bytes_per_token: float = 1.0) -> Task:
  """Predict each token from those before it.

  Args:
    context: tokens T that the model reads at once.
    bytes_per_token: mean bytes of a token, above 0; 1 for bytes.

  Returns:
    The task. Its examples are rows of tokens, integers[B, W]; training draws
    T + 1 successive tokens of each at a random position, evaluation the first
    ones. The model maps int32[B, T] tokens to float[B, T, K] logits. The loss
    of an example is the mean over its T tokens, in nats.
  """

  def draw(key: jax.Array | None, rows: jax.Array | np.ndarray) -> Batch:
    count, width = rows.shape
    if key is None:
      tokens = jnp.asarray(rows[:, : context + 1])
    else:
      starts = jax.random.randint(key, (count,), 0, width - context)
      positions = starts[:, None] + jnp.arange(context + 1)
      tokens = jnp.take_along_axis(jnp.asarray(rows), positions, axis=1)
    tokens = tokens.astype(jnp.int32)
    return Batch(tokens[:, :-1], tokens[:, 1:])

  def loss(
    logits: jax.Array, tokens: jax.Array, *, smoothing: float = 0.0
  ) -> jax.Array:
    return cross_entropy.losses(logits, tokens, smoothing=smoothing).mean(-1)

  def bits_per_byte(means: Mapping[str, float]) -> float:
    return means["loss"] / math.log(2) / bytes_per_token

  return Task(
    name="next_token",
    draw=draw,
    loss=loss,
    metrics=_accuracy,
    measures=(
      Measure(
        "bits_per_byte",
        "bits per byte",
        "bpb",
        "{:.4f}",
        "{:.3f}",
        higher_is_better=False,
        of_means=bits_per_byte,
      ),
      Measure(
        "perplexity",
        "perplexity",
        "ppl",
        "{:.3f}",
        higher_is_better=False,
        of_means=_perplexity,
      ),
      Measure("accuracy", "token accuracy", "acc", "{:.2%}", "{:.1%}"),
    ),
    smoothed=lambda smoothing: functools.partial(loss, smoothing=smoothing),
  )


def _accuracy(logits: jax.Array, tokens: jax.Array) -> dict[str, jax.Array]:
  """Returns the fraction of the tokens of each example that are predicted."""
  correct = logits.argmax(-1) == tokens
  return {"accuracy": correct.mean(-1, dtype=jnp.float32)}


def _perplexity(means: Mapping[str, float]) -> float:
  """Returns exp(loss); infinite where a float64 cannot hold it."""
  try:
    return math.exp(means["loss"])
  except OverflowError:
    return math.inf
