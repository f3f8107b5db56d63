"""One-shot pruning of a trained network, with calibration data."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, Shaped

from sparsejax.calibration import (
  comparisons,
  gradients,
  layers,
  solvers,
  statistics,
)
from sparsejax.calibration.budgets import CalibratedDistribution, Measured
from sparsejax.calibration.comparisons import Comparison
from sparsejax.calibration.layers import Tapped
from sparsejax.calibration.solvers import Problem, Solver
from sparsejax.calibration.statistics import Forward, Unit
from sparsejax.components import (
  arguments,
  counts as counting,
  distributions,
  placement,
  scopes,
)
from sparsejax.components.leaves import Overrides, Select
from sparsejax.method import Distribution, Masks


class Pruned(NamedTuple):
  """A network after pruning.

  Attributes:
    params: with exact zeros at inactive weights.
    masks: bool like `params`, `MaskedNode` at dense leaves, for
      `sparsify(..., masks=masks)`.
  """

  params: PyTree
  masks: Masks


def prune_with_calibration(
  apply: Callable[[PyTree, Any], Any],
  params: PyTree,
  batches: Iterable[PyTree],
  sparsity: float | None = None,
  *,
  solver: Solver = solvers.wanda,
  comparison: Comparison | None = None,
  distribution: Distribution | CalibratedDistribution = distributions.uniform,
  select: Select = None,
  overrides: Overrides | None = None,
  sequential: bool = False,
  max_bytes: int = statistics.MAX_BYTES,
) -> Pruned:
  """Prunes a trained network in one shot, by what its layers get as inputs.

  Works on any model: the products of the traced forward pass are found, not
  registered. Weights compete inside a matrix; a stack of layers in a `scan` is
  one layer for each slice.

  Args:
    apply: (params, batch) -> anything, a pure function; for solvers that read
      gradients (`taylor`, `fisher`) the loss.
    params: the trained weights, any pytree; may be sharded.
    batches: calibration data, an iterable of batches. It is iterated over
      several times; an iterator is read into a list.
    sparsity: fraction of zeros in [0, 1), over all sparse leaves; None where
      the comparison sets it (`n_of_m`).
    solver: `wanda`, `ria`, `magnitude`, `sparsegpt()`, `taylor` or `fisher`.
    comparison: which weights compete: `per_layer`, `per_output` or
      `n_of_m(2, 4)`. None for that of the solver's paper.
    distribution: sparsity per layer: a distribution such as
      `sparsejax.uniform`, or `owl()`.
    select: which leaves are sparse, as in `sparsify`.
    overrides: as in `sparsify`.
    sequential: whether each block is calibrated with what the pruned blocks
      before it put out, and not with the dense network's: one pass over the
      batches for each slice of a `scan`, and for each matrix outside of one.
    max_bytes: memory for statistics at a time, at least that of one matrix;
      with less, there are more passes over the batches.

  Returns:
    Parameters and masks with exactly the requested counts; among equal scores
    the lower index stays.

  Raises:
    ValueError: if an argument cannot work, or a sparse leaf is read where it
      cannot be tapped; it is named.

  Examples:
    >>> import jax, jax.numpy as jnp, sparsejax
    >>> params = {"kernel": jnp.array([[1.0, 1.0], [3.0, 2.0], [2.0, 4.0]])}
    >>> apply = lambda params, x: x @ params["kernel"]
    >>> x = jnp.array([[9.0, 1.0, 1.0]])
    >>> pruned = sparsejax.prune_with_calibration(apply, params, [x], 2 / 3)
    >>> pruned.params["kernel"].tolist()
    [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
  """
  comparison = comparison or solver.comparison
  _check_arguments(sparsity, comparison, max_bytes)
  params = jax.tree.map(jnp.asarray, params)
  forward = Forward(apply, params, batches)
  tapped = layers.find(forward.program, params, select, overrides)
  if isinstance(distribution, CalibratedDistribution):
    distribution = _fitted(distribution, forward, params, tapped, max_bytes)
  pruner = _Pruner(
    solver,
    comparison,
    tapped,
    _matrix_counts(tapped, comparison, sparsity, distribution),
  )
  units = list(_stages(tapped, solver, sequential, max_bytes))
  results = _Results(params, tapped)
  squares = None
  for stage in units:
    current = results.params() if sequential else params
    if solver.squares is not None and (squares is None or sequential):
      squares = gradients.squares(
        apply, current, forward.each_batch(), solver.squares
      )
    pruner.prune(results, forward, current, stage, squares)
  return Pruned(results.params(), results.masks())


class _Results:
  """Matrices of all taps while they are pruned, one slice after the other."""

  def __init__(self, params: PyTree, tapped: Tapped) -> None:
    self._params, self._tapped = params, tapped
    self._weights: dict[Any, Array] = {}
    self._masks: dict[Any, Array] = {}
    leaves = jax.tree.leaves(params)
    for tap in tapped.taps:
      self._weights[tap.key] = jax.jit(tap.matrices)(leaves[tap.leaf])
      self._masks[tap.key] = jnp.ones(tap.shape, bool)

  def put(self, unit: Unit, weights: Array, mask: Array) -> None:
    """Puts what became of some slices, [M, I, O] each."""
    key, start = unit.tap.key, unit.start
    for results, new in ((self._weights, weights), (self._masks, mask)):
      results[key] = _put(results[key], new, start)

  def params(self) -> PyTree:
    """Returns the parameters, pruned as far as it has gone."""
    layout = self._tapped.layout
    return layout.put(self._params, self._leaves(self._weights, lambda x: x))

  def masks(self) -> Masks:
    """Returns the masks."""
    as_float = {key: x.astype(jnp.float32) for key, x in self._masks.items()}
    found = self._leaves(as_float, lambda x: x > 0)
    return self._tapped.layout.masked_tree(found)

  def _leaves(
    self, matrices: dict[Any, Array], then: Callable[[Array], Array]
  ) -> list[Array]:
    """Returns the sparse leaves, each placed as its weights are."""
    layout = self._tapped.layout
    found = []
    for leaf, old in zip(layout.leaves, layout.take(self._params), strict=True):
      each = [
        jax.jit(functools.partial(tap.leaf_from, shape=leaf.shape))(
          matrices[tap.key]
        )
        for tap in self._tapped.of(leaf)
      ]
      found.append(placement.alike(then(sum(each[1:], each[0])), old))
    return found


class _Pruner(NamedTuple):
  """How matrices are pruned.

  Attributes:
    solver: how weights are chosen.
    comparison: which weights compete.
    tapped: the taps.
    counts: by key of a tap, int64[S, B]: the weights that each matrix keeps.
  """

  solver: Solver
  comparison: Comparison
  tapped: Tapped
  counts: dict[Any, np.ndarray]

  def prune(
    self,
    results: _Results,
    forward: Forward,
    params: PyTree,
    stage: Sequence[Unit],
    squares: PyTree | None,
  ) -> None:
    """Prunes the matrices of a stage."""
    found: Sequence[Any] = [None] * len(stage)
    if self.solver.inputs is not None:
      found = forward.sums(params, stage, self.solver.inputs)
    leaves = jax.tree.leaves(params)
    others = None if squares is None else jax.tree.leaves(squares)
    for unit, inputs in zip(stage, found, strict=True):
      gradient = None if others is None else unit.take(others[unit.tap.leaf])
      weights = unit.take(leaves[unit.tap.leaf])
      results.put(unit, *self._solve(unit, weights, inputs, gradient))

  def _solve(
    self, unit: Unit, weights: Array, inputs: Any, gradient: Any
  ) -> tuple[Array, Array]:
    _, _, size, outputs = unit.tap.shape
    if self.comparison.inputs and size % self.comparison.inputs:
      return _merged(weights), jnp.ones(_merged(weights).shape, bool)
    table = comparisons.counts_table(
      self.comparison,
      self.counts[unit.tap.key][unit.start : unit.start + unit.size].ravel(),
      (size, outputs),
      self.solver.block(size, self.comparison),
    )
    problem = Problem(
      _merged(weights.astype(jnp.float32)),
      None if inputs is None else _merged(inputs),
      None if gradient is None else _merged(gradient),
      jnp.asarray(table),
    )
    sharded = self.tapped.layout.sharded
    new, mask = _solved(self.solver, self.comparison, sharded, problem)
    return new.astype(weights.dtype), mask


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _solved(
  solver: Solver, comparison: Comparison, sharded: bool, problem: Problem
) -> tuple[Array, Array]:
  weights, mask = solver.solve(problem, comparison, sharded)
  return jnp.where(mask, weights, 0.0), mask


@functools.partial(jax.jit, donate_argnums=0)
def _put(all_slices: Array, new: Array, start: Any) -> Array:
  shaped = new.reshape(-1, *all_slices.shape[1:]).astype(all_slices.dtype)
  return jax.lax.dynamic_update_slice_in_dim(all_slices, shaped, start, 0)


def _merged(x: Shaped[Array, "s b ..."]) -> Shaped[Array, "m ..."]:
  return x.reshape(-1, *x.shape[2:])


def _check_arguments(
  sparsity: float | None, comparison: Comparison, max_bytes: int
) -> None:
  if (sparsity is None) == (comparison.own_count is None):
    raise ValueError(
      "`sparsity` must be given, or `comparison` must set it, and not both, got"
      f" sparsity={sparsity}. `n_of_m` sets it, `per_layer` and `per_output` do"
      " not."
    )
  if sparsity is not None:
    arguments.check_sparsity(sparsity)
  if max_bytes < 1:
    raise ValueError(f"`max_bytes` must be at least 1, got {max_bytes}.")


def _matrix_counts(
  tapped: Tapped,
  comparison: Comparison,
  sparsity: float | None,
  distribution: Distribution,
) -> dict[Any, np.ndarray]:
  """Returns by key of a tap int64[S, B], the weights that each matrix keeps."""
  if comparison.own_count is not None:
    return {
      tap.key: np.full(tap.shape[:2], comparison.own_count(*tap.shape[2:]))
      for tap in tapped.taps
    }
  scope = scopes.layerwise(distribution)
  budgets = scope.budgets(tapped.layout, sparsity, 1.0, None)
  layer = np.concatenate([tapped.layer_of[x.key].ravel() for x in tapped.taps])
  size = np.concatenate(
    [
      np.full(x.shape[0] * x.shape[1], x.shape[2] * x.shape[3])
      for x in tapped.taps
    ]
  )
  found = np.zeros(len(layer), np.int64)
  for number, budget in enumerate(budgets):
    members = layer == number
    sizes = size[members].tolist()
    share = 1 - budget / sum(sizes)
    found[members] = counting.apportion(
      sizes, [share] * len(sizes), int(budget)
    )
  ends = np.cumsum([x.shape[0] * x.shape[1] for x in tapped.taps])
  parts = np.split(found, ends[:-1])
  return {
    tap.key: part.reshape(tap.shape[:2])
    for tap, part in zip(tapped.taps, parts, strict=True)
  }


def _stages(
  tapped: Tapped, solver: Solver, sequential: bool, max_bytes: int
) -> Iterator[list[Unit]]:
  """Yields what is pruned together, in the order of the program."""
  if solver.inputs is None and solver.squares is None:
    yield [Unit(tap, 0, tap.shape[0]) for tap in tapped.taps]
    return
  statistic = solver.inputs or statistics.SQUARED_NORMS
  if not sequential:
    yield from statistics.passes(tapped.taps, statistic, max_bytes)
    return
  done: set[Any] = set()
  for tap in tapped.taps:
    if tap.key in done:
      continue
    block = [x for x in tapped.taps if tap.block and x.block == tap.block]
    block = block or [tap]
    done |= {x.key for x in block}
    for start in range(tap.shape[0]):
      yield [Unit(x, start, 1) for x in block]


def _fitted(
  distribution: CalibratedDistribution,
  forward: Forward,
  params: PyTree,
  tapped: Tapped,
  max_bytes: int,
) -> Distribution:
  """Fits a distribution to the dense network."""
  leaves = jax.tree.leaves(params)
  names = list(tapped.layout.shapes)

  def measured() -> Iterator[Measured]:
    statistic = statistics.SQUARED_NORMS
    for units in statistics.passes(tapped.taps, statistic, max_bytes):
      for unit, norms in zip(
        units, forward.sums(params, units, statistic), strict=True
      ):
        weights = unit.take(leaves[unit.tap.leaf]).astype(jnp.float32)
        for place, slice_ in enumerate(weights):
          of = tapped.layer_of[unit.tap.key][unit.start + place]
          for layer, one, norm in zip(of, slice_, norms[place], strict=True):
            yield Measured(names[layer], one[None], norm[None])

  return distribution.fit(measured)
