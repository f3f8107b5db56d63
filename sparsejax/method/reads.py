"""What a part of a method may read, and how it says so."""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped, UInt32

from sparsejax.method.layout import Layout, SparseLeaf

Key = jax.Array
Scores = Float[Array, "*dims"] | UInt32[Array, "*dims"]
Masks = PyTree
"""Tree of bool arrays like the parameters, `MaskedNode` at dense leaves."""


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
