"""The masks of step 0, and what accumulators start from."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import core, lax
from jaxtyping import Array, Bool, PyTree

from sparsejax.components import counts, criteria, placement
from sparsejax.components.wide_counts import Counted
from sparsejax.method import Context, Key, Layout, Leaf, Masks, Method
from sparsejax.selection import packing as packings, random_bits
from sparsejax.updates import context as contexts, pruning, requested, units


class FirstMasks(NamedTuple):
  """What the state holds of the masks at step 0.

  Attributes:
    masks: of the sparse leaves, in layout order.
    units: those of units, as in `SparseState`.
    requested: counts [1 + layers], as in `SparseState`.
  """

  masks: list[Bool[Array, "..."]]
  units: tuple[dict[str, Bool[Array, "..."]], ...]
  requested: Counted


def begin(
  method: Method,
  layout: Layout,
  key: Key | None,
  params: PyTree,
  given: Masks | None,
) -> FirstMasks:
  """Returns the first masks and the requested counts.

  Masks that are `given` take the place of the method's own.

  Raises:
    ValueError: for a missing key, budgets that contradict each other, at step 0
      or later, and given masks that divide a unit.
  """
  if not layout.leaves:
    return FirstMasks([], (), jnp.zeros(1, jnp.int32))
  prune = method.prune
  if prune is not None and not (prune.pattern and prune.pattern.sets_counts):
    requested.requested_table(method, layout)  # Raises where they contradict.
  if given is not None:
    nodes = layout.treedef.flatten_up_to(given)
    masks = [
      placement.copied(nodes[leaf.index], weight)
      for leaf, weight in zip(layout.leaves, layout.take(params), strict=True)
    ]
    return _given(method, layout, masks)
  if key is None and method.needs_key:
    raise ValueError(
      "`key` must be given, got None: this method draws at random. Pass"
      " key=jax.random.key(0) to `sparsify`."
    )
  first, counted = _first_masks(method, layout, key, layout.take(params))
  found = units.named(method, layout, counted)
  pattern = method.initial.pattern
  if pattern is not None and pattern.sets_counts:
    return FirstMasks(first, found, requested.as_found(layout, first))
  numbers = requested.first_requested(method, layout)
  on_device = requested.on_device(method, layout, numbers)
  return FirstMasks(first, found, on_device)


def _given(
  method: Method, layout: Layout, first: list[Bool[Array, "..."]]
) -> FirstMasks:
  """Returns the first masks from given ones, of weights."""
  found = method.units(layout)
  if found is None:
    return FirstMasks(first, (), requested.as_found(layout, first))
  counted = found.any(first)
  whole = found.weights(counted)
  for leaf, mask, full in zip(layout.leaves, first, whole, strict=True):
    known = not isinstance(mask, core.Tracer)
    if known and not np.array_equal(np.asarray(mask), np.asarray(full)):
      raise ValueError(
        f"`masks` divide a unit of {leaf.name!r}: the weights of a filter or"
        " block are active together. Give masks of this `granularity`."
      )
  return FirstMasks(
    whole,
    units.named(method, layout, counted),
    requested.as_found(found.layout, counted),
  )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _first_masks(
  method: Method, layout: Layout, key: Key | None, weights: Sequence[Array]
) -> tuple[list[Bool[Array, "..."]], list[Bool[Array, "..."]]]:
  """Returns the masks of step 0, each placed as its weights are, and of units.

  There are none of units where weights are the units.
  """
  first, found = first_masks(method, layout, key, weights), method.units(layout)
  masks = first if found is None else found.weights(first)
  pairs = zip(masks, weights, strict=True)
  placed = [placement.alike(mask, weight) for mask, weight in pairs]
  return placed, [] if found is None else first


def first_masks(
  method: Method,
  layout: Layout,
  key: Key | None,
  weights: Sequence[Array],
) -> list[Bool[Array, "..."]]:
  """Returns the masks of step 0: dense, by pattern, or by exact counts.

  They are those of the units, where several weights are one.
  """
  initial, counted = method.initial, method.counted(layout)
  if initial.pattern is not None:
    leaves = _dense_leaves(method, layout, weights)
    first = initial.pattern.first
    return [first(criteria.magnitude(leaf), leaf) for leaf in leaves]
  if method.initial_sparsity == 0:
    # XLA would fold what is counted of constants, 5 CPU seconds per million.
    ones = [jnp.ones(leaf.shape, bool) for leaf in counted.leaves]
    return lax.optimization_barrier(ones)
  packed = contexts.packing_of(method, counted)
  if initial.criterion is None:
    assert key is not None  # `begin` requires one.
    wide = counts.limbs_of_all(counted) is not None
    if not (layout.sharded or wide or method.granularity.quota):
      packed = packings.blocks(counted)
    scores = random_bits.bits(counted, packed, key, 0, random_bits.FIRST_MASKS)
  else:
    scores = _first_scores(method, layout, key, weights, packed)
  first = pruning.keep_highest(
    initial.scope,
    counted,
    packed,
    scores,
    requested.first_counts(method, layout),
    packed.is_weight(),
    method.granularity.quota,
  )
  return packed.unpack(first)


def _first_scores(
  method: Method,
  layout: Layout,
  key: Key | None,
  weights: Sequence[Array],
  packed: packings.Packing,
) -> Sequence[Any]:
  """Returns the scores of the initial criterion, packed."""
  criterion = method.initial.criterion
  assert criterion is not None  # The caller asked.
  leaves = _dense_leaves(method, layout, weights)
  zero = jnp.zeros((), jnp.int32)
  context = Context(layout, leaves, zero, key, None, {})
  found = method.units(layout)
  if found is not None and criterion.is_elementwise:
    return packed.pack(units.score(found, criterion, leaves))
  ones = [jnp.ones(x.shape, bool) for x in method.counted(layout).leaves]
  counted = units.with_units(method, context, ones).counted
  return contexts.pack(counted, packed).score(
    criterion, random_bits.FIRST_MASKS
  )


def _dense_leaves(
  method: Method, layout: Layout, weights: Sequence[Array]
) -> list[Leaf]:
  """Returns what parts see of the leaves before there are masks."""
  active = [jnp.ones(leaf.shape, bool) for leaf in layout.leaves]
  return contexts.leaves_of(method, layout, weights, None, active, {})


def start_accumulators(
  method: Method, layout: Layout, params: PyTree, first: FirstMasks
) -> dict[str, PyTree]:
  """Returns by name what the accumulators of a method hold at step 0."""
  weights = layout.take(params)
  leaves = contexts.leaves_of(method, layout, weights, None, first.masks, {})
  zero = jnp.zeros((), jnp.int32)
  context = Context(layout, leaves, zero, None, None, {})
  if layout.leaves:
    masks = [mask for each in first.units for mask in each.values()]
    context = units.with_units(method, context, masks)
  return {each.name: each.init(context) for each in method.all_accumulators}
