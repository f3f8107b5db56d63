"""A multi-layer perceptron: dense layers with ReLU between them."""

import flax.linen as nn
import jax

from sparsejax.models import layers


class MLP(nn.Module):
  """Dense layers with ReLU between them.

  Attributes:
    classes: number of logits K.
    hidden: width of each hidden layer.
  """

  classes: int
  hidden: tuple[int, ...] = (256, 256)

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns float[B, K] logits of float[B, ...] images."""
    del train  # Nothing here differs between training and evaluation.
    x = x.reshape(x.shape[0], -1)
    for width in self.hidden:
      x = nn.relu(nn.Dense(width)(x))
    return nn.Dense(self.classes)(x)


def mlp(
  classes: int, *, hidden: tuple[int, ...] = (256, 256), width: float = 1.0
) -> MLP:
  """Build an `MLP`; on digits the default is 64-256-256-10.

  Args:
    classes: number of logits.
    hidden: width of each hidden layer, each at least 1.
    width: factor of these, in (0, 1].

  Returns:
    The module.

  Raises:
    ValueError: if a width is not a positive integer, or the factor out of
      range.
  """
  if not hidden or any(width < 1 for width in hidden):
    raise ValueError(f"`hidden` must hold positive widths, got {hidden}.")
  return MLP(classes=classes, hidden=layers.narrowed(hidden, width))
