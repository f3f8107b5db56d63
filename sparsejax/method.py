"""What a sparse-training method is: a record of parts.

A method is data. `Method` holds a few frozen records and pure functions; no
other module knows a method by its name. Each part declares what it reads, and
from those declarations follow which accumulators the state holds, whether a
random key is needed, in which steps the dense gradient is needed, and which
scores may be fused into the search.
"""

import dataclasses
import enum
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped, UInt32

Key = jax.Array
MetricKind = Literal["loss", "accuracy"]
DenseGradient = Literal["never", "at updates", "every step"]
Scores = Float[Array, "*dims"] | UInt32[Array, "*dims"]
Masks = PyTree
"""Tree of bool arrays like the parameters, `MaskedNode` at dense leaves."""


def described(value: Any) -> str:
  """Says what a wrong argument is, in a few words."""
  if isinstance(value, str):
    return f"the string {value!r}"
  if value is None:
    return "None"
  if callable(value) and hasattr(value, "__name__"):
    return f"the function {value.__name__}"
  text = repr(value)
  kind = type(value).__name__
  return f"{text} ({kind})" if len(text) <= 40 else f"a {kind}"


def called(factory: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
  """Returns a call as one line, without arguments at their defaults.

  Args:
    factory: has a name and a signature.
    arguments: by name, as the signature has them.
  """
  shown = []
  for name, parameter in inspect.signature(factory).parameters.items():
    if name not in arguments or arguments[name] is parameter.default:
      continue
    text = _short(arguments[name])
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
      shown.append(text)
    elif arguments[name] != parameter.default:
      shown.append(f"{name}={text}")
  return f"{factory.__name__}({', '.join(shown)})"


def _short(value: Any) -> str:
  """Returns what a value is, in a word."""
  if value is None or isinstance(value, bool | int | float | str | Method):
    return repr(value)
  return getattr(value, "__name__", f"{type(value).__name__}(...)")


def _check_parts(record: Any, **kinds: type) -> None:
  """Raises ValueError unless fields hold parts of a kind, or None."""
  for name, kind in kinds.items():
    value = getattr(record, name)
    if value is not None and not isinstance(value, kind):
      raise ValueError(
        f"`{name}` must be a `{kind.__name__}`, got {described(value)}. Give"
        " the object: names are for configs."
      )


class Input(enum.Enum):
  """What a part of a method may read, besides accumulators.

  Attributes:
    WEIGHTS: the weights; latent ones where the storage keeps those.
    GRADIENT: the dense gradient, also at inactive weights.
    ACTIVE_GRADIENT: the gradient, at active weights only.
    MOMENTUM: the momentum of the inner optimizer, at mask updates.
    HESSIAN_GRADIENT: the product H g of the Hessian of the loss with the
      gradient of the active weights, at mask updates; from the `hvp=` of
      `update`.
    MASK: which weights are active.
    POSITION: other positions of the leaf, as for neighbors. Scores that read it
      are computed leaf by leaf and not inside the search.
    KEY: the random key of the leaf, step and purpose.
  """

  WEIGHTS = "weights"
  GRADIENT = "gradient"
  ACTIVE_GRADIENT = "active gradient"
  MOMENTUM = "momentum"
  HESSIAN_GRADIENT = "Hessian-gradient product"
  MASK = "mask"
  POSITION = "position"
  KEY = "key"


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class SparseLeaf:
  """One sparse leaf of a parameter tree.

  Attributes:
    index: of the leaf among all leaves, in tree order.
    name: its path, like `block/conv/kernel`.
    shape: of the leaf.
    axis: axis along which every slice is its own layer; None for one layer.
    sparsity: final sparsity of the leaf where an override sets one.
    matrix: (inputs, outputs) of a layer that is a matrix although it has more
      dimensions, as those of attention; None for others.
  """

  index: int
  name: str
  shape: tuple[int, ...]
  axis: int | None = None
  sparsity: float | None = None
  matrix: tuple[int, ...] | None = None

  @property
  def num_layers(self) -> int:
    """Number of layers in the leaf."""
    return 1 if self.axis is None else self.shape[self.axis]

  @property
  def layer_shape(self) -> tuple[int, ...]:
    """Shape of one layer."""
    if self.axis is None:
      return self.shape
    return self.shape[: self.axis] + self.shape[self.axis + 1 :]

  @property
  def one_per_layer(self) -> tuple[int, ...]:
    """Shape of one number per layer that broadcasts over the leaf."""
    if self.axis is None:
      return ()
    return tuple(n if d == self.axis else 1 for d, n in enumerate(self.shape))

  @property
  def layer_names(self) -> tuple[str, ...]:
    """One name per layer, with the slice where a leaf has several."""
    if self.axis is None:
      return (self.name,)
    return tuple(f"{self.name}[{i}]" for i in range(self.num_layers))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Layout:
  """The sparse leaves of a tree, and their layers in tree order.

  Attributes:
    leaves: the sparse leaves, in tree order.
    treedef: of the parameters.
    sharded: whether the parameters are, or may be, sharded over devices.
  """

  leaves: tuple[SparseLeaf, ...]
  treedef: Any = None
  sharded: bool = False

  @functools.cached_property
  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Layer name -> shape."""
    return {n: f.layer_shape for f in self.leaves for n in f.layer_names}

  @functools.cached_property
  def kernels(self) -> dict[str, tuple[int, ...]]:
    """Layer name -> shape as a distribution sees it: heads are no window."""
    return {
      n: f.matrix or f.layer_shape for f in self.leaves for n in f.layer_names
    }

  @functools.cached_property
  def sizes(self) -> tuple[int, ...]:
    """Number of weights of each layer."""
    return tuple(math.prod(shape) for shape in self.shapes.values())

  @functools.cached_property
  def overrides(self) -> dict[str, float]:
    """Layer name -> final sparsity, for layers whose override sets one."""
    return {
      n: f.sparsity
      for f in self.leaves
      for n in f.layer_names
      if f.sparsity is not None
    }

  @property
  def axes(self) -> tuple[int | None, ...]:
    """The layer axis of each leaf."""
    return tuple(leaf.axis for leaf in self.leaves)

  def layers_of(self, number: int) -> range:
    """Returns the numbers of the layers of a leaf, in tree order."""
    start = sum(leaf.num_layers for leaf in self.leaves[:number])
    return range(start, start + self.leaves[number].num_layers)

  def take(self, tree: PyTree) -> list[Any]:
    """Returns the sparse leaves of a tree like the parameters."""
    leaves = jax.tree.leaves(tree)
    return [leaves[leaf.index] for leaf in self.leaves]

  def put(self, tree: PyTree, sparse: Sequence[Any]) -> PyTree:
    """Returns a tree like the parameters with its sparse leaves replaced."""
    leaves, treedef = jax.tree.flatten(tree)
    for leaf, new in zip(self.leaves, sparse, strict=True):
      leaves[leaf.index] = new
    return jax.tree.unflatten(treedef, leaves)

  def masked_tree(self, sparse: Sequence[Any]) -> PyTree:
    """Returns a tree of the sparse leaves, with `MaskedNode` at dense ones."""
    nodes: list[Any] = [optax.MaskedNode()] * self.treedef.num_leaves
    for leaf, array in zip(self.leaves, sparse, strict=True):
      nodes[leaf.index] = array
    return jax.tree.unflatten(self.treedef, nodes)


class Span(NamedTuple):
  """The weights of one leaf that belong to an array of units.

  Attributes:
    number: of the leaf: in `Layout.leaves`, or among all leaves for a leaf that
      follows.
    sums: (array like the leaf) -> its sum over each unit, like the units.
    spread: (bool array of the units) -> bools like the leaf.
  """

  number: int
  sums: Callable[[Array], Array]
  spread: Callable[[Array], Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
  """The units of a layout: what is pruned and regrown as one.

  Attributes:
    layout: of the arrays of units, which take the place of leaves and layers in
      counts, scopes, random bits and selection. It has no tree.
    spans: for each array of units its members; together they cover the sparse
      leaves. A weight of several units is active where all of them are.
    followers: for each array of units the spans of leaves that are masked with
      it, but neither scored nor counted: biases, and the scale and bias of a
      normalization.
  """

  layout: Layout
  spans: tuple[tuple[Span, ...], ...]
  followers: tuple[tuple[Span, ...], ...] = ()

  def sums(self, arrays: Sequence[Array]) -> list[Float[Array, "..."]]:
    """Returns float32 sums over each unit of arrays in layout order."""
    return [
      functools.reduce(
        lambda a, b: a + b,
        [s.sums(arrays[s.number].astype(np.float32)) for s in spans],
      )
      for spans in self.spans
    ]

  def any(self, masks: Sequence[Array]) -> list[Bool[Array, "..."]]:
    """Returns for each unit whether any of its weights is active."""
    return [x > 0 for x in self.sums(masks)]

  def weights(self, units: Sequence[Array]) -> list[Bool[Array, "..."]]:
    """Returns the masks of the sparse leaves, in layout order."""
    found = _spread(units, self.spans)
    return [found[number] for number in sorted(found)]

  def following(self, units: Sequence[Array]) -> dict[int, Array]:
    """Returns the masks of the leaves that follow, by index of the leaf."""
    return _spread(units, self.followers) if self.followers else {}


def _spread(
  units: Sequence[Array], spans: Sequence[Sequence[Span]]
) -> dict[int, Array]:
  """Returns by number of the leaf where all units of a position are active."""
  found: dict[int, Array] = {}
  for mask, some in zip(units, spans, strict=True):
    for span in some:
      spread = span.spread(mask)
      known = found.get(span.number)
      found[span.number] = spread if known is None else known & spread
  return found


@dataclasses.dataclass(frozen=True)
class Quota:
  """How many active units every cell of a layer has, such as its columns.

  Attributes:
    best: (scores, ties, least, valid, present, leaf) -> bool like the leaf: the
      highest of the valid units that bring every cell to `least` together with
      those that are present. Scores are uint32 ranks, and so are `ties`, which
      order equal ones before the index does, or None; `least` broadcasts over
      the leaf.
    least: (layout, counts) -> int32[layers], the minimum of each cell where
      layers have so many active units.
    minimum: (leaf) -> the most units that the minima of a layer can take.
    refills: whether prune-and-regrow prunes freely, and every cell regrows as
      many as it lost; else the best of each cell are not pruned.
  """

  best: Callable[..., Bool[Array, "*dims"]]
  least: Callable[[Layout, Any], Array]
  minimum: Callable[[SparseLeaf], int]
  refills: bool = False


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
  scope: "Scope | None" = None
  sparsity: float | None = None


single_weights = Granularity()
"""Every weight is a unit."""


@functools.lru_cache
def _units(granularity: Granularity, layout: Layout) -> Units | None:
  return None if granularity.units is None else granularity.units(layout)


class Leaf(NamedTuple):
  """What a part sees of one sparse leaf.

  Attributes:
    weights: the weights, latent ones where the storage keeps those.
    gradient: the dense gradient, like `weights`; None before the first step.
    mask: bool, like `weights`; `True` = active.
    accumulators: by name, what accumulators hold for the leaf; read it with
      `Accumulator.of`.
    key: random key of the leaf, step and purpose; None without a key.
    sparse: name, shape and layer axis of the leaf; None for packed arrays.
    momentum: like `weights`, of the inner optimizer; None where no part reads
      it, and outside mask updates.
    hessian_gradient: like `weights`, H g; None likewise.
  """

  weights: Shaped[Array, "*dims"]
  gradient: Shaped[Array, "*dims"] | None
  mask: Bool[Array, "*dims"]
  accumulators: Mapping[str, Array]
  key: Key | None = None
  sparse: SparseLeaf | None = None
  momentum: Float[Array, "*dims"] | None = None
  hessian_gradient: Float[Array, "*dims"] | None = None

  @property
  def axis(self) -> int | None:
    """The axis along which every slice is its own layer, or None."""
    return None if self.sparse is None else self.sparse.axis


class Context(NamedTuple):
  """What the parts see of one call of `update`; built once, passed whole.

  Attributes:
    layout: the sparse leaves.
    leaves: one entry per sparse leaf, in layout order.
    step: int32[]; completed optimizer steps, or the step of a mask update.
    key: typed key of the run; None without one.
    metric: float32[], what `update` got as `metric=`; None without.
    accumulators: by name, all of them; read one with `Accumulator.of`.
    units: the same with every unit in the place of a weight, which has the sums
      of their absolute values; None where each weight is a unit.
  """

  layout: Layout
  leaves: Sequence[Leaf]
  step: Int[Array, ""]
  key: Key | None
  metric: Float[Array, ""] | None
  accumulators: Mapping[str, PyTree]
  units: Any = None

  @property
  def counted(self) -> "Context":
    """The context whose leaves are counted, pruned and regrown."""
    return self if self.units is None else self.units


@dataclasses.dataclass(frozen=True, eq=False)
class Accumulator:
  """What a method sums up besides its masks.

  Two accumulators are the same only if they are one object: parts that share
  one are given the object, and declare it among what they read.

  Attributes:
    name: key of the value in `SparseState.accumulators`.
    init: (context) -> the value at step 0, from the first weights and masks.
    after_step: (value, context) -> the value after an optimizer step, whose
      masks `context` has; None where steps leave it as it is.
    after_update: (value, context, pruned) -> the value after a mask update.
      `context` has the scored weights and the new masks; `pruned` is
      int32[layers], the weights that prune-and-regrow cleared before it regrew.
      What it changes passes through a conditional, so keep it small: masks or
      numbers. None where mask updates leave it as it is.
    per_leaf: (value) -> the tree in it with one array per sparse leaf, for
      `Leaf.accumulators`; None where there is none.
    reads: what `after_step` and `after_update` read.
  """

  name: str
  init: Callable[[Context], PyTree]
  after_step: Callable[[PyTree, Context], PyTree] | None = None
  after_update: (
    Callable[[PyTree, Context, Int[Array, " layers"]], PyTree] | None
  ) = None
  per_leaf: Callable[[PyTree], PyTree] | None = None
  reads: tuple[Any, ...] = ()

  def of(self, holder: Leaf | Context) -> Any:
    """Returns what the accumulator holds for a leaf, or its whole value."""
    return holder.accumulators[self.name]


Reads = tuple[Input | Accumulator, ...]
"""What a function reads; it may read nothing else."""


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
    _check_parts(self, scope=Scope, criterion=Criterion, pattern=Pattern)


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
    _check_parts(self, scope=Scope, criterion=Criterion, pattern=Pattern)


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
    _check_parts(self, by=Criterion, prune_by=Criterion, prune_count=Count)


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
    return f"Method({', '.join(f'{n}={_short(values[n])}' for n in given)})"

  def __post_init__(self) -> None:
    """Checks parts, and that no two accumulators share a name."""
    _check_parts(self, initial=Initial, storage=Storage, prune=Prune)
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
