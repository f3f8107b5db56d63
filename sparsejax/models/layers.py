"""Layers shared by the models, with PyTorch's initializers and padding."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# Normal with variance 2 / fan: `kaiming_normal_` for ReLU.
kaiming_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Uniform within 1 / sqrt(fan_in): PyTorch's default for convolutions and linear
# layers, where it is spelled `kaiming_uniform_` with a = sqrt(5).
torch_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Initializer:
  """PyTorch's default for biases: uniform within 1 / sqrt(fan_in).

  Args:
    fan_in: inputs per output, at least 1.

  Returns:
    The initializer.
  """

  def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def promote_logits(x: jax.Array) -> jax.Array:
  """Returns logits in float32, or in float64 if the model computes in it."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def scale_widths(counts: tuple[int, ...], width: float) -> tuple[int, ...]:
  """Returns channel or unit counts times a width multiplier, each at least 1.

  Raises:
    ValueError: if `width` is not in (0, 1].
  """
  if not 0 < width <= 1:
    raise ValueError(f"`width` must be in (0, 1], got {width}.")
  return tuple(max(1, round(count * width)) for count in counts)


def compute_dtype(name: str) -> Any:
  """Returns the dtype of the computation; parameters are always float32.

  Raises:
    ValueError: if the name is not in `DTYPES`.
  """
  if name not in DTYPES:
    raise ValueError(f"`dtype` must be one of {sorted(DTYPES)}, got {name!r}.")
  return DTYPES[name]


def convolution(
  features: int,
  size: int,
  *,
  stride: int = 1,
  padding: int | None = None,
  bias_init: Initializer | None = None,
  **options: Any,
) -> nn.Conv:
  """A square convolution with PyTorch's symmetric padding.

  "SAME" would pad one side only when the stride is 2.

  Args:
    features: output channels.
    size: kernel height and width.
    stride: stride in both directions.
    padding: pixels on each side; `size // 2` by default.
    bias_init: initializer of the bias; without one there is no bias.
    **options: options of `nn.Conv`: `name`, `kernel_init`, `dtype`, ...

  Returns:
    The submodule.
  """
  pixels = size // 2 if padding is None else padding
  return nn.Conv(
    features,
    (size, size),
    strides=(stride, stride),
    padding=((pixels, pixels), (pixels, pixels)),
    use_bias=bias_init is not None,
    bias_init=bias_init or nn.initializers.zeros,
    **options,
  )


def batch_norm(*, name: str, train: bool, dtype: Any) -> nn.BatchNorm:
  """Batch norm with PyTorch's defaults and float32 running averages.

  Args:
    name: name of the submodule.
    train: whether to normalize by the batch and update the running averages.
    dtype: dtype of the output.

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
  """Max-pools square windows; padding is never the maximum."""
  # Flax also accepts pixels, though its annotation says "SAME" or "VALID".
  pixels: Any = ((padding, padding), (padding, padding))
  return nn.max_pool(x, (size, size), strides=(stride, stride), padding=pixels)


@runtime_checkable
class Classifier(Protocol):
  """The last layer of a model, named `classifier`."""

  def __call__(self, x: jax.Array, classes: int, dtype: Any, /) -> jax.Array:
    """Returns [B, classes] logits of [B, C] features."""
    ...


def linear(
  kernel_init: Initializer, bias_init: Callable[[int], Initializer] | None
) -> Classifier:
  """A dense classifier.

  Args:
    kernel_init: initializer of the kernel.
    bias_init: fan-in -> initializer of the bias; without one there is no bias.

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
  """A classifier by 1x1 convolution, whose kernel has four dimensions.

  Args:
    kernel_init: initializer of the kernel.
    bias_init: fan-in -> initializer of the bias; without one there is no bias.

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
