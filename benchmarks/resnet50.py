"""Parameters for benchmarks: the kernels of ResNet-50, and one large leaf."""

import math

import jax
import numpy as np


def shapes() -> dict[str, tuple[int, ...]]:
  """Returns the kernel shapes of ResNet-50 for ImageNet: 25,502,912 weights."""
  kernels: list[tuple[int, ...]] = [(7, 7, 3, 64)]
  width_in = 64
  for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
    for block in range(blocks):
      kernels += [
        (1, 1, width_in, width),
        (3, 3, width, width),
        (1, 1, width, 4 * width),
      ]
      if block == 0:
        kernels.append((1, 1, width_in, 4 * width))
      width_in = 4 * width
  kernels.append((2048, 1000))
  return {f"layer_{i:02d}": shape for i, shape in enumerate(kernels)}


def some(kernels: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
  """Returns a few small kernels, to try a script."""
  return {name: kernels[name] for name in list(kernels)[:3]}


def single_leaf() -> dict[str, tuple[int, ...]]:
  """Returns the shape of one kernel of 100 million weights."""
  return {"layer": (10_000, 10_000)}


def normal(kernels: dict[str, tuple[int, ...]], seed: int, scale: float):
  """Returns a tree of normally distributed float32 kernels."""
  rng = np.random.default_rng(seed)
  return {
    name: {
      "kernel": jax.numpy.asarray(
        rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
      )
    }
    for name, shape in kernels.items()
  }


def size(kernels: dict[str, tuple[int, ...]]) -> int:
  """Returns the total number of weights."""
  return sum(math.prod(shape) for shape in kernels.values())
