"""What a run has cost so far: counted on the device, priced on the host.

The cost of a step follows from the number of active weights of each leaf. Their
sums over the steps outgrow 32 bits, so they are held in two words: exact, and
after a resume the same as in a run that was never stopped.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import sparsejax
from sparsejax.analysis import flops
from sparsejax.components import trees
from sparsejax.selection import search as masks_lib
from sparsejax.updates.gradients import DenseGradient


class Meter(NamedTuple):
  """Counts of active weights, of the L sparse leaves in tree order.

  Attributes:
    active: int32[L], weights that are on.
    spent: uint32[2, 2, L], low and high words of two sums over the steps of
      the weights that were on when the step began: over steps that needed the
      gradient of those alone, and over steps that needed all of it.
    dense_gradients: int32[], number of the latter steps.
    mask_updates: int32[], number of steps that updated masks.
  """

  active: jax.Array
  spent: jax.Array
  dense_gradients: jax.Array
  mask_updates: jax.Array


class Prices(NamedTuple):
  """What a network costs, with and without its masks.

  Attributes:
    macs: multiply-adds for one example of each of the L sparse leaves, dense.
    sizes: weights of each of them.
    other_macs: multiply-adds of everything else.
    batch_size: examples of a step.
    costs: of the dense network, by name of the leaf.
    reference: multiply-adds of the network that ratios are to: the dense one,
      or that which a narrower one stands for.
  """

  macs: tuple[int, ...]
  sizes: tuple[int, ...]
  other_macs: int
  batch_size: int
  costs: flops.Costs
  reference: int


def start(opt_state: Any) -> Meter:
  """Returns the meter of a run that has not taken a step."""
  active = _count(opt_state)
  return Meter(
    active=active,
    spent=jnp.zeros((2, 2, active.size), jnp.uint32),
    dense_gradients=jnp.zeros((), jnp.int32),
    mask_updates=jnp.zeros((), jnp.int32),
  )


def advance(
  meter: Meter, before: Any, after: Any, dense_gradient: DenseGradient
) -> Meter:
  """Count one step.

  Args:
    meter: before the step.
    before: the optimizer's state before it.
    after: and after it.
    dense_gradient: in which steps the method reads the gradient of weights
      that are off.

  Returns:
    The meter after the step.
  """
  updated = _updated(before, after)
  # Whether masks or step come first, and whether a step was spent.
  needed = updated
  if dense_gradient != "at updates":
    needed = jnp.full((), dense_gradient == "every step")
  low, high = meter.spent
  active = meter.active.astype(jnp.uint32)
  added = low + jnp.stack(
    [jnp.where(needed, 0, active), jnp.where(needed, active, 0)]
  )
  return Meter(
    active=_count(after),
    spent=jnp.stack([added, high + (added < low)]),
    dense_gradients=meter.dense_gradients + needed,
    mask_updates=meter.mask_updates + updated,
  )


def prices(
  model: Any,
  variables: Any,
  masks: Any,
  image: Any,
  *,
  batch_size: int,
) -> Prices:
  """Trace a model to see what it costs.

  Args:
    model: a Flax module whose call takes images and `train=`.
    variables: its collections, or their shapes.
    masks: the tree of masks, or their shapes.
    image: float[1, H, W, C], or its shape.
    batch_size: examples of a step.

  Returns:
    The prices.

  Raises:
    ValueError: if the model has a product that cannot be counted.
  """
  rest = {key: value for key, value in variables.items() if key != "params"}
  found = flops.multiply_adds(
    lambda params, image, rest: model.apply(
      {"params": params, **rest}, image, train=False
    ),
    variables["params"],
    image,
    rest,
  )
  leaves = trees.named_leaves(masks)
  macs = tuple(found.kernels.get(name, 0) for name, _ in leaves)
  return Prices(
    macs=macs,
    sizes=tuple(leaf.size for _, leaf in leaves),
    other_macs=found.dense - sum(macs),
    batch_size=batch_size,
    costs=found,
    reference=found.dense,
  )


def row(meter: Meter, steps: int, prices: Prices) -> dict[str, float]:
  """Price what a meter shows, as it is recorded.

  Args:
    meter: its fields as numpy arrays, after the steps.
    steps: number of steps taken, at least 1.
    prices: of the network.

  Returns:
    `inference_flops` of one example through the sparse network and its share
    `inference_flops_ratio` of the dense one; likewise `training_flops` of all
    steps so far and `training_flops_ratio`. A multiply-add is two FLOPs.
  """
  macs = _sum(meter.active, 1, prices)
  spent = training(meter, steps, prices)
  return {
    "inference_flops": flops.FLOPS_PER_MAC * macs,
    "inference_flops_ratio": macs / prices.reference,
    "training_flops": flops.FLOPS_PER_MAC * prices.batch_size * spent,
    "training_flops_ratio": spent / (3 * prices.reference * steps),
  }


def training(meter: Meter, steps: int, prices: Prices) -> float:
  """Returns multiply-adds of all steps, for one example a step.

  Args:
    meter: its fields as numpy arrays, after the steps.
    steps: number of steps taken.
    prices: of the network.
  """
  low, high = np.asarray(meter.spent).astype(object)
  counts = low + (high << 32)
  full = int(meter.dense_gradients)
  phases = [
    flops.Phase(number, _sum(sums, number, prices) / number, number * is_full)
    for sums, number, is_full in zip(
      counts, (steps - full, full), (False, True), strict=True
    )
    if number
  ]
  return flops.training(phases, dense=prices.costs.dense)


def _updated(before: Any, after: Any) -> jax.Array:
  """Returns bool[], whether there was a mask update in between."""
  old, new = (
    sparsejax.stats(state)["last_update"] for state in (before, after)
  )
  return old != new


def _count(opt_state: Any) -> jax.Array:
  """Returns int32[L], the active weights of each leaf."""
  masks = jax.tree.leaves(sparsejax.get_masks(opt_state))
  if not masks:
    return jnp.zeros(0, jnp.int32)
  return masks_lib.count_active(
    masks, masks_lib.each_layer([None] * len(masks), len(masks))
  )


def _sum(active: Any, steps: int, prices: Prices) -> float:
  """Prices counts that were summed over some steps; exact up to the end."""
  return prices.other_macs * steps + sum(
    macs * int(count) / size
    for macs, count, size in zip(prices.macs, active, prices.sizes, strict=True)
  )
