"""The masks of step 0, and what accumulators start from."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree

from sparsejax.components import criteria, placement, scopes
from sparsejax.components.counts import INT32_MAX
from sparsejax.method import Context, Key, Layout, Masks, Method
from sparsejax.selection import packing as packings, random_bits, search
from sparsejax.updates import context as contexts, requested


def begin(
  method: Method,
  layout: Layout,
  key: Key | None,
  params: PyTree,
  given: Masks | None,
) -> tuple[list[Bool[Array, "..."]], Int[Array, " counts"]]:
  """Returns the first masks, in layout order, and the requested counts.

  Masks that are `given` take the place of the method's own.

  Raises:
    ValueError: for a missing key, and budgets that contradict each other, at
      step 0 or later.
  """
  if not layout.leaves:
    return [], jnp.zeros(1, jnp.int32)
  prune = method.prune
  if prune is not None and not (prune.pattern and prune.pattern.sets_counts):
    requested.requested_table(method, layout)  # Raises where they contradict.
  if given is not None:
    nodes = layout.treedef.flatten_up_to(given)
    first = [jnp.array(nodes[leaf.index], bool) for leaf in layout.leaves]
    return first, requested.as_found(layout, first)
  if key is None and method.needs_key:
    raise ValueError(
      "`key` must be given, got None: this method draws at random. Pass"
      " key=jax.random.key(0) to `sparsify`."
    )
  first = _first_masks(method, layout, key, layout.take(params))
  pattern = method.initial.pattern
  if pattern is not None and pattern.sets_counts:
    return first, requested.as_found(layout, first)
  return first, jnp.array(requested.first_requested(method, layout))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _first_masks(
  method: Method, layout: Layout, key: Key | None, weights: Sequence[Array]
) -> list[Bool[Array, "..."]]:
  """Returns the masks of step 0, each placed as its weights are."""
  pairs = zip(first_masks(method, layout, key, weights), weights, strict=True)
  return [placement.alike(mask, weight) for mask, weight in pairs]


def first_masks(
  method: Method,
  layout: Layout,
  key: Key | None,
  weights: Sequence[Array],
) -> list[Bool[Array, "..."]]:
  """Returns the masks of step 0: dense, by pattern, or by exact counts."""
  initial = method.initial
  active = [jnp.ones(leaf.shape, bool) for leaf in layout.leaves]
  leaves = contexts.leaves_of(method, layout, weights, None, active, {})
  if initial.pattern is not None:
    first = initial.pattern.first
    return [first(criteria.magnitude(leaf), leaf) for leaf in leaves]
  if method.initial_sparsity == 0:
    # XLA would fold what is counted of constants, 5 CPU seconds per million.
    return lax.optimization_barrier(active)
  zero = jnp.zeros((), jnp.int32)
  packed = packings.packing_for(layout)
  if initial.criterion is None:
    assert key is not None  # `begin` requires one.
    if not layout.sharded and sum(layout.sizes) <= INT32_MAX:
      packed = packings.blocks(layout)
    scores = random_bits.bits(layout, packed, key, 0, random_bits.FIRST_MASKS)
  else:
    context = Context(layout, leaves, zero, key, None, {})
    scores = contexts.pack(context, packed).score(
      initial.criterion, random_bits.FIRST_MASKS
    )
  first = search.select(
    scores,
    requested.first_counts(method, layout),
    packed.groups(scopes.groups_of(initial.scope, layout)),
    valid=packed.is_weight(),
  )
  return packed.unpack(first)


def start_accumulators(
  method: Method, layout: Layout, params: PyTree, masks: Sequence[Array]
) -> dict[str, PyTree]:
  """Returns by name what the accumulators of a method hold at step 0."""
  weights = layout.take(params)
  leaves = contexts.leaves_of(method, layout, weights, None, masks, {})
  zero = jnp.zeros((), jnp.int32)
  context = Context(layout, leaves, zero, None, None, {})
  return {each.name: each.init(context) for each in method.all_accumulators}
