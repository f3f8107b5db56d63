"""The slots that a method fills, and the record that holds them.

A method is data: a `MaskUpdate` whose fields are pure functions. Nothing else
in the package knows a method by its name.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.typing
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped, UInt32

Key = jax.Array
Scores = Float[Array, "*dims"] | UInt32[Array, "*dims"]
Masks = PyTree
"""Tree of bool arrays like the parameters, `MaskedNode` at dense leaves."""


@runtime_checkable
class Criterion(Protocol):
  """What a weight is worth: higher survives, or is regrown first."""

  def __call__(
    self,
    param: Shaped[Array, "*dims"],
    grad: Shaped[Array, "*dims"],
    key: Key | None,
    /,
  ) -> Scores:
    """Scores one leaf, as floats or as uint32 ranks of the same shape."""
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
  """Parts of a layer that lose their share separately."""

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
class SparsitySchedule(Protocol):
  """The sparsity that is asked for, as a function of the update index."""

  @property
  def sparsities(self) -> tuple[float, ...]:
    """Sparsity before the first update and after each one, in [0, 1)."""
    ...

  def index(self, step: Int[Array, ""], /) -> Int[Array, ""]:
    """Returns the update index in force at `step`."""
    ...

  @property
  def when(self) -> When:
    """The steps at which the sparsity changes."""
    ...


@dataclasses.dataclass(frozen=True)
class Regrow:
  """Exchange of weights inside each layer at a constant number of them.

  Attributes:
    by: scores the positions that are off; the highest are regrown, zero scores
      in random order.
    fraction: share of the layer's active weights that is exchanged.
    count: rounds the share to a number of weights, in float64 on the device.
    when: the steps of the exchange.
    prune_by: scores the active weights; the lowest are pruned.
    split: parts of the layer that lose their share separately.
    restart: whether a weight that is pruned and regrown in one exchange starts
      again at 0 (SET) or keeps its value and statistics (GraNet, RigL).
  """

  by: Criterion
  fraction: Fraction
  count: Callable[[Float[Array, "..."]], Float[Array, "..."]]
  when: When
  prune_by: Criterion
  split: Split
  restart: bool = False


@dataclasses.dataclass(frozen=True)
class Scope:
  """Who competes with whom when the sparsity changes.

  Attributes:
    groups: layout -> for each layer, the number of its competition.
    budgets: (layout, sparsity, progress, limits) -> weights that each
      competition keeps, int64[num_groups] on the host. `progress` in [0, 1] is
      how much of the final sparsity is asked; layers with a sparsity of their
      own follow. `limits`, int64[num_groups] or None, are the most that a
      competition can keep.
    min_active_per_layer: this many weights survive in every layer, or all of
      a layer that is smaller.
  """

  groups: Callable[[Any], np.ndarray]
  budgets: Callable[[Any, float, float, np.ndarray | None], np.ndarray]
  min_active_per_layer: int = 0


class Storage(NamedTuple):
  """What becomes of the value of a weight that is off.

  Attributes:
    init: (params, masks) -> latent tree, `()` where nothing is kept.
    weights: (params, latent, masks) -> the tree that the inner optimizer steps.
    gradient: (grad, mask) -> the gradient that the inner optimizer sees.
    settle: (params, updates, weights, masks, new_masks, keep) -> (the emitted
      updates, the new latent tree).
    prunes_all: whether weights that are off compete again at a mask update.
    resets: whether inner statistics are reset where a weight is off.
  """

  init: Callable[[PyTree, Masks], PyTree]
  weights: Callable[[PyTree, PyTree, Masks], PyTree]
  gradient: Callable[[Array, Array], Array]
  settle: Callable[..., tuple[PyTree, PyTree]]
  prunes_all: bool
  resets: bool


class Memory(NamedTuple):
  """What is accumulated at every step, beside the masks.

  Attributes:
    init: (params, masks) -> the memory at step 0.
    update: (memory, params, grads, masks) -> the memory after a step, with the
      masks after it.
  """

  init: Callable[[PyTree, Masks], PyTree]
  update: Callable[[PyTree, PyTree, PyTree, Masks], PyTree]


@dataclasses.dataclass(frozen=True)
class MaskUpdate:
  """A sparse-training method, as a composition.

  Attributes:
    sparsity: the asked sparsity, by update index.
    when: the steps at which the sparsity changes.
    initial: how the first masks are drawn where the sparsity starts above 0.
    scope: who competes when the sparsity changes; also bounds the achieved
      sparsity of methods that never change it.
    criterion: what a weight is worth when the sparsity changes.
    regrow: the exchange of weights within layers, or None.
    storage: what becomes of the value of a weight that is off.
    memory: what is accumulated at every step, by name.
    spend_step: a mask update takes the place of the optimizer step (RigL's
      own order). Otherwise the step comes first and the moved weights are
      scored with its gradient.
    target_sparsity: the sparsity that the user asked for; None where there is
      none.
  """

  sparsity: SparsitySchedule
  when: When
  initial: Scope
  scope: Scope
  criterion: Criterion
  storage: Storage
  regrow: Regrow | None = None
  memory: Mapping[str, Memory] = dataclasses.field(
    default_factory=dict, hash=False
  )
  spend_step: bool = False
  target_sparsity: float | None = None

  @property
  def prunes(self) -> bool:
    """Whether the sparsity ever changes after the first masks."""
    return len(self.sparsity.sparsities) > 1

  @property
  def draws(self) -> bool:
    """Whether the method needs a random key."""
    return self.regrow is not None or self.sparsity.sparsities[0] > 0
