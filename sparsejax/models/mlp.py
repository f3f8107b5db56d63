"""A multilayer perceptron with ReLU."""

import flax.linen as nn
import jax

from sparsejax.models import layers


class MLP(nn.Module):
  """Dense layers with ReLU in between.

  Attributes:
    classes: number of logits K.
    hidden: width of each hidden layer.
  """

  classes: int
  hidden: tuple[int, ...] = (256, 256)

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns float[B, K] logits of float[B, ...] images."""
    del train  # Unused: training and evaluation are the same.
    x = x.reshape(x.shape[0], -1)
    for width in self.hidden:
      x = nn.relu(nn.Dense(width)(x))
    return nn.Dense(self.classes)(x)


def mlp(
  classes: int, *, hidden: tuple[int, ...] = (256, 256), width: float = 1.0
) -> MLP:
  """Build an `MLP`; on the digits the default is 64-256-256-10.

  Args:
    classes: number of logits.
    hidden: width of each hidden layer, each at least 1.
    width: width multiplier of the hidden layers, in (0, 1].

  Returns:
    The module.

  Raises:
    ValueError: if a hidden width is not a positive integer, or `width` is out
      of range.
  """
  if not hidden or any(width < 1 for width in hidden):
    raise ValueError(f"`hidden` must be positive widths, got {hidden}.")
  return MLP(classes=classes, hidden=layers.scale_widths(hidden, width))
