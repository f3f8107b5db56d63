"""What the networks share: PyTorch's initialisers, convolution, batch norm."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# Normal with variance 2 / fan, as `kaiming_normal_` for ReLU.
kaiming_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Uniform within 1 / sqrt(fan_in): PyTorch's default of convolutions and linear
# layers, which it writes as `kaiming_uniform_` with a = sqrt(5).
torch_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Initializer:
  """PyTorch's default of biases: uniform within 1 / sqrt(fan_in).

  Args:
    fan_in: inputs of one output, at least 1.

  Returns:
    The initializer.
  """

  def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def at_least_float32(x: jax.Array) -> jax.Array:
  """Returns logits in float32, or in float64 where the model computes in it."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def narrowed(counts: tuple[int, ...], width: float) -> tuple[int, ...]:
  """Returns numbers of channels or units times a factor, each at least 1.

  Raises:
    ValueError: if the factor is not in (0, 1].
  """
  if not 0 < width <= 1:
    raise ValueError(f"`width` must be in (0, 1], got {width}.")
  return tuple(max(1, round(count * width)) for count in counts)


def compute_dtype(name: str) -> Any:
  """Returns the type that a config names; parameters are always float32.

  Raises:
    ValueError: if it is not one of `DTYPES`.
  """
  if name not in DTYPES:
    raise ValueError(f"`dtype` must be one of {sorted(DTYPES)}, got {name!r}.")
  return DTYPES[name]


def convolution(
  features: int,
  size: int,
  *,
  name: str,
  kernel_init: Initializer,
  dtype: Any,
  stride: int = 1,
  padding: int | None = None,
  groups: int = 1,
  bias_init: Initializer | None = None,
) -> nn.Conv:
  """A square convolution that pads like PyTorch: alike on both sides.

  "SAME" would pad a stride of 2 on the far side only.

  Args:
    features: output channels.
    size: of the kernel in both directions.
    name: of the submodule.
    kernel_init: of the kernel.
    dtype: of the computation.
    stride: in both directions.
    padding: pixels on each side; `size // 2` if not given.
    groups: feature groups; as many as channels for a depthwise convolution.
    bias_init: of the bias; without it there is none.

  Returns:
    The submodule.
  """
  pixels = size // 2 if padding is None else padding
  return nn.Conv(
    features,
    (size, size),
    strides=(stride, stride),
    padding=((pixels, pixels), (pixels, pixels)),
    feature_group_count=groups,
    use_bias=bias_init is not None,
    dtype=dtype,
    kernel_init=kernel_init,
    bias_init=bias_init or nn.initializers.zeros,
    name=name,
  )


def batch_norm(*, name: str, train: bool, dtype: Any) -> nn.BatchNorm:
  """Batch norm with PyTorch's defaults; its statistics are float32.

  Args:
    name: of the submodule.
    train: whether the batch's own statistics are used and averaged.
    dtype: of the result.

  Returns:
    The submodule.
  """
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    epsilon=1e-5,
    dtype=dtype,
    name=name,
  )


def max_pool(
  x: jax.Array, size: int, *, stride: int, padding: int = 0
) -> jax.Array:
  """Returns the maxima of square windows; padding is never the maximum."""
  # Flax takes pixels as well as the names that its annotation tells of.
  pixels: Any = ((padding, padding), (padding, padding))
  return nn.max_pool(x, (size, size), strides=(stride, stride), padding=pixels)


@runtime_checkable
class Classifier(Protocol):
  """The last layer of a network, called `classifier`."""

  def __call__(self, x: jax.Array, classes: int, dtype: Any, /) -> jax.Array:
    """Returns [B, classes] logits of [B, C] features."""
    ...


def linear(
  kernel_init: Initializer, bias_init: Callable[[int], Initializer] | None
) -> Classifier:
  """A dense layer as classifier.

  Args:
    kernel_init: of the kernel.
    bias_init: makes the bias's initializer from the number of features;
      without it there is no bias.

  Returns:
    The classifier.
  """

  def classify(x: jax.Array, classes: int, dtype: Any) -> jax.Array:
    return nn.Dense(
      classes,
      use_bias=bias_init is not None,
      dtype=dtype,
      kernel_init=kernel_init,
      bias_init=nn.initializers.zeros
      if bias_init is None
      else bias_init(x.shape[-1]),
      name="classifier",
    )(x)

  return classify


def pointwise(
  kernel_init: Initializer,
  bias_init: Callable[[int], Initializer] | None = None,
) -> Classifier:
  """A 1x1 convolution as classifier, so that its kernel has four dimensions.

  Args:
    kernel_init: of the kernel.
    bias_init: makes the bias's initializer from the number of features;
      without it there is no bias.

  Returns:
    The classifier.
  """

  def classify(x: jax.Array, classes: int, dtype: Any) -> jax.Array:
    logits = convolution(
      classes,
      1,
      kernel_init=kernel_init,
      dtype=dtype,
      bias_init=bias_init and bias_init(x.shape[-1]),
      name="classifier",
    )(x[:, None, None])
    return logits[:, 0, 0]

  return classify
