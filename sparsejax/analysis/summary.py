"""Summary: sparsity per layer and in total, requested and achieved."""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from sparsejax.analysis.counted import (
  DenseLeaf,
  LayerSummary,
  Summary,
  UnitSummary,
)
from sparsejax.analysis.flops import Costs
from sparsejax.components import (
  alignment,
  kernels,
  leaves,
  trees,
  wide_counts,
)
from sparsejax.components.accumulators import ever_active
from sparsejax.components.wide_counts import Counted
from sparsejax.method import Layout
from sparsejax.selection import counting
from sparsejax.selection.groups import Groups, each_layer
from sparsejax.state import (
  SparseState,
  active_flags,
  get_masks,
  held_masks,
  mask_nodes,
  sparse_states,
  stored_masks,
  unit_masks,
)

_ADVICE = (
  "keep one in every layer:"
  " scope=sparsejax.keep_alive(sparsejax.global_scope, 1)"
)


def summary(
  params: PyTree,
  opt_state: optax.OptState,
  *,
  costs: Costs | Mapping[str, int | float] | None = None,
) -> Summary:
  """Counts weights on the host: per layer and in total, requested and achieved.

  Args:
    params: the parameters that the optimizer state belongs to, or the model of
      NNX or Equinox that holds them. Of shapes, only the masks are counted.
    opt_state: has one `SparseState`, or several for separate leaves; the state
      of an optimizer, an `nnx.Optimizer`, or what `vmap` made of them.
    costs: of the dense network, from `flops.multiply_adds`, or leaf name ->
      multiply-adds for one example; None for a summary without FLOPs.

  Returns:
    Integer counts; sparsities are computed from them in float64. Networks under
    `vmap` are counted one by one, and their layers called `0: a/kernel`.

  Raises:
    ValueError: if there is no `SparseState`, `costs` names no leaf, or the
      parameters are not those of the state.
  """
  states = sparse_states(opt_state)
  params = alignment.params_like(params, get_masks(states))
  if jnp.ndim(states[0].step):
    return _of_networks(params, states, costs)
  macs = costs.kernels if isinstance(costs, Costs) else costs or {}
  names = [name for name, _ in trees.named_leaves(params)]
  unknown = set(macs) - set(names)
  if unknown:
    raise ValueError(
      f"`costs` names {sorted(unknown)}, which are no leaves. Leaves:"
      f" {', '.join(names)}."
    )
  layers, units, requested = [], [], 0
  for state in states:
    layers += _layers(params, state, macs)
    units += _units(state)
    requested += int(np.maximum(np.asarray(state.requested), 0).sum())
  layers.sort(key=lambda x: names.index(x.name.split("[")[0]))
  other_macs = None
  if costs is not None:
    sparse = {x.name.split("[")[0] for x in layers}
    other_macs = math.fsum(macs[name] for name in set(macs) - sparse)
    other_macs += costs.others if isinstance(costs, Costs) else 0
  return Summary(
    tuple(layers),
    requested,
    sum(leaf.size for leaf in jax.tree.leaves(params)),
    other_macs,
    _extra_bytes(states),
    tuple(_warnings(layers, units, requested)),
    _dense_leaves(params, states),
    tuple(_notes(params, layers)),
    tuple(units),
  )


def stats(opt_state: optax.OptState) -> dict[str, Counted]:
  """Returns counts as scalars, for logging inside jit.

  They are int32, or have two limbs where there are more than 2^31 - 1 weights;
  `int(count)` is exact for both. The sparsity is `1 - active / total`; compute
  it on the host, in float64.

  Returns:
    `active`, `total`, `requested`, `step` and `last_update` (-1 before the
    first mask update), `ever_active` if it is tracked, and `active_units` and
    `total_units` where units are pruned as one; `requested` counts those.

  Raises:
    ValueError: if the state has no masks.
  """
  nodes = mask_nodes(stored_masks(opt_state))
  limbs = wide_counts.limbs_for(sum(mask.size for mask in nodes))
  return {
    key: wide_counts.total(counts, limbs) if counts.shape else counts
    for key, counts in leaf_stats(opt_state).items()
  }


def leaf_stats(opt_state: optax.OptState) -> dict[str, Counted]:
  """Returns counts whose sums are those of `stats`, of any number of weights.

  Returns:
    As `stats`: `step` and `last_update` are scalars, all others have the counts
    of single leaves or layers, int32[n] or limbs, to be summed on the host.

  Raises:
    ValueError: if the state has no masks.
  """
  states = sparse_states(opt_state)
  masks = [mask for state in states for mask in mask_nodes(state.masks)]
  out = {
    "active": _each([x for s in states for x in active_flags(s.masks)]),
    "total": _on_device([mask.size for mask in masks]),
    "requested": wide_counts.concatenate(
      [wide_counts.maximum(state.requested, 0) for state in states]
    ),
    "step": states[0].step,
    "last_update": states[0].last_update,
  }
  units = [mask for state in states for mask in unit_masks(state)]
  if units:
    out["total_units"] = jnp.int32(sum(mask.size for mask in units))
    counts = [jnp.sum(mask, dtype=jnp.int32) for mask in units]
    out["active_units"] = jnp.sum(jnp.stack(counts), dtype=jnp.int32)
  name = ever_active.name
  if all(name in state.accumulators for state in states):
    found = [s.accumulators[name] for s in states]
    out[name] = _each([leaf for x in found for leaf in jax.tree.leaves(x)])
  return out


def _on_device(sizes: Sequence[int]) -> Counted:
  limbs = wide_counts.limbs_for(max(sizes, default=0))
  return wide_counts.on_device(sizes, limbs)


def _each(masks: list[Array]) -> Counted:
  return counting.count_each(masks) if masks else jnp.zeros(0, jnp.int32)


def assert_sparse(params: PyTree, opt_state: optax.OptState) -> None:
  """Raises AssertionError unless every inactive weight is exactly 0.

  Catches what moves weights after `sparsify`: a transformation chained after
  it, averaged or looked-ahead parameters, a restored dense checkpoint.
  """
  params = alignment.plain(params)
  nonzero = trees.map_masked(
    lambda m, p: np.asarray(_each([~m & (p != 0)])),
    alignment.masks_like(held_masks(opt_state), params),
    params,
    dense=lambda p: None,
  )
  bad = {n: int(c[0]) for n, c in trees.named_leaves(nonzero) if c[0]}
  if bad:
    listed = ", ".join(f"{name} ({count})" for name, count in bad.items())
    raise AssertionError(
      f"`params` has inactive weights that are not 0: {listed}. Keep `sparsify`"
      " last in the chain and call `apply_masks` once after `init`."
    )


def _of_networks(
  params: PyTree, states: Sequence[SparseState], costs: Any
) -> Summary:
  """Counts the networks that trained under `vmap`, one after another."""

  def network(i: int) -> Summary:
    own = jax.tree.map(lambda x: x[i], (params, states))
    return summary(*own, costs=costs)

  found = [network(i) for i in range(len(states[0].step))]
  sizes: Counter[str] = Counter()
  for each in found:
    sizes.update(each.extra_bytes)
  others = [each.other_macs for each in found]
  return Summary(
    tuple(
      layer._replace(name=f"{i}: {layer.name}")
      for i, each in enumerate(found)
      for layer in each.layers
    ),
    sum(each.requested for each in found),
    sum(each.parameters for each in found),
    None if None in others else math.fsum(x or 0 for x in others),
    dict(sizes),
    tuple(f"{i}: {w}" for i, each in enumerate(found) for w in each.warnings),
    found[0].dense,
    found[0].notes,
    tuple(
      units._replace(name=f"{i}: {units.name}")
      for i, each in enumerate(found)
      for units in each.units
    ),
  )


def _layout(params: PyTree, state: SparseState) -> Layout:
  """Returns the layout of a state, with the layer axes that it records."""
  masks = alignment.masks_like(state.masks, params)
  layout = leaves.find_layout(params, None, None, masks)
  pairs = zip(layout.leaves, np.asarray(state.axes).tolist(), strict=True)
  with_axes = [
    dataclasses.replace(leaf, axis=axis if axis >= 0 else None)
    for leaf, axis in pairs
  ]
  return dataclasses.replace(layout, leaves=tuple(with_axes))


def _layers(
  params: PyTree, state: SparseState, costs: Mapping[str, int | float]
) -> list[LayerSummary]:
  layout = _layout(params, state)
  if not layout.leaves:
    return []
  groups = each_layer(layout.axes, layout.sizes, sharded=layout.sharded)
  active = np.asarray(_count(active_flags(state.masks), groups)).tolist()
  moved = [0] * len(active)
  weights = layout.take(params)
  if not any(isinstance(x, jax.ShapeDtypeStruct) for x in weights):
    masks = jax.tree.leaves(state.masks)
    moved = np.asarray(_count_moved(masks, weights, groups)).tolist()
  ever = [None] * len(active)
  if ever_active.name in state.accumulators:
    tree = state.accumulators[ever_active.name]
    ever = np.asarray(_count(jax.tree.leaves(tree), groups)).tolist()
  requested = [None] * len(active)  # It counts units where there are some.
  if not state.units:
    each = np.asarray(state.requested)[1:].tolist()
    requested = [a if a >= 0 else None for a in each]
  macs = [
    costs[leaf.name] / leaf.num_layers if leaf.name in costs else None
    for leaf in layout.leaves
    for _ in range(leaf.num_layers)
  ]
  counted = zip(layout.sizes, active, requested, ever, macs, moved, strict=True)
  named = zip(layout.shapes.items(), counted, strict=True)
  return [LayerSummary(*layer, *numbers) for layer, numbers in named]


# Functions of the module, because jax compiles anew for each new function.
@functools.partial(jax.jit, static_argnames="groups")
def _count(masks: list[Array], groups: Groups) -> Counted:
  return counting.count_active(masks, groups)


@functools.partial(jax.jit, static_argnames="groups")
def _count_moved(
  masks: list[Array], weights: list[Array], groups: Groups
) -> Counted:
  """Counts the inactive weights that are not 0."""
  pairs = zip(masks, weights, strict=True)
  return counting.count_active([~m & (p != 0) for m, p in pairs], groups)


def _units(state: SparseState) -> list[UnitSummary]:
  """Returns the counts of units, one entry per layer in tree order."""
  layers, axes = [], np.asarray(state.axes).tolist()
  stacked = any(axis >= 0 for axis in axes)  # Arrays are then one per leaf.
  for number, each in enumerate(state.units):
    ((name, mask),) = each.items()
    flags, axis = np.asarray(mask), axes[number] if stacked else -1
    if axis < 0:
      layers.append((name, flags))
      continue
    slices = np.moveaxis(flags, min(axis, flags.ndim - 2), 0)
    layers += [(f"{name}[{i}]", x) for i, x in enumerate(slices)]
  requested = np.asarray(state.requested)[1:].tolist() if layers else []
  return [
    UnitSummary(name, x.size, int(x.sum()), k if k >= 0 else None)
    for (name, x), k in zip(layers, requested, strict=True)
  ]


def _extra_bytes(states: Sequence[SparseState]) -> dict[str, int]:
  sizes: dict[str, int] = {}
  for state in states:
    parts = {"masks": state.masks, "units": state.units}
    parts |= {"latent": state.latent, "followers": state.followers}
    parts |= state.accumulators
    for name, tree in parts.items():
      size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
      if size:
        sizes[name] = sizes.get(name, 0) + size
  return sizes


def _warnings(
  layers: Sequence[LayerSummary], units: Sequence[UnitSummary], requested: int
) -> list[str]:
  moved = sum(x.inactive_nonzero for x in layers)
  texts = []
  if moved:
    active, total = sum(x.active for x in layers), sum(x.total for x in layers)
    texts.append(
      f"{moved} inactive weights are not 0 in `params`, whose sparsity is"
      f" {1 - (active + moved) / total:.2%} and not {1 - active / total:.2%}."
      " Call `apply_masks` once after `init`, and on an average of parameters;"
      " chain nothing after `sparsify`, and put no `lookahead` or"
      " `schedule_free` around it"
    )
  texts += [
    f"{x.name} has no active weight; {_ADVICE}" for x in layers if not x.active
  ]
  active = sum(x.active for x in units or layers)
  if active != requested:
    what = "units" if units else "weights"
    texts.append(
      f"{requested} {what} were requested, {active} are active. A method that"
      " does not prune keeps the count of the masks it starts from: give a new"
      " method its own masks (docs/troubleshooting.md)"
    )
  return texts


def _dense_leaves(
  params: PyTree, states: Sequence[SparseState]
) -> tuple[DenseLeaf, ...]:
  """Returns the leaves without a mask that might have one, and why not."""
  masks = alignment.masks_like(get_masks(states), params)
  named = trees.named_leaves(params)
  flags = leaves.sparse_flags(params, masks)
  reasons = kernels.dense_reasons(named)
  return tuple(
    DenseLeaf(name, tuple(leaf.shape), why or "by `select` or `overrides`")
    for (name, leaf), sparse, why in zip(named, flags, reasons, strict=True)
    if not sparse and sum(size > 1 for size in leaf.shape) > 1
  )


def _notes(params: PyTree, layers: Sequence[LayerSummary]) -> Iterator[str]:
  """Yields a note for each leaf that looks like a stack of layers."""
  shapes = {name: x.shape for name, x in trees.named_leaves(params)}
  for layer in layers:
    if layer.name in shapes and kernels.is_stack(layer.name, shapes):
      yield (
        f"{layer.name} looks like {layer.shape[0]} stacked layers and is"
        " counted as one. Give each its own budget with `sparsify(...,"
        f" overrides={{{layer.name!r}: sparsejax.Override(axis=0)}})`"
      )
