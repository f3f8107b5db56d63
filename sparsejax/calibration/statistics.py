"""Statistics of the inputs of every tapped matrix, summed over batches."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree, Shaped

from sparsejax.analysis import jaxprs
from sparsejax.calibration import products, taps
from sparsejax.components import placement

MAX_BYTES = 2**30
"""Default of the memory that statistics may take at a time."""


class InputStatistic(NamedTuple):
  """A sum over the inputs of one matrix.

  Attributes:
    of: inputs [B, T, I] -> float32[B, ...], summed over T.
    axes: how many axes of size I the sum has.
  """

  of: Callable[[Shaped[Array, "b t i"]], Float[Array, "b ..."]]
  axes: int


SQUARED_NORMS = InputStatistic(products.squared_norms, 1)
GRAM = InputStatistic(products.gram, 2)


class Unit(NamedTuple):
  """Some slices of a tap, whose statistics are summed in one pass.

  Attributes:
    tap: the tap.
    start: first slice.
    size: number of slices, 1 for a tap that is not stacked.
  """

  tap: taps.Tap
  start: int
  size: int

  def bytes(self, statistic: InputStatistic) -> int:
    """Returns the memory of the statistic."""
    return 4 * math.prod(_shape(self, statistic))

  def take(self, leaf: Shaped[Array, "..."]) -> Shaped[Array, "s b i o"]:
    """Returns the matrices of these slices."""
    stop = self.start + self.size
    return self.tap.matrices(leaf)[self.start : stop]


class Forward:
  """A forward pass whose products are tapped; traced once per batch shape.

  Args:
    apply: (params, batch) -> anything, a pure function.
    params: tree of arrays that it reads.
    batches: what `each_batch` iterates over; see `calibrate`.
  """

  def __init__(
    self, apply: Callable[..., Any], params: PyTree, batches: Iterable[PyTree]
  ) -> None:
    """Traces the forward pass of the first batch."""
    self._apply = apply
    self._batches = list(batches) if isinstance(batches, Iterator) else batches
    self._programs: dict[Any, taps.Program] = {}
    self._steps: dict[Any, Callable[..., list[Array]]] = {}
    first = next(iter(self._batches), None)
    if first is None:
      raise ValueError("`batches` is empty. Give at least one batch.")
    self.program = self.program_for(params, first)

  def each_batch(self) -> Iterator[PyTree]:
    """Yields the batches, from the first one on."""
    yield from self._batches

  def program_for(self, params: PyTree, batch: PyTree) -> taps.Program:
    """Returns the traced program for a batch of this shape."""
    structure = _structure(batch)
    if structure not in self._programs:
      self._programs[structure] = taps.find(self._apply, params, batch)
    return self._programs[structure]

  def sums(
    self, params: PyTree, units: Sequence[Unit], statistic: InputStatistic
  ) -> list[Float[Array, "s b ..."]]:
    """Returns a statistic of some units, summed over all batches."""
    leaves = jax.tree.leaves(params)
    totals = [_zeros(unit, leaves[unit.tap.leaf], statistic) for unit in units]
    starts = np.asarray([unit.start for unit in units], np.int32)
    for batch in self.each_batch():
      step = self._step(params, batch, units, totals, statistic)
      operands = [*leaves, *jax.tree.leaves(batch)]
      totals = step(totals, starts, operands)
    return totals

  def _step(self, params, batch, units, totals, statistic):
    """Returns the compiled sum over one batch."""
    sizes = tuple((unit.tap.key, unit.size) for unit in units)
    key = (_structure(batch), sizes, statistic)
    if key not in self._steps:
      program = self.program_for(params, batch)
      self._steps[key] = _compiled(program, units, totals, statistic)
    return self._steps[key]


def passes(
  all_taps: Iterable[taps.Tap], statistic: InputStatistic, max_bytes: int
) -> Iterator[list[Unit]]:
  """Divides taps into passes whose statistics fit into some memory.

  A pass holds at least one slice, however large its statistic is.
  """
  now: list[Unit] = []
  used = 0
  for tap in all_taps:
    slice_bytes = Unit(tap, 0, 1).bytes(statistic)
    start, slices = 0, tap.shape[0]
    while start < slices:
      fitting = min(slices - start, (max_bytes - used) // slice_bytes)
      if fitting < 1 and now:
        yield now
        now, used = [], 0
        continue
      unit = Unit(tap, start, max(fitting, 1))
      now, used = [*now, unit], used + unit.bytes(statistic)
      start += unit.size
  if now:
    yield now


def _compiled(
  program: taps.Program,
  units: Sequence[Unit],
  totals: Sequence[Array],
  statistic: InputStatistic,
) -> Callable[..., list[Array]]:
  """Returns a function that adds the statistics of a batch to totals."""
  places = [x.sharding for x in totals]
  numbers = {unit.tap.key: number for number, unit in enumerate(units)}

  @functools.partial(jax.jit, donate_argnums=0)
  def step(totals: list[Array], starts: Array, operands: list[Array]):
    plan = _Plan(program, numbers, starts, statistic)
    found = _Accumulation(plan, totals, {})
    found.walk(program.closed, operands)
    return [
      lax.with_sharding_constraint(total, place)
      if isinstance(place, NamedSharding)
      else total
      for total, place in zip(found.totals, places, strict=True)
    ]

  return step


class _Plan(NamedTuple):
  """What is summed in a pass.

  Attributes:
    program: traced.
    numbers: key of a tap -> its place among the totals.
    starts: int32[totals], the first slice of each.
    statistic: of their inputs.
  """

  program: taps.Program
  numbers: dict[Any, int]
  starts: Array
  statistic: InputStatistic


class _Accumulation:
  """Runs a program, or the body of a loop, and adds to totals on the way.

  Attributes:
    totals: float32[S, B, ...] each.
  """

  def __init__(
    self, plan: _Plan, totals: Sequence[Array], iterations: dict[int, Array]
  ) -> None:
    """`iterations` has the iteration of each `scan` around, by id."""
    self._plan = plan
    self.totals = list(totals)
    self._iterations = iterations

  def walk(self, closed: core.ClosedJaxpr, operands: Sequence[Any]) -> list:
    """Returns the results of the program."""
    return jaxprs.walk(
      closed.jaxpr,
      operands,
      self._step,
      literal=lambda atom: atom.val,
      constants=closed.consts,
    )

  def _step(self, eqn: core.JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    reading = self._plan.program.readings.get(id(eqn))
    if reading is not None and reading.tap in self._plan.numbers:
      self._add(reading, operands[reading.side])
    if eqn.primitive.name == "scan":
      return self._scan(eqn, operands)
    if eqn.primitive.name == "cond":
      return self._cond(eqn, operands)
    with eqn.ctx.manager:
      return jaxprs.bind(eqn, operands)

  def _add(self, reading: taps.Reading, data: Array) -> None:
    """Adds a statistic of inputs to the slice that they belong to."""
    number = self._plan.numbers[reading.tap]
    total, statistic = self.totals[number], self._plan.statistic
    tap = self._plan.program.taps[reading.tap]

    def found() -> Array:
      return statistic.of(reading.product.inputs(data))

    place: Any = 0
    for loop, length in zip(reading.loops, tap.stack, strict=True):
      place = place * length + self._iterations[loop]
    place = place - self._plan.starts[number]
    if len(total) < tap.shape[0]:
      inside = (place >= 0) & (place < len(total))
      value = lax.cond(inside, found, lambda: jnp.zeros_like(total[0]))
    else:
      value = found()
    place = jnp.clip(place, 0, len(total) - 1)
    self.totals[number] = total.at[place].add(value)

  def _scan(self, eqn: core.JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    body, first, end = jaxprs.scan_body(eqn)
    params = eqn.params

    def iterate(carry, sliced):
      totals, carried = carry
      number, slices = sliced
      inner = _Accumulation(
        self._plan, totals, {**self._iterations, id(eqn): number}
      )
      results = inner.walk(body, [*operands[:first], *carried, *slices])
      carried, stacked = results[: end - first], results[end - first :]
      return (inner.totals, carried), stacked

    (self.totals, carried), stacked = lax.scan(
      iterate,
      (self.totals, operands[first:end]),
      (jnp.arange(params["length"], dtype=jnp.int32), operands[end:]),
      length=params["length"],
      reverse=params["reverse"],
      unroll=params["unroll"],
    )
    return [*carried, *stacked]

  def _cond(self, eqn: core.JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    def run(branch: core.ClosedJaxpr) -> Callable[..., Any]:
      def taken(totals, *operands):
        inner = _Accumulation(self._plan, totals, self._iterations)
        results = inner.walk(branch, operands)
        return inner.totals, results

      return taken

    index, *others = operands
    branches = [run(branch) for branch in eqn.params["branches"]]
    self.totals, results = lax.switch(index, branches, self.totals, *others)
    return results


def _shape(unit: Unit, statistic: InputStatistic) -> tuple[int, ...]:
  _, products_, inputs, _ = unit.tap.shape
  return (unit.size, products_, *[inputs] * statistic.axes)


def _zeros(unit: Unit, leaf: Any, statistic: InputStatistic) -> Array:
  """Returns totals to start from, sharded along the inputs as the leaf is."""
  zeros = jnp.zeros(_shape(unit, statistic), jnp.float32)
  if not placement.is_sharded(leaf):
    return zeros
  rows = jax.jit(lambda leaf: unit.tap.matrices(leaf)[..., 0])(leaf)
  place = rows.sharding
  if not isinstance(place, NamedSharding):
    return zeros
  spec = (*place.spec, *[None] * (rows.ndim - len(place.spec)))
  others = [None] * (zeros.ndim - rows.ndim)
  spec = PartitionSpec(None, *spec[1:], *others)
  return jax.device_put(zeros, NamedSharding(place.mesh, spec))


def _structure(batch: PyTree) -> Any:
  leaves, treedef = jax.tree.flatten(batch)
  return treedef, tuple((np.shape(x), jnp.result_type(x)) for x in leaves)
