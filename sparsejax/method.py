"""The slots that a method fills, and the record that holds them.

A method is data: a `Method` whose fields are pure functions. Nothing else
in the package knows a method by its name.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped, UInt32

Key = jax.Array
MetricKind = Literal["loss", "accuracy"]
Scores = Float[Array, "*dims"] | UInt32[Array, "*dims"]
Masks = PyTree
"""Tree of bool arrays like the parameters, `MaskedNode` at dense leaves."""


class Seen(NamedTuple):
  """What a slot function may look at in one sparse leaf.

  Attributes:
    param: the weights, latent ones where storage keeps those.
    grad: the dense gradient, like `param`.
    mask: bool, like `param`; which weights are on.
    memory: by name, the part of each memory that belongs to the leaf.
    key: random key of the leaf, the step and the purpose; None without a key.
    axis: the axis along which every slice is a layer of its own, or None.
  """

  param: Shaped[Array, "*dims"]
  grad: Shaped[Array, "*dims"]
  mask: Bool[Array, "*dims"]
  memory: Mapping[str, Array]
  key: Key | None = None
  axis: int | None = None


@runtime_checkable
class Criterion(Protocol):
  """What a weight is worth: higher survives, or is regrown first."""

  def __call__(self, seen: Seen, /) -> Scores:
    """Scores one leaf, as floats or as uint32 ranks of the same shape."""
    ...


@runtime_checkable
class Pattern(Protocol):
  """A rule of its own for which weights of a leaf stay."""

  def __call__(self, scores: Scores, seen: Seen, /) -> Bool[Array, "*dims"]:
    """Returns the mask of one leaf."""
    ...


@runtime_checkable
class Distribution(Protocol):
  """Network sparsity -> one sparsity per layer, on the host in float64."""

  def __call__(
    self, shapes: Mapping[str, tuple[int, ...]], sparsity: float, /
  ) -> dict[str, float]:
    """Maps layer names and shapes to sparsities in [0, 1]."""
    ...


@runtime_checkable
class Fraction(Protocol):
  """A share in [0, 1] as a function of the step, computed in float64."""

  def __call__(self, step: Float[Array, ""], /) -> Float[Array, ""]:
    """Returns the share at `step`, a float64 scalar that may be traced."""
    ...


@runtime_checkable
class Split(Protocol):
  """Parts of a layer that lose weights separately."""

  def __call__(
    self, param: Shaped[Array, "*dims"], /
  ) -> Sequence[Bool[Array, "*dims"]]:
    """Returns disjoint bool arrays that cover the leaf."""
    ...


@runtime_checkable
class When(Protocol):
  """The steps at which something is due."""

  def __call__(self, step: Int[Array, ""], /) -> Int[Array, ""]:
    """Returns the latest due step up to `step`, -1 where there was none."""
    ...


@runtime_checkable
class Curve(Protocol):
  """How a sparsity rises from its first value to its last."""

  def __call__(self, i: int, n: int, /) -> float:
    """Returns the share of the way at update i of n, in [0, 1]."""
    ...


@runtime_checkable
class SparsitySchedule(Protocol):
  """The sparsity that is requested, as a function of the update index."""

  @property
  def sparsities(self) -> tuple[float, ...]:
    """Sparsity before the first update and after each one, in [0, 1)."""
    ...

  def index(self, step: Int[Array, ""], /) -> Int[Array, ""]:
    """Returns the update index in force at `step`."""
    ...

  @property
  def when(self) -> When | None:
    """The steps at which the sparsity changes, None where it never does."""
    ...


class Layers(NamedTuple):
  """What an exchange knows of the layers when it counts.

  Attributes:
    step: int32[], step of the mask update.
    sizes: int64[layers] on the host, weights of each layer.
    active: int32[layers], weights that are on before the exchange; where a
      layer is split, those of the part that is requested about.
    metric: float32[], what was given as `metric=`; None without.
    memory: the memories by name.
    counted: (Seen -> bools) -> int32[layers], active weights of which it is so.
    total: (criterion) -> float64[layers], its sum over the active weights;
      call it where float64 is enabled.
  """

  step: Int[Array, ""]
  sizes: np.ndarray
  active: Int[Array, " layers"]
  metric: Float[Array, ""] | None
  memory: Mapping[str, PyTree]
  counted: Callable[[Callable[[Seen], Array]], Int[Array, " layers"]]
  total: Callable[[Criterion], Array]


@runtime_checkable
class Lose(Protocol):
  """How many active weights each layer loses in an exchange."""

  def __call__(self, layers: Layers, /) -> Int[Array, " layers"]:
    """Returns int32[layers]; what exceeds [0, active] is clipped."""
    ...


@runtime_checkable
class Gain(Protocol):
  """How many weights each layer regains in an exchange."""

  def __call__(
    self, layers: Layers, lost: Int[Array, " layers"], /
  ) -> Int[Array, " layers"]:
    """Returns int32[layers]; at most the positions that are free are taken."""
    ...


def whole(param: Shaped[Array, "*dims"]) -> Sequence[Bool[Array, "*dims"]]:
  """One part: all weights of the layer compete."""
  return (jnp.ones(param.shape, bool),)


def as_many(
  layers: Layers, lost: Int[Array, " layers"]
) -> Int[Array, " layers"]:
  """Every layer regains what it lost."""
  del layers  # The number of active weights stays.
  return lost


@dataclasses.dataclass(frozen=True)
class Regrow:
  """Exchange of weights inside each layer.

  Attributes:
    by: scores the positions that are off after the removal; the highest are
      regrown, zero scores in random order.
    lose: how many active weights each layer loses.
    when: the steps of the exchange.
    prune_by: scores the active weights; the lowest are pruned.
    gain: how many weights each layer regains.
    split: parts of the layer that lose their share separately.
    restart: whether a weight that is pruned and regrown in one exchange starts
      again at 0 (SET) or keeps its value and statistics (GraNet, RigL).
    exclude_just_pruned: whether what was just pruned may not be regrown (DSR).
  """

  by: Criterion
  lose: Lose
  when: When
  prune_by: Criterion
  gain: Gain = as_many
  split: Split = whole
  restart: bool = False
  exclude_just_pruned: bool = False


@dataclasses.dataclass(frozen=True)
class Scope:
  """Who competes with whom when the sparsity changes.

  Attributes:
    groups: layout -> for each layer, the number of its competition.
    budgets: (layout, sparsity, progress, limits) -> weights that each
      competition keeps, int64[num_groups] on the host. `progress` in [0, 1] is
      how much of the final sparsity is requested; layers with a sparsity of their
      own follow. `limits`, int64[num_groups] or None, are the most that a
      competition can keep.
    min_active_per_layer: this many weights survive in every layer, or all of
      a layer that is smaller.
  """

  groups: Callable[[Any], np.ndarray]
  budgets: Callable[[Any, float, float, np.ndarray | None], np.ndarray]
  min_active_per_layer: int = 0


class Stepped(NamedTuple):
  """A step of the inner optimizer that is to be shown to the user.

  Attributes:
    params: tree of what the user holds, before the step.
    weights: tree that the inner optimizer stepped, before the step.
    updates: tree of what it added to them.
    old: masks before.
    new: masks after.
    keep: weights that are on and go on with their value and statistics.
    memory: the memories after the step.
  """

  params: PyTree
  weights: PyTree
  updates: PyTree
  old: Masks
  new: Masks
  keep: Masks
  memory: Mapping[str, PyTree]


class Storage(NamedTuple):
  """What becomes of the value of a weight that is off.

  Attributes:
    init: (params, masks, memory) -> latent tree, `()` where nothing is kept.
    weights: (params, latent, masks) -> the tree that the inner optimizer steps.
    gradient: (seen) -> the gradient of a leaf that the inner optimizer sees.
    settle: (stepped) -> (the emitted updates, the new latent tree).
    prunes_all: whether weights that are off compete again at a mask update.
    resets: whether inner statistics are reset where a weight is off.
    move: (seen, update) -> what of the inner update moves the weights of a
      leaf.
    draws: whether `gradient` or `move` needs `Seen.key`.
  """

  init: Callable[[PyTree, Masks, Mapping[str, PyTree]], PyTree]
  weights: Callable[[PyTree, PyTree, Masks], PyTree]
  gradient: Callable[[Seen], Array]
  settle: Callable[[Stepped], tuple[PyTree, PyTree]]
  prunes_all: bool
  resets: bool
  move: Callable[[Seen, Array], Array] = lambda seen, update: update
  draws: bool = False


class Start(NamedTuple):
  """What a memory begins from.

  Attributes:
    params: tree of the parameters at `init`.
    masks: the first masks.
    layout: the sparse leaves, a `sparsejax.trees.Layout`.
  """

  params: PyTree
  masks: Masks
  layout: Any


class Moment(NamedTuple):
  """One step of the optimizer, as a memory sees it.

  Attributes:
    step: int32[], completed steps before it.
    seen: for each sparse leaf, in tree order: weights before the step, dense
      gradient, and the masks that the step is taken with.
  """

  step: Int[Array, ""]
  seen: Sequence[Seen]


class Update(NamedTuple):
  """One mask update, as a memory sees it.

  Attributes:
    step: int32[], the step of the update.
    metric: float32[], or None where none was given.
    seen: for each sparse leaf, in tree order: the weights that were scored,
      the dense gradient and the new masks.
    lost: int32[layers], weights that the exchange removed, before regrowth.
    layout: the sparse leaves.
  """

  step: Int[Array, ""]
  metric: Float[Array, ""] | None
  seen: Sequence[Seen]
  lost: Int[Array, " layers"]
  layout: Any


class Memory(NamedTuple):
  """What a method accumulates, beside its masks.

  Attributes:
    init: (start) -> the memory at step 0.
    step: (memory, moment) -> the memory after an optimizer step; None where
      steps leave it as it is.
    observe: (memory, update) -> the memory after a mask update; None where
      mask updates leave it as it is. What it changes passes through a
      conditional, so it should be small: masks or numbers.
    leaves: memory -> the tree in it that has one array per sparse leaf, which
      slot functions find in `Seen.memory`; None where there is none.
  """

  init: Callable[[Start], PyTree]
  step: Callable[[PyTree, Moment], PyTree] | None = None
  observe: Callable[[PyTree, Update], PyTree] | None = None
  leaves: Callable[[PyTree], PyTree] | None = None


class Order(enum.Enum):
  """How a mask update and the optimizer step of one call follow each other.

  Attributes:
    STEP_FIRST: the moved weights are scored with the gradient of the step
      (GraNet, ITOP, GMP).
    MASKS_FIRST: the step is taken with the new masks (once an epoch: SET with
      metric, OptG).
    INSTEAD_OF_STEP: a mask update takes the place of the step (RigL).
  """

  STEP_FIRST = "step first"
  MASKS_FIRST = "masks first"
  INSTEAD_OF_STEP = "instead of step"


@runtime_checkable
class Gate(Protocol):
  """Whether a due mask update takes place or is left out."""

  def __call__(
    self, memory: Mapping[str, PyTree], metric: Float[Array, ""] | None, /
  ) -> Bool[Array, ""]:
    """Returns bool[], True where it takes place."""
    ...


@dataclasses.dataclass(frozen=True)
class Method:
  """A sparse-training method, as a composition.

  Attributes:
    sparsity: the requested sparsity, by update index.
    when: the steps at which the weights compete anew; None for never.
    initial: how many weights of which layers the first masks keep, where the
      sparsity starts above 0.
    scope: who competes when the sparsity changes; also bounds the achieved
      sparsity of methods that never change it.
    criterion: what a weight is worth when the weights compete.
    initial_criterion: what a weight is worth for the first masks.
    initial_pattern: a rule of its own for the first masks, from the weights at
      step 0, in place of a competition.
    pattern: a rule of its own for which weights stay (N:M, thresholds), in
      place of a competition for the counts of `scope`.
    finds_counts: whether the pattern's counts are its own finding, and not
      those that `scope` asks for.
    regrow: the exchange of weights within layers, or None.
    gate: lets a due mask update take place or leaves it out, or None.
    storage: what becomes of the value of a weight that is off.
    memory: what is accumulated, by name.
    order: how a mask update and the optimizer step follow each other.
    restarts_statistics: whether a mask update gives the inner optimizer's
      statistics of all weights their first value, as SET's own code does.
    follows: what `update` must be given as `metric=`, the "loss" or the
      "accuracy" of the last epoch; None where it needs neither.
    target_sparsity: the sparsity that the user requested; None where there is
      none.
  """

  sparsity: SparsitySchedule
  when: When | None
  initial: Scope
  scope: Scope
  criterion: Criterion
  storage: Storage
  initial_criterion: Criterion | None = None
  initial_pattern: Pattern | None = None
  pattern: Pattern | None = None
  finds_counts: bool = False
  regrow: Regrow | None = None
  gate: Gate | None = None
  memory: Mapping[str, Memory] = dataclasses.field(
    default_factory=dict, hash=False
  )
  order: Order = Order.STEP_FIRST
  restarts_statistics: bool = False
  follows: MetricKind | None = None
  target_sparsity: float | None = None

  @property
  def prunes(self) -> bool:
    """Whether the weights ever compete again after the first masks."""
    return self.when is not None

  @property
  def counts_as_found(self) -> bool:
    """Whether the counts of the masks are the method's own finding."""
    regrown = self.regrow is not None and self.regrow.gain is not as_many
    return regrown or self.finds_counts

  @property
  def draws(self) -> bool:
    """Whether the method needs a random key."""
    first = self.sparsity.sparsities[0] > 0 and self.initial_criterion is None
    return self.regrow is not None or first or self.storage.draws

  @property
  def needs_metric(self) -> bool:
    """Whether `update` must be given `metric=`."""
    return self.follows is not None
