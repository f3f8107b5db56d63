"""The inner optimizer's statistics at weights that are off."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from sparsejax.components import trees
from sparsejax.method import Masks

_PROBE_STEPS = 3
_PROBE_SCALES = (1e-3, 1e6)  # clipping acts on large gradients only


def reset(
  inner: optax.GradientTransformation,
  inner_state: optax.OptState,
  keep: Masks,
  params: PyTree,
) -> optax.OptState:
  """Gives statistics their initial value where a weight is off or fresh.

  Only leaves of the weight's shape: factored or scalar statistics belong to no
  single weight. The initial value is that of a zero weight, which is 0 for
  momentum and Adam, and not for adagrad, rmsprop or rprop.

  Args:
    inner: the inner transformation.
    inner_state: its state.
    keep: tree of bool like the parameters, `MaskedNode` at dense leaves; `True`
      where statistics go on.
    params: gives shapes and dtypes.
  """
  first = inner.init(optax.tree.zeros_like(params))
  beside = optax.tree.map_params(
    inner,
    lambda _, mask: mask,
    inner_state,
    keep,
    transform_non_params=lambda _: optax.MaskedNode(),
    is_leaf=trees.is_masked_node,
  )

  def start_again(stat, start, mask):
    if trees.is_masked_node(mask) or trees.is_masked_node(stat):
      return stat
    if stat.shape != mask.shape:
      return stat
    return jnp.where(mask, stat, start)

  return jax.tree.map(
    start_again, inner_state, first, beside, is_leaf=trees.is_masked_node
  )


def reset_all(
  inner: optax.GradientTransformation,
  inner_state: optax.OptState,
  when: Array,
  params: PyTree,
) -> optax.OptState:
  """Gives the statistics of all weights their first value at certain steps.

  Steps that are counted, and with them schedules, go on.

  Args:
    inner: the inner transformation.
    inner_state: its state.
    when: bool[].
    params: gives shapes and dtypes.
  """
  first = inner.init(optax.tree.zeros_like(params))
  of_weights = optax.tree.map_params(
    inner,
    lambda _: True,
    inner_state,
    transform_non_params=lambda _: False,
  )
  return jax.tree.map(
    lambda stat, start, restarts: (
      jnp.where(when, start, stat) if restarts else stat
    ),
    inner_state,
    first,
    of_weights,
  )


def is_elementwise(inner: optax.GradientTransformation, params: PyTree) -> bool:
  """Whether each weight and its statistics move by nothing but themselves.

  And whether the statistics of a zero weight stay as they are at a zero
  gradient. Then statistics may be reset before the inner step, where that
  writes them once and in place, and not after it, which costs a copy of them.
  It holds for SGD, Adam and the like, not with clipping by a norm.

  It is found out by steps on leaves of two weights a side. An optimizer that
  cannot take them counts as one that mixes.

  Args:
    inner: the inner transformation.
    params: gives the structure, and the number of dimensions of each leaf.
  """
  leaves = tuple((x.shape, x.dtype) for x in jax.tree.leaves(params))
  return _is_elementwise(inner, jax.tree.structure(params), leaves)


@functools.lru_cache
def _is_elementwise(inner, treedef, leaves) -> bool:
  params = treedef.unflatten([jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
  try:
    # The numbers of the probe are its own, whatever guards the caller's.
    with jax.transfer_guard("allow"):
      return _has_whole_statistics(inner, params) and _shows_no_mixing(
        inner, params
      )
  except (TypeError, ValueError, LookupError, AttributeError):
    return False


def _has_whole_statistics(inner, params) -> bool:
  """Factored statistics belong to rows and columns."""
  state = jax.eval_shape(inner.init, params)
  same = optax.tree.map_params(
    inner,
    lambda stat, param: trees.is_masked_node(stat) or stat.shape == param.shape,
    state,
    params,
    transform_non_params=lambda _: True,
    is_leaf=trees.is_masked_node,
  )
  return all(jax.tree.leaves(same))


def _shows_no_mixing(inner, params) -> bool:
  """Takes steps from several starts at once, and compares.

  The first start is all zeros. The others come in pairs that differ in the
  first weight of each leaf alone, which is 0 in the second of a pair.
  """
  rng = np.random.default_rng(0)
  scales = np.repeat([0, *_PROBE_SCALES], [1, 2, 2])

  def draw(leaf, scales):
    drawn = rng.normal(size=2**leaf.ndim) * scales[:, None]
    drawn[2::2, 0] = 0
    return drawn.reshape(-1, *(2,) * leaf.ndim).astype(leaf.dtype)

  weights = jax.tree.map(lambda leaf: draw(leaf, np.sign(scales)), params)
  grads = jax.tree.map(lambda leaf: draw(leaf, scales), params)
  first = state = _compiled(jax.vmap(inner.init), weights)(weights)
  step = _compiled(jax.vmap(inner.update), grads, state, weights)
  found = []
  for _ in range(_PROBE_STEPS):
    updates, state = step(grads, state, weights)
    found += map(np.asarray, jax.tree.leaves(updates))
  if not any(update.any() for update in found):
    return False  # Steps that are accumulated show nothing.
  stats = _of_weights(inner, state)
  found += stats
  pairs = [x.reshape(len(x), -1)[1:, 1:] for x in found]
  return all(
    np.array_equal(x[0], y[0])
    for x, y in zip(_of_weights(inner, first), stats, strict=True)
  ) and all(np.array_equal(x[::2], x[1::2]) for x in pairs)


def _compiled(function, *args):
  """Compiles for concrete arguments, so that it runs inside a trace too."""
  return jax.jit(function).lower(*args).compile()


def _of_weights(inner, state) -> list[np.ndarray]:
  kept = optax.tree.map_params(
    inner, lambda stat: stat, state, transform_non_params=lambda _: None
  )
  return [np.asarray(stat) for stat in jax.tree.leaves(kept)]
