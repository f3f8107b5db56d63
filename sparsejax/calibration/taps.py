"""Taps: where a traced forward pass multiplies data with parameter leaves.

No registry of layers: a leaf is followed through the program, through casts,
reshapes, transposes and slices, into the body of a `scan`, to the matrix
products and convolutions that read it. What a leaf looked like there is its
`View`, a function of the leaf that only moves its weights.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, PyTree, Shaped

from sparsejax.analysis import jaxprs
from sparsejax.calibration import products
from sparsejax.components import trees

# Operations that move the weights of one leaf, and lose at most some of them.
_MOVES = (
  "reshape",
  "transpose",
  "squeeze",
  "expand_dims",
  "rev",
  "slice",
  "split",
  "broadcast_in_dim",
)
# Operations that leave them where they are.
_IN_PLACE = (
  "convert_element_type",
  "copy",
  "copy_p",
  "reduce_precision",
  "sharding_constraint",
  "reshard",
  "mesh_cast",
  "pvary",
  "name",
)


class View(NamedTuple):
  """A parameter leaf, as an equation of the program sees it.

  Attributes:
    leaf: index of the leaf, in tree order.
    moves: applied to the leaf one after the other; they keep in front one axis
      for each `scan` that slices it.
    key: of views with the same moves.
    loops: the `scan` equations that slice it, by id, outermost first.
    stack: their lengths.
  """

  leaf: int
  moves: tuple[Callable[[Any], Any], ...] = ()
  key: tuple[Any, ...] = ()
  loops: tuple[int, ...] = ()
  stack: tuple[int, ...] = ()

  def moved(self, eqn: core.JaxprEqn, result: int) -> "View":
    """Returns the view after an equation that moves its first operand."""

    def move(x: Any) -> Any:
      return jaxprs.bind(eqn, [x])[result]

    for _ in self.loops:
      move = jax.vmap(move)
    params = sorted((name, str(value)) for name, value in eqn.params.items())
    step = (len(self.loops), eqn.primitive.name, result, tuple(params))
    return self._replace(moves=(*self.moves, move), key=(*self.key, step))

  def sliced(self, eqn: core.JaxprEqn) -> "View":
    """Returns the view of one slice, inside the body of a `scan`."""
    return self._replace(
      loops=(*self.loops, id(eqn)), stack=(*self.stack, eqn.params["length"])
    )


class Mixture(NamedTuple):
  """A value that is no view of one leaf.

  Attributes:
    leaves: the leaves that it was computed from, where there is no data in it.
    data: whether it depends on a batch.
  """

  leaves: frozenset[int] = frozenset()
  data: bool = False


Origin = View | Mixture
CONSTANT, DATA = Mixture(), Mixture(data=True)


class Tap(NamedTuple):
  """A leaf, or a part of it, as matrices that multiply data.

  Attributes:
    name: of the leaf.
    leaf: its index, in tree order.
    shape: of the matrices, S slices of a stack (1 without), B products each
      that share nothing, I inputs and O outputs.
    key: of equal taps.
    moves: leaf -> the operand of the product, with the stack in front.
    product: what becomes of one slice of the operand.
    stack: lengths of the axes in front.
    block: the outermost `scan` that slices the leaf, by id; None without.
  """

  name: str
  leaf: int
  shape: tuple[int, int, int, int]
  key: tuple[Any, ...]
  moves: tuple[Callable[[Any], Any], ...]
  product: products.Product
  stack: tuple[int, ...]
  block: int | None

  def matrices(self, leaf: Shaped[Array, "..."]) -> Shaped[Array, "s b i o"]:
    """Returns the matrices of a leaf, or of anything of its shape."""
    for move in self.moves:
      leaf = move(leaf)
    weights = self.product.weights
    for _ in self.stack:
      weights = jax.vmap(weights)
    return weights(leaf).reshape(self.shape)

  def leaf_from(
    self, matrices: Shaped[Array, "s b i o"], shape: Sequence[int]
  ) -> Shaped[Array, "..."]:
    """Returns the leaf with these matrices, and 0 where the tap has no part."""
    like = jax.ShapeDtypeStruct(tuple(shape), matrices.dtype)
    return jax.linear_transpose(self.matrices, like)(matrices)[0]


class Reading(NamedTuple):
  """An equation that reads a tap.

  Attributes:
    tap: key of the tap.
    product: of the equation.
    side: which operand is data, 0 or 1.
    loops: the `scan` equations whose iterations are the slices, by id.
  """

  tap: tuple[Any, ...]
  product: products.Product
  side: int
  loops: tuple[int, ...]


class Program(NamedTuple):
  """A traced forward pass, and its taps.

  Attributes:
    closed: the program without calls, from the leaves of the parameters and of
      the batch.
    taps: by key, in the order in which the program first reads them.
    readings: by id of the equation.
    refused: leaf index -> how the program reads the leaf where that cannot be
      tapped.
  """

  closed: core.ClosedJaxpr
  taps: dict[tuple[Any, ...], Tap]
  readings: dict[int, Reading]
  refused: dict[int, str]


def find(apply: Callable[..., Any], params: PyTree, batch: PyTree) -> Program:
  """Returns the taps of a forward pass.

  Args:
    apply: (params, batch) -> anything, a pure function. It may close over other
      arrays.
    params: tree of arrays, or of shapes with dtypes. Only floating leaves have
      taps.
    batch: tree of arrays, or of shapes with dtypes.
  """
  closed = jaxprs.trace(apply, params, batch)
  names = [name for name, _ in trees.named_leaves(params)]
  origins: list[Origin] = [
    View(i) if jnp.issubdtype(leaf.dtype, jnp.floating) else CONSTANT
    for i, (_, leaf) in enumerate(trees.named_leaves(params))
  ]
  origins += [DATA] * (len(closed.jaxpr.invars) - len(origins))
  program = Program(closed, {}, {}, {})
  finder = _Finder(program, names)
  finder.walk(closed, origins)
  return program


class _Finder:
  """Follows origins through a program and writes down what it finds."""

  def __init__(self, program: Program, names: Sequence[str]) -> None:
    self.program = program
    self.names = names

  def walk(
    self, closed: core.ClosedJaxpr, origins: Sequence[Origin]
  ) -> list[Origin]:
    return jaxprs.walk(
      closed.jaxpr,
      origins,
      self.step,
      literal=lambda atom: CONSTANT,
      constants=[CONSTANT] * len(closed.consts),
    )

  def step(self, eqn: core.JaxprEqn, origins: list[Origin]) -> Sequence[Origin]:
    name = eqn.primitive.name
    if name == "scan":
      return self.scan(eqn, origins)
    if name == "cond":
      return self.cond(eqn, origins)
    if name in products.PRODUCTS and _join(origins) == DATA:
      self.product(eqn, origins)
      return [DATA]
    first = origins[0] if origins else CONSTANT
    if isinstance(first, View) and all(o == CONSTANT for o in origins[1:]):
      if name in _IN_PLACE:
        return [first]
      if name in _MOVES and _keeps_size(eqn):
        return [first.moved(eqn, i) for i in range(len(eqn.outvars))]
    joined = _join(origins)
    if joined == DATA:
      for origin in origins:
        if isinstance(origin, View):
          self.refuse([origin.leaf], f"is read by `{name}`")
    return [joined] * len(eqn.outvars)

  def product(self, eqn: core.JaxprEqn, origins: Sequence[Origin]) -> None:
    for side, origin in enumerate(origins):
      if origin == DATA:
        continue
      if isinstance(origin, Mixture):
        self.refuse(
          origin.leaves, "is changed before a product of it with data"
        )
        continue
      found = products.product(eqn, side)
      if isinstance(found, str):
        self.refuse([origin.leaf], found)
      else:
        self.tap(eqn, side, origin, found)

  def tap(
    self,
    eqn: core.JaxprEqn,
    side: int,
    view: View,
    product: products.Product,
  ) -> None:
    key = (view.leaf, view.key, view.stack, product.key)
    one = jax.eval_shape(product.weights, eqn.invars[side].aval)
    tap = Tap(
      name=self.names[view.leaf],
      leaf=view.leaf,
      shape=(math.prod(view.stack), *one.shape),
      key=key,
      moves=view.moves,
      product=product,
      stack=view.stack,
      block=view.loops[0] if view.loops else None,
    )
    self.program.taps.setdefault(key, tap)
    self.program.readings[id(eqn)] = Reading(key, product, 1 - side, view.loops)

  def refuse(self, leaves: Any, why: str) -> None:
    for leaf in leaves:
      self.program.refused.setdefault(leaf, why)

  def scan(self, eqn: core.JaxprEqn, origins: list[Origin]) -> Sequence[Origin]:
    body, first, end = jaxprs.scan_body(eqn)
    sliced = [
      o.sliced(eqn) if isinstance(o, View) else o for o in origins[end:]
    ]
    carried = origins[first:end]
    while True:
      # Nothing is written down before the origins of the carry are known.
      blind = _Finder(Program(body, {}, {}, {}), self.names)
      results = blind.walk(body, [*origins[:first], *carried, *sliced])
      pairs = zip(carried, results, strict=False)
      joined = [a if a == b else _join([a, b]) for a, b in pairs]
      if joined == carried:
        break
      carried = joined
    results = self.walk(body, [*origins[:first], *carried, *sliced])
    return [*carried, *(_join([o]) for o in results[end - first :])]

  def cond(self, eqn: core.JaxprEqn, origins: list[Origin]) -> Sequence[Origin]:
    each = [self.walk(x, origins[1:]) for x in eqn.params["branches"]]
    chosen = origins[0]
    return [_join([chosen, *results]) for results in zip(*each, strict=True)]


def _join(origins: Sequence[Origin]) -> Mixture:
  """Returns the origin of what is computed from several values."""
  leaves: frozenset[int] = frozenset()
  for origin in origins:
    if isinstance(origin, View):
      leaves |= {origin.leaf}
    elif origin.data:
      return DATA
    else:
      leaves |= origin.leaves
  return Mixture(leaves)


def _keeps_size(eqn: core.JaxprEqn) -> bool:
  """Whether an equation repeats no weight."""
  if eqn.primitive.name != "broadcast_in_dim":
    return True
  return math.prod(jaxprs.shape(eqn.outvars[0])) == math.prod(
    jaxprs.shape(eqn.invars[0])
  )
