"""Summary: sparsity per layer and in all, requested and achieved."""

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
from sparsejax.state import SparseState, get_masks, sparse_states


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
    requested: requested weights at the last mask update, in all.
    parameters: all parameters, the dense leaves included.
    other_macs: multiply-adds for one example that no mask makes fewer: of dense
      leaves, and of products without a leaf; None if unknown.
    extra_bytes: by name, the memory that the method needs on top of parameters
      and inner optimizer: `masks`, `latent`, and each accumulator.
    warnings: layers without a single weight, and counts that were missed.
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
    """Weights that are on."""
    return sum(layer.active for layer in self.layers)

  @property
  def sparsity(self) -> float:
    """Achieved fraction of zeros among the weights of sparse layers."""
    return _share(self.total - self.active, self.total)

  @property
  def requested_sparsity(self) -> float:
    """Requested fraction of zeros among the weights of sparse layers."""
    return _share(self.total - self.requested, self.total)

  @property
  def parameter_sparsity(self) -> float:
    """Fraction of zeros among all parameters, dense leaves included."""
    return _share(self.total - self.active, self.parameters)

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
  def dense_flops(self) -> float | None:
    """FLOPs of the dense network for one example, a multiply-add as 2."""
    macs = self.dense_macs
    return None if macs is None else FLOPS_PER_MAC * macs

  @property
  def flops(self) -> float | None:
    """FLOPs of the sparse network for one example, a multiply-add as 2."""
    macs = self.macs
    return None if macs is None else FLOPS_PER_MAC * macs

  def __str__(self) -> str:
    """Returns the table."""
    header = ("layer", "shape", "weights", "active", "requested", "sparsity")
    rows: list[tuple[str, ...]] = [header]
    for x in self.layers:
      shape = "x".join(map(str, x.shape))
      rows.append(
        _row(x.name, shape, x.total, x.active, x.requested, x.sparsity)
      )
    rows.append(
      _row("total", "", self.total, self.active, self.requested, self.sparsity)
    )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
      "  ".join(
        cell.ljust(width) if i < 2 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
      ).rstrip()
      for row in rows
    ]
    lines.insert(1, "-" * (sum(widths) + 2 * len(widths) - 2))
    lines.append(
      f"of all {self.parameters:,} parameters {self.parameter_sparsity:.4%}"
      " are zero by mask"
    )
    if self.itop_rate is not None:
      lines.append(f"ever active: {self.itop_rate:.4%}")
    if self.flops is not None and self.dense_flops:
      ratio = self.flops / self.dense_flops
      lines.append(
        f"FLOPs for one example: {self.flops:.4g}, {ratio:.4f} of dense"
      )
    held = ", ".join(
      f"{name} {size / max(self.total, 1):.3g}"
      for name, size in self.extra_bytes.items()
    )
    lines.append(f"extra memory in bytes a weight: {held}")
    lines.extend(f"warning: {text}" for text in self.warnings)
    return "\n".join(lines)


def summary(
  params: PyTree,
  opt_state: optax.OptState,
  *,
  costs: Costs | Mapping[str, int | float] | None = None,
) -> Summary:
  """Counts a network on the host: per layer and in all, requested and achieved.

  Args:
    params: the tree that the optimizer state belongs to.
    opt_state: holds one `SparseState`, or several for separate leaves.
    costs: what the dense network costs, from `costs.multiply_adds`, or leaf
      name -> multiply-adds for one example; with it the summary has FLOPs.

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
      f"`costs` names {sorted(unknown)}, which are no leaves. Leaves: "
      + ", ".join(names)
      + "."
    )
  layers, requested = [], 0
  for state in sparse_states(opt_state):
    found = _layers(params, state, macs)
    layers += found
    requested += int(state.requested[0]) + sum(x.requested or 0 for x in found)
  layers.sort(key=lambda x: names.index(x.name.split("[")[0]))
  other_macs = None
  if costs is not None:
    sparse = {x.name.split("[")[0] for x in layers}
    other_macs = math.fsum(macs[name] for name in set(macs) - sparse)
    other_macs += costs.others if isinstance(costs, Costs) else 0
  parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
  warnings = _warnings(layers, requested)
  return Summary(
    tuple(layers),
    requested,
    parameters,
    other_macs,
    _extra_bytes(sparse_states(opt_state)),
    tuple(warnings),
  )


def stats(opt_state: optax.OptState) -> dict[str, Int[Array, ""]]:
  """Counts as int32 scalars, for logging inside jit.

  Args:
    opt_state: holds one `SparseState`, or several for separate leaves.

  Returns:
    `active`, `total`, `requested`, `step` and `last_update` (-1 before the first
    mask update), and `ever_active` where that is tracked. The sparsity is
    `1 - active / total`; compute it on the host, in float64.

  Raises:
    ValueError: if the state has no masks, or more than 2^31 - 1 weights, whose
      counts do not fit; `summary` counts those.
  """
  states = sparse_states(opt_state)
  total = sum(leaf.size for leaf in jax.tree.leaves(get_masks(opt_state)))
  if total > INT32_MAX:
    raise ValueError(
      f"`opt_state` has masks for {total} weights; counts on the device end"
      f" at {INT32_MAX}. Use `summary`, on the host."
    )
  out = {
    "active": sum(_active(jax.tree.leaves(get_masks(s))) for s in states),
    "total": jnp.int32(total),
    "requested": sum(
      jnp.sum(jnp.maximum(s.requested, 0), dtype=jnp.int32) for s in states
    ),
    "step": states[0].step,
    "last_update": states[0].last_update,
  }
  ever = [
    s.accumulators[ever_active.name]
    for s in states
    if ever_active.name in s.accumulators
  ]
  if len(ever) == len(states):
    out[ever_active.name] = sum(_active(jax.tree.leaves(tree)) for tree in ever)
  return out


def assert_sparse(params: PyTree, opt_state: optax.OptState) -> None:
  """Raises AssertionError unless every inactive weight is exactly 0.

  Catches what moves weights after `sparsify`: a transformation chained after
  it, averaged or looked-ahead parameters, a restored dense checkpoint.

  Args:
    params: the tree that the user holds.
    opt_state: holds the masks.
  """
  off = trees.map_masked(
    lambda m, p: jnp.sum(~m & (p != 0), dtype=jnp.int32),
    get_masks(opt_state),
    params,
    dense=lambda p: None,
  )
  bad = {n: int(c) for n, c in trees.named_leaves(off) if int(c)}
  if bad:
    listed = ", ".join(f"{name} ({count})" for name, count in bad.items())
    raise AssertionError(
      "`params` has inactive weights that are not 0: " + listed + ". Keep"
      " `sparsify` last in the chain and call `apply_masks` once after"
      " `init`."
    )


def _share(part: int, whole: int) -> float:
  return part / whole if whole else 0.0


def _row(name, shape, total, active, requested, sparsity) -> tuple[str, ...]:
  requested = "-" if requested is None else f"{requested:,}"
  return (
    name,
    shape,
    f"{total:,}",
    f"{active:,}",
    requested,
    f"{sparsity:.4%}",
  )


def _active(masks: Sequence[Array]) -> Int[Array, ""]:
  counts = search.count_active(
    masks, search.each_layer([None] * len(masks), len(masks))
  )
  return jnp.sum(counts, dtype=jnp.int32)


def _layout(params: PyTree, state: SparseState) -> Layout:
  """The layout of a state, with the layer axes that it records."""
  layout = leaves.layout(params, leaves.sparse_flags(params, state.masks))
  axes = [None if a < 0 else int(a) for a in np.asarray(state.axes)]
  with_axes = [
    dataclasses.replace(leaf, axis=axis)
    for leaf, axis in zip(layout.leaves, axes, strict=True)
  ]
  return dataclasses.replace(layout, leaves=tuple(with_axes))


def _layers(
  params: PyTree, state: SparseState, costs: Mapping[str, int | float]
) -> list[LayerSummary]:
  layout = _layout(params, state)
  if not layout.leaves:
    return []
  each_layer = search.each_layer(layout.axes, len(layout.sizes))
  count = jax.jit(lambda m: search.count_active(m, each_layer))
  active = np.asarray(count(jax.tree.leaves(get_masks(state))))
  ever = [None] * len(active)
  if ever_active.name in state.accumulators:
    tree = state.accumulators[ever_active.name]
    ever = [int(c) for c in np.asarray(count(jax.tree.leaves(tree)))]
  requested = [
    None if a < 0 else int(a) for a in np.asarray(state.requested)[1:]
  ]
  macs = [
    costs[leaf.name] / leaf.num_layers if leaf.name in costs else None
    for leaf in layout.leaves
    for _ in range(leaf.num_layers)
  ]
  return [
    LayerSummary(name, shape, math.prod(shape), int(on), want, seen, cost)
    for (name, shape), on, want, seen, cost in zip(
      layout.shapes.items(), active, requested, ever, macs, strict=True
    )
  ]


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
    f"{x.name} has no active weight; bound it with keep_alive(scope, ...)"
    for x in layers
    if not x.active
  ]
  active = sum(x.active for x in layers)
  if active != requested:
    texts.append(f"{requested} weights were requested, {active} are active")
  return texts
