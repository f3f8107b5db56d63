"""Cross-entropy of logits and integer labels."""

import jax
import optax


def losses(
  logits: jax.Array, labels: jax.Array, *, smoothing: float = 0.0
) -> jax.Array:
  """Compute cross-entropies, with PyTorch's label smoothing.

  Args:
    logits: float[..., K].
    labels: int[...] in [0, K).
    smoothing: share of the uniform distribution in the targets, in [0, 1).

  Returns:
    float32[...].
  """
  found = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  if not smoothing:
    return found
  uniform = -jax.nn.log_softmax(logits).mean(-1)
  return (1 - smoothing) * found + smoothing * uniform
