"""Resets of the inner optimizer's state (momentum) of pruned weights.

`updates/optimizer_step.py` calls `reset` for the weights outside
`MaskChange.keep`, where the storage has `keeps_state=False`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from sparsejax.components import trees
from sparsejax.method import Layout, Masks

_PROBE_STEPS = 3
_PROBE_SCALES = (1e-3, 1e6)  # clipping acts on large gradients only


def check(
  inner: optax.GradientTransformation,
  inner_state: optax.OptState,
  masks: Masks,
  *,
  resets: bool,
) -> None:
  """Raises ValueError for an optimizer that cannot stand inside `sparsify`.

  Args:
    inner: the optimizer.
    inner_state: what its `init` returned.
    masks: the first masks.
    resets: whether the state of pruned weights is reset.
  """
  if any(
    map(_is_lookahead, jax.tree.leaves(inner_state, is_leaf=_is_lookahead))
  ):
    raise ValueError(
      "`inner` must not be `lookahead`, which steps two trees of parameters."
      " Use the optimizer inside it; to average, keep an `optax.ema` of the"
      " parameters and call `apply_masks` on it."
    )
  try:
    if resets:
      _masks_of_state(inner, inner_state, masks)
  except (ValueError, LookupError) as error:
    raise ValueError(
      "`inner` must keep a state like the parameters, where pruned weights are"
      " reset; `sm3`, `lbfgs` and this optimizer do not. Use another one, or a"
      " method whose storage keeps values."
    ) from error


def reset(
  inner: optax.GradientTransformation,
  inner_state: optax.OptState,
  keep: Masks,
  params: PyTree,
) -> optax.OptState:
  """Resets the state of weights outside a mask to that of a zero weight.

  That is 0 for momentum and Adam, but not for adagrad or rprop. Leaves
  of another shape than the weight's (factored or scalar state) belong to no
  single weight and stay. `keep` is a tree of bool like the parameters, `True`
  where the state stays, `MaskedNode` at dense leaves.
  """
  initial = inner.init(optax.tree.zeros_like(params))
  masks = _masks_of_state(inner, inner_state, keep)

  def reset_leaf(value, start, mask):
    if trees.is_masked_node(mask) or trees.is_masked_node(value):
      return value
    return jnp.where(mask, value, start) if value.shape == mask.shape else value

  return jax.tree.map(
    reset_leaf, inner_state, initial, masks, is_leaf=trees.is_masked_node
  )


def _masks_of_state(
  inner: optax.GradientTransformation, inner_state: optax.OptState, masks: Masks
) -> PyTree:
  """Returns a tree like the state, with a mask where it belongs to weights."""
  return optax.tree.map_params(
    inner,
    lambda _, mask: mask,
    inner_state,
    masks,
    transform_non_params=lambda _: optax.MaskedNode(),
    is_leaf=trees.is_masked_node,
  )


def _is_lookahead(node: Any) -> bool:
  return "fast_state" in getattr(node, "_fields", ())


def reset_all(
  inner: optax.GradientTransformation,
  inner_state: optax.OptState,
  when: Array,
  params: PyTree,
) -> optax.OptState:
  """Resets the state of all weights where `when`, bool[], is true.

  Step counts, and with them schedules, continue.
  """
  initial = inner.init(optax.tree.zeros_like(params))
  of_weights = optax.tree.map_params(
    inner, lambda _: True, inner_state, transform_non_params=lambda _: False
  )

  def reset_leaf(value, start, resets):
    return jnp.where(when, start, value) if resets else value

  return jax.tree.map(reset_leaf, inner_state, initial, of_weights)


def momentum(inner_state: optax.OptState, layout: Layout) -> list[Array]:
  """Returns the momentum of each sparse leaf, in layout order.

  That is `trace` of SGD, `mu` of others, and `mu / (sqrt(nu) + 1e-8)` where
  they have a second moment as well, as in the code of SNFS.

  Raises:
    ValueError: if a sparse leaf has none.
  """
  nodes = jax.tree.leaves(inner_state, is_leaf=_has_momentum)
  found: dict[int, Array] = {}
  for node in filter(_has_momentum, nodes):
    first = node.trace if "trace" in node._fields else node.mu
    if "nu" in node._fields:
      first = trees.map_masked(
        lambda _, mu, nu: mu / (jnp.sqrt(nu) + 1e-8), first, first, node.nu
      )
    found |= {
      index: x
      for index, x in enumerate(layout.treedef.flatten_up_to(first))
      if not trees.is_masked_node(x)
    }
  missing = [x.name for x in layout.leaves if x.index not in found]
  if missing:
    raise ValueError(
      "`inner` must have momentum for a method that reads it, got none for"
      f" {', '.join(missing)}. Use optax.sgd(..., momentum=0.9) or optax.adam,"
      " or give `snfs` its own: momentum=0.9."
    )
  return [found[leaf.index] for leaf in layout.leaves]


def _has_momentum(node: Any) -> bool:
  return bool({"trace", "mu"} & set(getattr(node, "_fields", ())))


def is_elementwise(inner: optax.GradientTransformation, params: PyTree) -> bool:
  """Whether the optimizer acts on each weight by itself.

  That is: a weight and its state depend on that weight alone, and the state of
  a zero weight does not change at a zero gradient. SGD and Adam qualify,
  clipping by a norm does not. Then the state can be reset before the inner
  step, in place; a reset after the step costs a copy of it.

  It is tested by steps on leaves with two weights along each dimension of those
  of `params`. An optimizer that cannot take them counts as not elementwise.
  """
  leaves = tuple((x.shape, x.dtype) for x in jax.tree.leaves(params))
  return _is_elementwise(inner, jax.tree.structure(params), leaves)


@functools.lru_cache
def _is_elementwise(inner, treedef, leaves) -> bool:
  params = treedef.unflatten([jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
  try:
    # The probe transfers its own numbers, even under the caller's guard.
    with jax.transfer_guard("allow"):
      return _is_per_weight(inner, params) and _steps_alone(inner, params)
  except (TypeError, ValueError, LookupError, AttributeError):
    return False


def _is_per_weight(inner, params) -> bool:
  """Whether all state has the shapes of weights; factored state has not."""
  state = jax.eval_shape(inner.init, params)
  same = optax.tree.map_params(
    inner,
    lambda value, x: trees.is_masked_node(value) or value.shape == x.shape,
    state,
    params,
    transform_non_params=lambda _: True,
    is_leaf=trees.is_masked_node,
  )
  return all(jax.tree.leaves(same))


def _steps_alone(inner, params) -> bool:
  """Takes steps from several starts at once, and compares.

  The first start is all zeros. The others come in pairs that differ in the
  first weight of each leaf alone, which is 0 in the second of a pair.
  """
  rng = np.random.default_rng(0)
  scales = np.repeat([0, *_PROBE_SCALES], [1, 2, 2])

  def random_like(leaf, scales):
    values = rng.normal(size=2**leaf.ndim) * scales[:, None]
    most = float(jnp.finfo(leaf.dtype).max)  # of float16 it is 65504
    values = values.clip(-most, most)
    values[2::2, 0] = 0
    return values.reshape(-1, *(2,) * leaf.ndim).astype(leaf.dtype)

  weights = jax.tree.map(lambda x: random_like(x, np.sign(scales)), params)
  grads = jax.tree.map(lambda x: random_like(x, scales), params)
  first = state = _compiled(jax.vmap(inner.init), weights)(weights)
  step = _compiled(jax.vmap(inner.update), grads, state, weights)
  found = []
  for _ in range(_PROBE_STEPS):
    updates, state = step(grads, state, weights)
    found += map(np.asarray, jax.tree.leaves(updates))
  if not any(update.any() for update in found):
    return False  # Gradients are accumulated; there is nothing to compare.
  last = _of_weights(inner, state)
  pairs = [x.reshape(len(x), -1)[1:, 1:] for x in found + last]
  return all(
    np.array_equal(x[0], y[0])
    for x, y in zip(_of_weights(inner, first), last, strict=True)
  ) and all(np.array_equal(x[::2], x[1::2]) for x in pairs)


def _compiled(function, *args):
  """Compiles for concrete arguments, so that it runs inside a trace too."""
  return jax.jit(function).lower(*args).compile()


def _of_weights(inner, state) -> list[np.ndarray]:
  """Returns the leaves of an optimizer state that belong to weights."""
  per_weight = optax.tree.map_params(
    inner, lambda value: value, state, transform_non_params=lambda _: None
  )
  return list(map(np.asarray, jax.tree.leaves(per_weight)))
