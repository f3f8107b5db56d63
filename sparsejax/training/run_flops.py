"""Counts of a run, and its FLOPs: weights on the device, FLOPs on the host.

The FLOPs of a step follow from the number of active weights in each leaf. Sums
of such counts over the steps exceed 32 bits, so each is stored in two words:
exact, and identical after a resume.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.analysis import flops
from sparsejax.components import trees
from sparsejax.method import DenseGradient
from sparsejax.selection import counting
from sparsejax.state import active_flags, sparse_states, stored_masks


class Counters(NamedTuple):
  """Counts of weights in the L sparse leaves and their layers, in tree order.

  A leaf whose slices are layers has several.

  Attributes:
    active: int32[L], active weights now.
    active_sums: uint32[2, 2, L], low and high words of two sums over steps of
      the active weights at the start of the step: over the steps that compute
      a sparse gradient, and over those that need the dense gradient.
    dense_gradient_steps: int32[], number of the latter.
    mask_updates: int32[], number of mask updates.
    changes: uint32[2, 2, layers], low and high words of sums over the mask
      updates, of the weights that they pruned, and regrew.
  """

  active: jax.Array
  active_sums: jax.Array
  dense_gradient_steps: jax.Array
  mask_updates: jax.Array
  changes: jax.Array


class ModelCosts(NamedTuple):
  """Multiply-adds of a model.

  Attributes:
    kernel_macs: of each of the L sparse leaves, dense, for one example.
    kernel_sizes: number of weights in each of them.
    other_macs: multiply-adds of everything else.
    batch_size: examples per step.
    table: multiply-adds of the dense network, by leaf name.
    reference_macs: what ratios are relative to: the dense network, or the one
      that a narrower network is compared with.
  """

  kernel_macs: tuple[int, ...]
  kernel_sizes: tuple[int, ...]
  other_macs: int
  batch_size: int
  table: flops.Costs
  reference_macs: int


def init(opt_state: Any) -> Counters:
  """Returns the counters before the first step."""
  active = _active(opt_state)
  return Counters(
    active=active,
    active_sums=jnp.zeros((2, 2, active.size), jnp.uint32),
    dense_gradient_steps=jnp.zeros((), jnp.int32),
    mask_updates=jnp.zeros((), jnp.int32),
    changes=jnp.zeros((2, *_changes(opt_state).shape), jnp.uint32),
  )


def count_step(
  counters: Counters, before: Any, after: Any, dense_gradient: DenseGradient
) -> Counters:
  """Count one step.

  Args:
    counters: before the step.
    before: optimizer state before the step.
    after: optimizer state after the step.
    dense_gradient: the steps at which the method reads the gradient of
      inactive weights.

  Returns:
    The counters after the step.
  """
  updated = _mask_updated(before, after)
  # Correct in any order of step and mask update, and if a step is skipped.
  needed = updated
  if dense_gradient != "at updates":
    needed = jnp.full((), dense_gradient == "every step")
  active = counters.active
  added = jnp.stack(
    [jnp.where(needed, 0, active), jnp.where(needed, active, 0)]
  )
  return Counters(
    active=_active(after),
    active_sums=_add(counters.active_sums, added),
    dense_gradient_steps=counters.dense_gradient_steps + needed,
    mask_updates=counters.mask_updates + updated,
    changes=_add(counters.changes, jnp.where(updated, _changes(after), 0)),
  )


def count_mask_update(counters: Counters, before: Any, after: Any) -> Counters:
  """Counts a mask update between two steps, if the masks were updated."""
  updated = _mask_updated(before, after)
  return counters._replace(
    active=_active(after),
    mask_updates=counters.mask_updates + updated,
    changes=_add(counters.changes, jnp.where(updated, _changes(after), 0)),
  )


def model_costs(
  model: Any, variables: Any, masks: Any, inputs: Any, *, batch_size: int
) -> ModelCosts:
  """Trace a model to count its multiply-adds.

  Args:
    model: Flax module, called with inputs and `train=`.
    variables: its collections, or their shapes.
    masks: the tree of masks, or their shapes.
    inputs: of one example, or their shapes.
    batch_size: examples per step.

  Returns:
    The costs.

  Raises:
    ValueError: if the multiply-adds of an operation are unknown.
  """
  rest = {key: value for key, value in variables.items() if key != "params"}
  table = flops.multiply_adds(
    lambda params, inputs, rest: model.apply(
      {"params": params, **rest}, inputs, train=False
    ),
    variables["params"],
    inputs,
    rest,
  )
  leaves = trees.named_leaves(masks)
  macs = tuple(table.kernels.get(name, 0) for name, _ in leaves)
  return ModelCosts(
    kernel_macs=macs,
    kernel_sizes=tuple(leaf.size for _, leaf in leaves),
    other_macs=table.dense - sum(macs),
    batch_size=batch_size,
    table=table,
    reference_macs=table.dense,
  )


def record(
  counters: Counters, steps: int, costs: ModelCosts
) -> dict[str, float]:
  """Compute the FLOPs that metrics and summaries record.

  Args:
    counters: as numpy arrays, after the steps.
    steps: number of steps taken, at least 1.
    costs: of the model.

  Returns:
    `inference_flops` of one example in the sparse network, and its ratio to
    the dense network, `inference_flops_ratio`; likewise `training_flops` of
    all steps so far and `training_flops_ratio`. One multiply-add is two FLOPs.
  """
  macs = _macs(counters.active, 1, costs)
  trained = training_macs(counters, steps, costs)
  return {
    "inference_flops": flops.FLOPS_PER_MAC * macs,
    "inference_flops_ratio": macs / costs.reference_macs,
    "training_flops": flops.FLOPS_PER_MAC * costs.batch_size * trained,
    "training_flops_ratio": trained / (3 * costs.reference_macs * steps),
  }


def training_macs(counters: Counters, steps: int, costs: ModelCosts) -> float:
  """Returns the multiply-adds of all steps, for one example per step.

  Args:
    counters: as numpy arrays, after the steps.
    steps: number of steps taken.
    costs: of the model.
  """
  sums = _whole(counters.active_sums)
  dense = int(counters.dense_gradient_steps)
  phases = [
    flops.Phase(count, _macs(active, count, costs) / count, count * is_dense)
    for active, count, is_dense in zip(
      sums, (steps - dense, dense), (False, True), strict=True
    )
    if count
  ]
  return flops.training(phases, dense=costs.table.dense)


def changes(counters: Counters) -> tuple[list[int], list[int]]:
  """Returns the weights pruned and regrown by all mask updates, per layer."""
  pruned, regrown = _whole(counters.changes)
  return pruned.tolist(), regrown.tolist()


def _add(words: jax.Array, counts: jax.Array) -> jax.Array:
  """Adds counts of at least 0 to sums of two words."""
  low, high = words
  added = low + counts.astype(jnp.uint32)
  return jnp.stack([added, high + (added < low)])


def _whole(words: Any) -> Any:
  """Returns sums of two words as Python's integers, in a numpy array."""
  low, high = np.asarray(words).astype(object)
  return low + (high << 32)


def _changes(opt_state: Any) -> jax.Array:
  """Returns int32[2, layers], what the last mask update changed."""
  states = sparse_states(opt_state)
  return jnp.concatenate([state.changes for state in states], axis=1)


def _mask_updated(before: Any, after: Any) -> jax.Array:
  """Returns bool[], whether masks were updated between the two states."""
  old, new = (sparse_states(state)[0].last_update for state in (before, after))
  return old != new


def _active(opt_state: Any) -> jax.Array:
  """Returns int32[L], the active weights of each leaf."""
  flags = active_flags(stored_masks(opt_state))
  if not flags:
    return jnp.zeros(0, jnp.int32)
  active = counting.count_each(flags)
  assert isinstance(active, jax.Array)  # `build` refuses larger leaves.
  return active


def _macs(active: Any, steps: int, costs: ModelCosts) -> float:
  """Returns multiply-adds from counts summed over steps; integers are exact."""
  return costs.other_macs * steps + sum(
    macs * int(count) / size
    for macs, count, size in zip(
      costs.kernel_macs, active, costs.kernel_sizes, strict=True
    )
  )
