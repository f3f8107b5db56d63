"""The record that a method is, and what follows from its parts."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

from sparsejax.method.layout import Layout
from sparsejax.method.messages import check_parts, short
from sparsejax.method.parts import (
  Gate,
  Granularity,
  Initial,
  MetricKind,
  Prune,
  PruneAndRegrow,
  Storage,
  as_pruned,
  single_weights,
)
from sparsejax.method.reads import Accumulator, Input, Reads
from sparsejax.method.units import Units

DenseGradient = Literal["never", "at updates", "every step"]


@functools.lru_cache
def _units(granularity: Granularity, layout: Layout) -> Units | None:
  return None if granularity.units is None else granularity.units(layout)


@dataclasses.dataclass(frozen=True)
class Method:
  """A sparse-training method, as a composition of parts.

  Attributes:
    initial: which weights are active at step 0.
    storage: what becomes of the value of a pruned weight.
    prune: how the sparsity changes; None where it never does.
    regrow: prune-and-regrow inside each layer, or None.
    accumulators: what is summed up besides what the parts read.
    order: how a mask update and the optimizer step of one call follow each
      other, one of `sparsejax.updates.orders`; None for `step_then_update`.
    gate: lets a due mask update take place or skips it, or None.
    metric: what `update` must get as `metric=`, the "loss" or the "accuracy" of
      the last epoch; None where it needs neither.
    reset_optimizer: whether a mask update resets the optimizer state of all
      weights, and not only of those that do not keep their value.
    target_sparsity: the requested final sparsity; None where there is none.
    granularity: what is pruned and regrown as one; all counts, sparsities and
      fractions of the other parts are in its units.
    made_by: the call that made it, for `repr`; "" for one composed by hand.
  """

  initial: Initial
  storage: Storage
  prune: Prune | None = None
  regrow: PruneAndRegrow | None = None
  accumulators: tuple[Accumulator, ...] = ()
  order: Callable[[Any], Any] | None = None
  gate: Gate | None = None
  metric: MetricKind | None = None
  reset_optimizer: bool = False
  target_sparsity: float | None = None
  granularity: Granularity = single_weights
  made_by: str = dataclasses.field(default="", init=False, compare=False)

  def __repr__(self) -> str:
    """Returns one line: the call that made it, or the parts that it has."""
    if self.made_by:
      return self.made_by
    default = {x.name: x.default for x in dataclasses.fields(self)}
    values = {name: getattr(self, name) for name in default}
    given = [n for n, x in values.items() if x is not default[n] and x != ()]
    return f"Method({', '.join(f'{n}={short(values[n])}' for n in given)})"

  def __post_init__(self) -> None:
    """Checks parts, and that no two accumulators share a name."""
    check_parts(self, initial=Initial, storage=Storage, prune=Prune)
    names = [each.name for each in self.all_accumulators]
    if len(set(names)) < len(names):
      raise ValueError(
        f"`accumulators` must have different names, got {sorted(names)}. Give"
        " parts that read the same accumulator the same object."
      )

  @functools.cached_property
  def all_accumulators(self) -> tuple[Accumulator, ...]:
    """The accumulators that the state holds: those given, and those read."""
    return tuple(self._known())

  def units(self, layout: Layout) -> Units | None:
    """Returns the units of a layout; None where each weight is one."""
    return _units(self.granularity, layout)

  def counted(self, layout: Layout) -> Layout:
    """Returns the layout whose elements are counted: units, or weights."""
    units = self.units(layout)
    return layout if units is None else units.layout

  @property
  def initial_sparsity(self) -> float | None:
    """Fraction of zeros at step 0; None where scope or pattern sets it."""
    if self.prune is not None:
      return self.prune.schedule.sparsities[0]
    return self.initial.sparsity

  @property
  def counts_as_found(self) -> bool:
    """Whether the counts of the masks are the method's own finding."""
    regrown = self.regrow is not None and (
      self.regrow.by is None or self.regrow.regrow_count != as_pruned
    )
    pattern = None if self.prune is None else self.prune.pattern
    return regrown or (pattern is not None and pattern.sets_counts)

  @property
  def needs_key(self) -> bool:
    """Whether the method needs a random key."""
    initial = self.initial
    drawn = initial.criterion is None and initial.pattern is None
    starts_random = drawn and self.initial_sparsity != 0
    reads = (*self._update_reads(), *self._step_reads())
    declared = any(Input.KEY in each for each in reads)
    # Zero scores are regrown at random, with any criterion.
    regrows = self.regrow is not None and self.regrow.by is not None
    return starts_random or declared or regrows

  @property
  def updates_without_gradient(self) -> bool:
    """Whether mask updates read no gradient, so that none has to be at hand."""
    gradients = {
      Input.GRADIENT,
      Input.ACTIVE_GRADIENT,
      Input.HESSIAN_GRADIENT,
    }
    return not any(gradients & set(reads) for reads in self._update_reads())

  @property
  def reads_momentum(self) -> bool:
    """Whether mask updates read the momentum of the inner optimizer."""
    return any(Input.MOMENTUM in reads for reads in self._update_reads())

  @property
  def reads_hessian_gradient(self) -> bool:
    """Whether mask updates read a second derivative, so need `hvp=`."""
    return any(
      Input.HESSIAN_GRADIENT in reads for reads in self._update_reads()
    )

  @property
  def dense_gradient(self) -> DenseGradient:
    """In which steps the method reads the gradient of inactive weights.

    "every step" where an accumulator sums that gradient up (OptG, sparse
    momentum) or the step applies it (DPF); "at updates" where only mask updates
    read it (RigL, GraNet); "never" where its cost can be saved.
    """
    if any(Input.GRADIENT in reads for reads in self._step_reads()):
      return "every step"
    updates = any(Input.GRADIENT in reads for reads in self._update_reads())
    return "at updates" if updates else "never"

  def _update_reads(self) -> Iterator[Reads]:
    """Yields what is read at mask updates."""
    yield from self._part_reads()
    yield from (x.reads for x in self._known() if x.after_step is None)

  def _step_reads(self) -> Iterator[Reads]:
    """Yields what is read at every step."""
    yield self.storage.reads
    yield from (x.reads for x in self._known() if x.after_step is not None)

  def _part_reads(self) -> Iterator[Reads]:
    prune, regrow, gate = self.prune, self.regrow, self.gate
    if prune is not None:
      yield prune.criterion.reads
      yield () if prune.pattern is None else prune.pattern.reads
    if regrow is not None:
      yield () if regrow.by is None else regrow.by.reads
      yield regrow.prune_by.reads
      yield from (regrow.prune_count.reads, regrow.regrow_count.reads)
    if gate is not None:
      yield gate.reads

  def _known(self) -> list[Accumulator]:
    """Returns the accumulators that are given, and that any part reads."""
    waiting, known = list(self.accumulators), []
    for reads in (*self._part_reads(), self.storage.reads):
      waiting += [x for x in reads if isinstance(x, Accumulator)]
    for each in waiting:  # It grows while it is read.
      if each not in known:
        known.append(each)
        waiting += [x for x in each.reads if isinstance(x, Accumulator)]
    return known
