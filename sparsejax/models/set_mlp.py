"""The multilayer perceptron of SET and its descendants."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sparsejax.models import layers
from sparsejax.models.sparse_dense import SparseDense

ACTIVATIONS = ("leaky_relu", "srelu")
LAYOUTS = ("masked", "sparse")
# Keras's default; Scholte (2022) does not give the slope.
_LEAKY_SLOPE = 0.3


class SReLU(nn.Module):
  """The S-shaped rectified linear unit: two thresholds and two slopes per unit.

  With t_r = t_left + |t_right|:

      f(x) = t_left + a_left (x - t_left)   for x <= t_left
             x                              in between
             t_r + a_right (x - t_r)        for x >= t_r

  Initialized as in keras-contrib, which SET's code uses: t_left = 0, a_left
  uniform in [0, 1), t_right uniform in [0, 5), a_right = 1.

  References:
    Jin et al., `Deep Learning with S-shaped Rectified Linear Activation Units
    <https://arxiv.org/abs/1512.07030>`_, 2016.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns float[..., C] of float[..., C]."""
    shape = x.shape[-1:]
    t_left = self.param("t_left", nn.initializers.zeros, shape)
    a_left = self.param("a_left", nn.initializers.uniform(1.0), shape)
    t_right = self.param("t_right", nn.initializers.uniform(5.0), shape)
    a_right = self.param("a_right", nn.initializers.ones, shape)
    right = t_left + jnp.abs(t_right)
    return jnp.where(
      x <= t_left,
      t_left + a_left * (x - t_left),
      jnp.where(x >= right, right + a_right * (x - right), x),
    )


class SetMLP(nn.Module):
  """Dense hidden layers, each followed by an activation and dropout.

  The hidden layers are named `hidden_0`, `hidden_1`, ...; the last layer is
  `output`, which the papers keep dense. As in Keras, kernels are Glorot uniform
  and biases 0.

  Attributes:
    classes: number of logits K.
    hidden: width of each hidden layer.
    activation: one of `ACTIVATIONS`.
    dropout: fraction of hidden units dropped during training.
    layout: one of `LAYOUTS`; "sparse" reads kernels with a mask in the
      collection `masks` as values, see `SparseDense`.
  """

  classes: int
  hidden: tuple[int, ...] = (4000, 1000, 4000)
  activation: str = "leaky_relu"
  dropout: float = 0.3
  layout: str = "masked"

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns float[B, K] logits of float[B, ...] images.

    Training needs the RNG stream `dropout`.
    """
    x = x.reshape(x.shape[0], -1)
    for layer, width in enumerate(self.hidden):
      x = self._dense(width, f"hidden_{layer}")(x)
      if self.activation == "srelu":
        x = SReLU(name=f"srelu_{layer}")(x)
      else:
        x = nn.leaky_relu(x, _LEAKY_SLOPE)
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return self._dense(self.classes, "output")(x)

  def _dense(self, width: int, name: str) -> nn.Module:
    layer = SparseDense if self.layout == "sparse" else nn.Dense
    return layer(width, kernel_init=nn.initializers.glorot_uniform(), name=name)


def set_mlp(
  classes: int,
  *,
  hidden: tuple[int, ...] = (4000, 1000, 4000),
  activation: str = "leaky_relu",
  dropout: float = 0.3,
  width: float = 1.0,
  layout: str = "masked",
) -> SetMLP:
  """Build a `SetMLP`; on CIFAR-10 the default is 3072-4000-1000-4000-10.

  That is 20,328,000 weights in four kernels, and 9,010 biases.

  Args:
    classes: number of logits.
    hidden: width of each hidden layer, each at least 1.
    activation: "leaky_relu" with a slope of 0.3, as in Scholte (2022), or
      "srelu", as in SET's code; its parameters are vectors and stay dense.
    dropout: fraction of hidden units dropped in each step, in [0, 1).
    width: width multiplier of the hidden layers, in (0, 1].
    layout: "masked" trains dense kernels with exact zeros, "sparse" the values
      of active weights alone: the same network in less memory, and faster on a
      CPU at high sparsity. For methods that regrow without a gradient between
      two steps, as SET does.

  Returns:
    The module.

  Raises:
    ValueError: if an argument is out of range.

  References:
    Mocanu et al., `Scalable training of artificial neural networks with
    adaptive sparse connectivity inspired by network science
    <https://www.nature.com/articles/s41467-018-04316-3>`_, 2018.
  """
  if not hidden or any(width < 1 for width in hidden):
    raise ValueError(f"`hidden` must be positive widths, got {hidden}.")
  if activation not in ACTIVATIONS:
    raise ValueError(
      f"`activation` must be one of {', '.join(ACTIVATIONS)}, got"
      f" {activation!r}."
    )
  if layout not in LAYOUTS:
    raise ValueError(
      f"`layout` must be one of {', '.join(LAYOUTS)}, got {layout!r}."
    )
  if not 0 <= dropout < 1:
    raise ValueError(f"`dropout` must be in [0, 1), got {dropout}.")
  return SetMLP(
    classes=classes,
    hidden=layers.scale_widths(hidden, width),
    activation=activation,
    dropout=dropout,
    layout=layout,
  )
