"""The parts of which a method is composed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from sparsejax.method.layout import Layout
from sparsejax.method.messages import check_parts
from sparsejax.method.reads import Context, Input, Leaf, Masks, Reads, Scores
from sparsejax.method.units import Quota, Units

MetricKind = Literal["loss", "accuracy"]


@dataclasses.dataclass(frozen=True)
class Criterion:
  """How much a weight is worth: higher survives, or is regrown first.

  Attributes:
    score: (leaf) -> floats of the leaf's shape, or uint32 ranks.
    reads: what `score` reads.
  """

  score: Callable[[Leaf], Scores]
  reads: Reads

  def __call__(self, leaf: Leaf) -> Scores:
    """Scores one leaf."""
    return self.score(leaf)

  @property
  def is_elementwise(self) -> bool:
    """Whether each score depends on its own position alone."""
    return not {Input.KEY, Input.POSITION} & set(self.reads)


@dataclasses.dataclass(frozen=True)
class Pattern:
  """A rule for which weights of a leaf stay, in place of counts per group.

  Attributes:
    keep: (scores, leaf) -> bool, the mask of the leaf.
    first: the same at step 0, with the magnitudes as scores.
    reads: what both read.
    sets_counts: whether the number of active weights is the rule's own finding
      (thresholds), and not the one that the scope requests (N:M).
  """

  keep: Callable[[Scores, Leaf], Bool[Array, "*dims"]]
  first: Callable[[Scores, Leaf], Bool[Array, "*dims"]]
  reads: Reads = ()
  sets_counts: bool = False


Distribution = Callable[[Mapping[str, tuple[int, ...]], Any], dict[str, float]]
"""(layer name -> shape, network sparsity) -> layer name -> sparsity in [0, 1].

On the host in float64. The network sparsity is None where the distribution sets
its own target.
"""


@dataclasses.dataclass(frozen=True)
class Scope:
  """Which weights compete for the same budget.

  Attributes:
    groups: layout -> int[layers], the group of each layer.
    budgets: (layout, sparsity, progress, limits) -> int64[groups] on the host,
      the weights that each group keeps. `sparsity` is None where the
      distribution sets its own; `progress` in [0, 1] is the fraction of the
      final sparsity, which layers with an override follow; `limits`,
      int64[groups] or None, are the most that a group can keep.
    min_active_per_layer: every layer keeps this many weights, or all of them
      if it is smaller.
  """

  groups: Callable[[Layout], np.ndarray]
  budgets: Callable[
    [Layout, float | None, float, np.ndarray | None], np.ndarray
  ]
  min_active_per_layer: int = 0


When = Callable[[Int[Array, ""]], Int[Array, ""]]
"""(step) -> the latest step up to it that was due, -1 where there was none."""

Curve = Callable[[int, int], float]
"""(i, n) -> the fraction of the way at update i of n, in [0, 1]."""

Fraction = Callable[[Float[Array, ""]], Float[Array, ""]]
"""(step) -> a fraction in [0, 1]; float64 scalars, the step may be traced."""


@dataclasses.dataclass(frozen=True)
class SparsitySchedule:
  """The requested sparsity as a function of the update index.

  Attributes:
    sparsities: before the first update and after each one, in [0, 1); None
      where a distribution or a pattern sets it.
    index: (step) -> int32[], the update index in force.
    when: the steps at which the weights compete again.
  """

  sparsities: tuple[float | None, ...]
  index: Callable[[Int[Array, ""]], Int[Array, ""]]
  when: When


@dataclasses.dataclass(frozen=True)
class Initial:
  """Which weights are active at step 0.

  Attributes:
    scope: which weights compete.
    sparsity: fraction of zeros in [0, 1); None where the schedule of `prune`
      starts from it, or the scope's distribution sets it.
    criterion: what the weights are worth; None picks them at random.
    pattern: a rule in place of counts, or None.
  """

  scope: Scope
  sparsity: float | None = None
  criterion: Criterion | None = None
  pattern: Pattern | None = None

  def __post_init__(self) -> None:
    """Raises ValueError for a part of another kind."""
    check_parts(self, scope=Scope, criterion=Criterion, pattern=Pattern)


@dataclasses.dataclass(frozen=True)
class Prune:
  """How the network is pruned to the sparsity of a schedule.

  Attributes:
    schedule: the sparsity, and when it changes.
    scope: which weights compete.
    criterion: what a weight is worth.
    pattern: a rule in place of counts, or None.
  """

  schedule: SparsitySchedule
  scope: Scope
  criterion: Criterion
  pattern: Pattern | None = None

  def __post_init__(self) -> None:
    """Raises ValueError for a part of another kind."""
    check_parts(self, scope=Scope, criterion=Criterion, pattern=Pattern)


@dataclasses.dataclass(frozen=True)
class Count:
  """How many weights of each layer prune-and-regrow prunes, or regrows.

  Attributes:
    count: (context, active) -> counts [groups] to prune; (context, active,
      pruned) -> counts [layers] to regrow. `active` and `pruned` are active
      weights before the update (only those of the current part, where `parts`
      divides a layer) and how many were pruned: one per layer, or per group of
      `scope` in the first form. Counts are int32, or a `WideCount` where one of
      them may exceed it. Results are clipped to the active weights, or to the
      free positions.
    reads: what it reads.
  """

  count: Callable[..., Any]
  reads: Reads = ()

  def __call__(self, *args: Any) -> Any:
    """Returns the counts."""
    return self.count(*args)


as_pruned = Count(lambda context, active, pruned: pruned)
"""Every layer regrows as many weights as it pruned: its sparsity stays."""


@dataclasses.dataclass(frozen=True)
class PruneAndRegrow:
  """Prune-and-regrow: a count is pruned, and regrown inside each layer.

  Attributes:
    by: scores the inactive positions; the highest are regrown, those with a
      score of exactly 0 in random order. None regrows nothing.
    prune_by: scores the active weights; the lowest are pruned.
    prune_count: how many active weights each layer, or group, prunes.
    when: the steps at which it is due.
    scope: which weights compete when they are pruned; None for those of a
      layer. Its budgets are not used.
    regrow_count: how many weights each layer regrows.
    parts: (weights) -> disjoint bool arrays that cover a leaf and are pruned
      separately; None for one part.
    restart: whether a weight that is pruned and regrown at once restarts at 0
      (SET) or keeps its value and optimizer state (GraNet, RigL).
    exclude_just_pruned: whether just pruned weights may not be regrown (DSR).
  """

  by: Criterion | None
  prune_by: Criterion
  prune_count: Count
  when: When
  scope: Scope | None = None
  regrow_count: Count = as_pruned
  parts: Callable[[Array], Sequence[Bool[Array, "*dims"]]] | None = None
  restart: bool = False
  exclude_just_pruned: bool = False

  def __post_init__(self) -> None:
    """Raises ValueError for a part of another kind."""
    check_parts(self, by=Criterion, prune_by=Criterion, prune_count=Count)


class MaskChange(NamedTuple):
  """The masks of one call, before and after, as trees like the parameters.

  Attributes:
    done: bool[]; whether a mask update was due and all numbers were finite. A
      gate may still have kept the masks.
    old: masks before.
    new: masks after; `old` where no update was due.
    keep: active weights that keep their value and optimizer state; the others
      that are active restart at 0.
  """

  done: Bool[Array, ""]
  old: Masks
  new: Masks
  keep: Masks


class InnerStep(NamedTuple):
  """A step of the inner optimizer.

  Attributes:
    weights: tree that it stepped, before the step.
    updates: tree of what it adds to them.
    inner_state: its state after the step.
  """

  weights: PyTree
  updates: PyTree
  inner_state: optax.OptState


class Storage(NamedTuple):
  """What becomes of the value of a pruned weight.

  Attributes:
    init: (params, masks, accumulators) -> latent tree, `()` where none is kept.
    weights: (params, latent, masks) -> the tree that the inner optimizer steps.
    gradient: (leaf) -> the gradient that the inner optimizer sees.
    emit: (params, step, change, accumulators) -> (updates for the user, the new
      latent tree), from an `InnerStep` and a `MaskChange`.
    keeps_values: whether inactive weights keep their values, and compete again
      at a mask update.
    keeps_state: whether inactive weights keep their optimizer state.
    update: (leaf, inner update) -> the part of it that moves the weights.
    reads: what `gradient` and `update` read, and accumulators of the others.
  """

  init: Callable[[PyTree, Masks, Mapping[str, PyTree]], PyTree]
  weights: Callable[[PyTree, PyTree, Masks], PyTree]
  gradient: Callable[[Leaf], Array]
  emit: Callable[..., tuple[PyTree, PyTree]]
  keeps_values: bool
  keeps_state: bool
  update: Callable[[Leaf, Array], Array] = lambda leaf, update: update
  reads: Reads = (Input.ACTIVE_GRADIENT, Input.MASK)


@dataclasses.dataclass(frozen=True)
class Gate:
  """Lets a due mask update take place, or skips it.

  Attributes:
    opens: (context) -> bool[], True where the update takes place.
    reads: what it reads.
  """

  opens: Callable[[Context], Bool[Array, ""]]
  reads: Reads = ()


@dataclasses.dataclass(frozen=True)
class Granularity:
  """What is pruned and regrown as one, and how it is spread over a layer.

  Attributes:
    units: (layout) -> the units of its weights; None where each weight is one.
    quota: how many every cell of a layer has; None where cells are free.
    leaves: (layout) -> the layout without the leaves that have no units.
      Raises ValueError for leaves that cannot have this granularity.
    scope: takes the place of the method's scopes, where the granularity sets
      the counts of layers; or None.
    sparsity: the one that the granularity has, or None.
  """

  units: Callable[[Layout], Units] | None = None
  quota: Quota | None = None
  leaves: Callable[[Layout], Layout] = lambda layout: layout
  scope: Scope | None = None
  sparsity: float | None = None


single_weights = Granularity()
"""Every weight is a unit."""
