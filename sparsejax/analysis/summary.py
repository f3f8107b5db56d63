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
  get_masks,
  held_masks,
  sparse_states,
  unit_masks,
)

_UNIT_COLUMNS = ("units", "", "number", "active", "requested", "sparsity")
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


class UnitSummary(NamedTuple):
  """Counts of an array of units, such as the filters of a convolution.

  Attributes:
    name: of the array: that of the leaf, with `+n` where n others share its
      channels.
    total: units.
    active: active units.
    requested: requested units; None where it shares a budget with others.
  """

  name: str
  total: int
  active: int
  requested: int | None

  @property
  def sparsity(self) -> float:
    """Fraction of inactive units, in [0, 1]."""
    return 1 - self.active / self.total


class Summary(NamedTuple):
  """Counts of a network; prints as a table.

  Attributes:
    layers: one entry per sparse layer, in tree order.
    requested: requested weights at the last mask update, in total; requested
      units where there are `units`.
    parameters: all parameters, dense leaves included.
    other_macs: multiply-adds for one example that no mask reduces: of dense
      leaves, and of products without a leaf; None if unknown.
    extra_bytes: by name, the memory that the method adds to that of dense
      training: `masks`, `latent`, and each accumulator.
    warnings: layers without active weights, counts other than requested.
    units: one entry per layer of units that are pruned as one; none where those
      are single weights.
  """

  layers: tuple[LayerSummary, ...]
  requested: int
  parameters: int
  other_macs: float | None
  extra_bytes: dict[str, int]
  warnings: tuple[str, ...]
  units: tuple[UnitSummary, ...] = ()

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
  def total_units(self) -> int:
    """What is counted against `requested`: units, or weights."""
    return sum(each.total for each in self.units or self.layers)

  @property
  def active_units(self) -> int:
    """Active units, or weights."""
    return sum(each.active for each in self.units or self.layers)

  @property
  def unit_sparsity(self) -> float:
    """Fraction of inactive units, or weights: what methods are asked for."""
    return _share(self.total_units - self.active_units, self.total_units)

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
    whole = self._replace(requested=None) if self.units else self
    lines = _table(
      _COLUMNS,
      *(_row(x.name, "x".join(map(str, x.shape)), x) for x in self.layers),
      _row("total", "", whole),
    )
    if self.units:
      every = UnitSummary(
        "total", self.total_units, self.active_units, self.requested
      )
      lines += [
        "",
        *_table(_UNIT_COLUMNS, *map(_unit_row, (*self.units, every))),
      ]
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
  layers, units, requested, states = [], [], 0, sparse_states(opt_state)
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
    tuple(_warnings(layers, units or layers, requested)),
    tuple(units),
  )


def stats(opt_state: optax.OptState) -> dict[str, Int[Array, ""]]:
  """Returns counts as int32 scalars, for logging inside jit.

  Returns:
    `active`, `total`, `requested`, `step` and `last_update` (-1 before the
    first mask update), `ever_active` if it is tracked, and `active_units` and
    `total_units` where units are pruned as one; `requested` counts those. The
    sparsity is `1 - active / total`; compute it on the host, in float64.

  Raises:
    ValueError: if the state has no masks, or more than 2^31 - 1 weights, whose
      counts do not fit; `summary` counts those.
  """
  states, masks = sparse_states(opt_state), get_masks(opt_state)
  total = sum(leaf.size for leaf in jax.tree.leaves(masks))
  if total > INT32_MAX:
    raise ValueError(
      f"`opt_state` has masks for {total} weights; counts on the device end"
      f" at {INT32_MAX}. Use `summary`, on the host."
    )
  out = {
    "active": sum(_active(get_masks(state)) for state in states),
    "total": jnp.int32(total),
    "requested": sum(
      jnp.sum(jnp.maximum(s.requested, 0), dtype=jnp.int32) for s in states
    ),
    "step": states[0].step,
    "last_update": states[0].last_update,
  }
  units = [mask for state in states for mask in unit_masks(state)]
  if units:
    out["total_units"] = jnp.int32(sum(mask.size for mask in units))
    out["active_units"] = sum(jnp.sum(x, dtype=jnp.int32) for x in units)
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
    held_masks(opt_state),
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


def _unit_row(x: UnitSummary) -> tuple[str, ...]:
  requested = "-" if x.requested is None else f"{x.requested:,}"
  numbers = (f"{x.total:,}", f"{x.active:,}", requested, f"{x.sparsity:.4%}")
  return (x.name, "", *numbers)


def _table(*rows: tuple[str, ...]) -> list[str]:
  """Returns the lines of a table whose first row is its head."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for name, shape, *numbers in rows:
    cells = [name.ljust(widths[0]), shape.ljust(widths[1])]
    cells += map(str.rjust, numbers, widths[2:])
    lines.append("  ".join(cells).rstrip())
  lines.insert(1, "-" * (sum(widths) + 2 * len(widths) - 2))
  return lines


def _active(masks: PyTree) -> Int[Array, ""]:
  counts = search.count_each(jax.tree.leaves(masks))
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
  active = np.asarray(count(jax.tree.leaves(state.masks))).tolist()
  ever = [None] * len(active)
  if ever_active.name in state.accumulators:
    tree = state.accumulators[ever_active.name]
    ever = np.asarray(count(jax.tree.leaves(tree))).tolist()
  requested = [None] * len(active)  # It counts units, where there are some.
  if not state.units:
    requested = [a if a >= 0 else None for a in state.requested[1:].tolist()]
  macs = [
    costs[leaf.name] / leaf.num_layers if leaf.name in costs else None
    for leaf in layout.leaves
    for _ in range(leaf.num_layers)
  ]
  counted = zip(layout.sizes, active, requested, ever, macs, strict=True)
  named = zip(layout.shapes.items(), counted, strict=True)
  return [LayerSummary(*layer, *numbers) for layer, numbers in named]


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
  layers: Sequence[LayerSummary],
  counted: Sequence[LayerSummary | UnitSummary],
  requested: int,
) -> list[str]:
  texts = [
    f"{x.name} has no active weight; set a minimum: keep_alive(scope, ...)"
    for x in layers
    if not x.active
  ]
  active = sum(x.active for x in counted)
  if active != requested:
    what = "weights" if counted is layers else "units"
    texts.append(f"{requested} {what} were requested, {active} are active")
  return texts
