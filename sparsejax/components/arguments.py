"""Checks of what users pass: numbers, keys, optimizers, methods."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax.components.trees import named_leaves
from sparsejax.method import Method, described


def check_sparsify(inner: Any, method: Any, key: Any, overrides: Any) -> None:
  """Raises ValueError unless `sparsify` can use its arguments."""
  if isinstance(inner, Method):
    raise ValueError(
      "`inner` must be an optimizer, got a method: the arguments are swapped."
      " Write sparsify(optax.sgd(0.1), sparsejax.rigl(...))."
    )
  if not (hasattr(inner, "init") and hasattr(inner, "update")):
    raise ValueError(
      f"`inner` must be an optimizer, got {described(inner)}. Call it:"
      " optax.sgd(0.1)."
    )
  if not isinstance(method, Method):
    raise ValueError(
      f"`method` must be a method, got {described(method)}. Call one:"
      " sparsejax.rigl(0.9, end_step=1_000). `prune_at_init` makes masks"
      " before the first step, for `masks=`."
    )
  if key is not None and not hasattr(key, "dtype"):
    raise ValueError(
      f"`key` must be a random key, got {described(key)}. Make one from a seed:"
      " jax.random.key(0)."
    )
  if overrides is not None and not isinstance(overrides, Mapping):
    raise ValueError(
      "`overrides` must map globs to 'dense', a sparsity or an `Override`, got"
      f" {described(overrides)}. Write {{'head/*': 'dense'}}."
    )


def check_params(params: Any) -> None:
  """Raises ValueError unless all leaves are arrays, numbers or shapes."""
  for name, leaf in named_leaves(params):
    dtype = getattr(leaf, "dtype", None)
    if dtype is None and not isinstance(leaf, int | float | complex):
      raise ValueError(
        f"`params` must be a tree of arrays, got {described(leaf)} at {name!r}."
        " Of an Equinox model, take eqx.filter(model, eqx.is_inexact_array)."
      )
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
      raise ValueError(
        f"`params` must be a tree of parameters, got a random key at {name!r}."
        " Of an NNX model, take nnx.state(model, nnx.Param), or train it with"
        " nnx.Optimizer(model, tx, wrt=nnx.Param)."
      )


def check_sparsity(sparsity: float, argument: str = "sparsity") -> None:
  """Raises ValueError unless `sparsity` is a fraction of zeros in [0, 1)."""
  if isinstance(sparsity, str) or not hasattr(sparsity, "__float__"):
    raise ValueError(
      f"`{argument}` must be a number in [0, 1), got {described(sparsity)}."
    )
  if not 0 <= sparsity < 1:
    hint = f" Give a fraction: {sparsity / 100}." if 1 < sparsity < 100 else ""
    raise ValueError(f"`{argument}` must be in [0, 1), got {sparsity}.{hint}")


def check_fraction(value: float, argument: str) -> None:
  """Raises ValueError unless `value` is in [0, 1]."""
  if isinstance(value, str) or not 0 <= value <= 1:
    raise ValueError(
      f"`{argument}` must be a share in [0, 1], got {value}. Give a fraction"
      " such as 0.3."
    )


def check_steps(argument: str, value: int, least: int = 1) -> None:
  """Raises ValueError unless `value` is a whole number of at least `least`."""
  is_number = hasattr(value, "__int__") and not isinstance(value, bool)
  if not is_number or value != int(value) or value < least:
    raise ValueError(
      f"`{argument}` must be a whole number of optimizer steps, at least"
      f" {least}, got {value!r}."
    )
