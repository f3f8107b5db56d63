"""Summary: sparsity per layer and in total, requested and achieved."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree

from sparsejax.analysis.flops import FLOPS_PER_MAC, Costs
from sparsejax.components import leaves, trees
from sparsejax.components.accumulators import ever_active
from sparsejax.components.counts import INT32_MAX
from sparsejax.method import Layout
from sparsejax.selection import search
from sparsejax.state import (
  SparseState,
  active_flags,
  get_masks,
  mask_nodes,
  sparse_states,
  stored_masks,
)

_COLUMNS = ("layer", "shape", "weights", "active", "requested", "sparsity")


class LayerSummary(NamedTuple):
  """Counts of one layer.

  Attributes:
    name: of the leaf, with `[i]` where its slices are layers.
    shape: of the layer.
    total: weights.
    active: active weights.
    requested: requested weights; None where the layer shares a budget with
      others.
    ever_active: weights that were ever active; None if that is not tracked.
    macs: multiply-adds of the dense layer for one example; None if unknown.
  """

  name: str
  shape: tuple[int, ...]
  total: int
  active: int
  requested: int | None
  ever_active: int | None
  macs: float | None

  @property
  def sparsity(self) -> float:
    """Fraction of zeros, in [0, 1]."""
    return 1 - self.active / self.total


class Summary(NamedTuple):
  """Counts of a network; prints as a table.

  Attributes:
    layers: one entry per sparse layer, in tree order.
    requested: requested weights at the last mask update, in total.
    parameters: all parameters, dense leaves included.
    other_macs: multiply-adds for one example that no mask reduces: of dense
      leaves, and of products without a leaf; None if unknown.
    extra_bytes: by name, the memory that the method adds to that of dense
      training: `masks`, `latent`, and each accumulator.
    warnings: layers without active weights, counts other than requested.
  """

  layers: tuple[LayerSummary, ...]
  requested: int
  parameters: int
  other_macs: float | None
  extra_bytes: dict[str, int]
  warnings: tuple[str, ...]

  @property
  def total(self) -> int:
    """Weights of all sparse layers, N."""
    return sum(layer.total for layer in self.layers)

  @property
  def active(self) -> int:
    """Active weights of all sparse layers."""
    return sum(layer.active for layer in self.layers)

  @property
  def sparsity(self) -> float:
    """Fraction of zeros among the weights of sparse layers."""
    return _share(self.total - self.active, self.total)

  @property
  def itop_rate(self) -> float | None:
    """Share of the weights that were ever active; None if not tracked."""
    if any(layer.ever_active is None for layer in self.layers):
      return None
    return _share(sum(x.ever_active or 0 for x in self.layers), self.total)

  @property
  def dense_macs(self) -> float | None:
    """Multiply-adds of the dense network for one example."""
    if self.other_macs is None:
      return None
    return self.other_macs + math.fsum(x.macs or 0 for x in self.layers)

  @property
  def macs(self) -> float | None:
    """Multiply-adds of the sparse network for one example."""
    if self.other_macs is None:
      return None
    return self.other_macs + math.fsum(
      (x.macs or 0) * x.active / x.total for x in self.layers
    )

  @property
  def flops(self) -> float | None:
    """FLOPs of the sparse network for one example, 2 per multiply-add."""
    return None if self.macs is None else FLOPS_PER_MAC * self.macs

  def __str__(self) -> str:
    """Returns the table."""
    rows = [
      _COLUMNS,
      *(_row(x.name, "x".join(map(str, x.shape)), x) for x in self.layers),
      _row("total", "", self),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, shape, *numbers in rows:
      cells = [name.ljust(widths[0]), shape.ljust(widths[1])]
      cells += map(str.rjust, numbers, widths[2:])
      lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * (sum(widths) + 2 * len(widths) - 2))
    masked = _share(self.total - self.active, self.parameters)
    lines.append(
      f"{masked:.4%} of all {self.parameters:,} parameters are masked"
    )
    if self.itop_rate is not None:
      lines.append(f"ever active: {self.itop_rate:.4%}")
    if self.macs is not None and self.dense_macs:
      ratio = self.macs / self.dense_macs
      lines.append(f"FLOPs per example: {self.flops:.4g}, {ratio:.4f} of dense")
    sizes = ", ".join(
      f"{name} {size / max(self.total, 1):.3g}"
      for name, size in self.extra_bytes.items()
    )
    lines.append(f"extra bytes per weight: {sizes}")
    lines.extend(f"warning: {text}" for text in self.warnings)
    return "\n".join(lines)


def summary(
  params: PyTree,
  opt_state: optax.OptState,
  *,
  costs: Costs | Mapping[str, int | float] | None = None,
) -> Summary:
  """Counts weights on the host: per layer and in total, requested and achieved.

  Args:
    params: the tree that the optimizer state belongs to.
    opt_state: has one `SparseState`, or several for separate leaves.
    costs: of the dense network, from `flops.multiply_adds`, or leaf name ->
      multiply-adds for one example; None for a summary without FLOPs.

  Returns:
    Integer counts; sparsities are computed from them in float64.

  Raises:
    ValueError: if there is no `SparseState`, or `costs` names no leaf.
  """
  macs = costs.kernels if isinstance(costs, Costs) else costs or {}
  names = [name for name, _ in trees.named_leaves(params)]
  unknown = set(macs) - set(names)
  if unknown:
    raise ValueError(
      f"`costs` names {sorted(unknown)}, which are no leaves. Leaves:"
      f" {', '.join(names)}."
    )
  layers, requested, states = [], 0, sparse_states(opt_state)
  for state in states:
    found = _layers(params, state, macs)
    layers += found
    requested += int(state.requested[0]) + sum(x.requested or 0 for x in found)
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
    tuple(_warnings(layers, requested)),
  )


def stats(opt_state: optax.OptState) -> dict[str, Int[Array, ""]]:
  """Returns counts as int32 scalars, for logging inside jit.

  Returns:
    `active`, `total`, `requested`, `step` and `last_update` (-1 before the
    first mask update), and `ever_active` if it is tracked. The sparsity is
    `1 - active / total`; compute it on the host, in float64.

  Raises:
    ValueError: if the state has no masks, or more than 2^31 - 1 weights, whose
      counts do not fit; `summary` counts those.
  """
  states, masks = sparse_states(opt_state), stored_masks(opt_state)
  total = sum(mask.size for mask in mask_nodes(masks))
  if total > INT32_MAX:
    raise ValueError(
      f"`opt_state` has masks for {total} weights; counts on the device end"
      f" at {INT32_MAX}. Use `summary`, on the host."
    )
  out = {
    "active": sum(_active(state.masks) for state in states),
    "total": jnp.int32(total),
    "requested": sum(
      jnp.sum(jnp.maximum(s.requested, 0), dtype=jnp.int32) for s in states
    ),
    "step": states[0].step,
    "last_update": states[0].last_update,
  }
  name = ever_active.name
  if all(name in state.accumulators for state in states):
    out[name] = sum(_active(state.accumulators[name]) for state in states)
  return out


def assert_sparse(params: PyTree, opt_state: optax.OptState) -> None:
  """Raises AssertionError unless every inactive weight is exactly 0.

  Catches what moves weights after `sparsify`: a transformation chained after
  it, averaged or looked-ahead parameters, a restored dense checkpoint.
  """
  nonzero = trees.map_masked(
    lambda m, p: jnp.sum(~m & (p != 0), dtype=jnp.int32),
    get_masks(opt_state),
    params,
    dense=lambda p: None,
  )
  bad = {n: int(c) for n, c in trees.named_leaves(nonzero) if int(c)}
  if bad:
    listed = ", ".join(f"{name} ({count})" for name, count in bad.items())
    raise AssertionError(
      f"`params` has inactive weights that are not 0: {listed}. Keep `sparsify`"
      " last in the chain and call `apply_masks` once after `init`."
    )


def _share(part: int, whole: int) -> float:
  return part / whole if whole else 0.0


def _row(name: str, shape: str, x: LayerSummary | Summary) -> tuple[str, ...]:
  requested = "-" if x.requested is None else f"{x.requested:,}"
  numbers = (f"{x.total:,}", f"{x.active:,}", requested, f"{x.sparsity:.4%}")
  return (name, shape, *numbers)


def _active(masks: PyTree) -> Int[Array, ""]:
  counts = search.count_each(active_flags(masks))
  return jnp.sum(counts, dtype=jnp.int32)


def _layout(params: PyTree, state: SparseState) -> Layout:
  """Returns the layout of a state, with the layer axes that it records."""
  layout = leaves.find_layout(params, None, None, state.masks)
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
  each_layer = search.each_layer(
    layout.axes, len(layout.sizes), sharded=layout.sharded
  )
  count = jax.jit(lambda masks: search.count_active(masks, each_layer))
  active = np.asarray(count(active_flags(state.masks))).tolist()
  ever = [None] * len(active)
  if ever_active.name in state.accumulators:
    tree = state.accumulators[ever_active.name]
    ever = np.asarray(count(jax.tree.leaves(tree))).tolist()
  requested = [a if a >= 0 else None for a in state.requested[1:].tolist()]
  macs = [
    costs[leaf.name] / leaf.num_layers if leaf.name in costs else None
    for leaf in layout.leaves
    for _ in range(leaf.num_layers)
  ]
  counted = zip(layout.sizes, active, requested, ever, macs, strict=True)
  named = zip(layout.shapes.items(), counted, strict=True)
  return [LayerSummary(*layer, *numbers) for layer, numbers in named]


def _extra_bytes(states: Sequence[SparseState]) -> dict[str, int]:
  sizes: dict[str, int] = {}
  for state in states:
    parts = {"masks": state.masks, "latent": state.latent, **state.accumulators}
    for name, tree in parts.items():
      size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
      if size:
        sizes[name] = sizes.get(name, 0) + size
  return sizes


def _warnings(layers: Sequence[LayerSummary], requested: int) -> list[str]:
  texts = [
    f"{x.name} has no active weight; set a minimum: keep_alive(scope, ...)"
    for x in layers
    if not x.active
  ]
  active = sum(x.active for x in layers)
  if active != requested:
    texts.append(f"{requested} weights were requested, {active} are active")
  return texts
