"""What a network costs: multiply-adds of each kernel, from a traced call.

A multiply-add (MAC) is the unit here. GraNet and RigL count two FLOPs for it,
STR and OptG one; ratios to the dense network are the same. Batch norm,
activations, pooling and biases are not counted.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import PyTree

from sparsejax.components import trees

FLOPS_PER_MAC = 2
_PRODUCTS = ("dot_general", "conv_general_dilated")
# Calls whose arrays are parts of those outside, or products of another kind.
_OPAQUE = ("shard_map", "pallas_call", "ragged_dot_general")


class Costs(NamedTuple):
  """Multiply-adds of a dense network for one example.

  Attributes:
    kernels: leaf name -> multiply-adds of the products that read the leaf, in
      the order in which the network first reads them; leaves without a product
      (biases, scales, tables that are looked up) are not in it.
    others: multiply-adds that read no leaf, such as those of attention between
      queries and keys.
  """

  kernels: dict[str, int]
  others: int = 0

  @property
  def dense(self) -> int:
    """Multiply-adds of all products."""
    return sum(self.kernels.values()) + self.others


class Phase(NamedTuple):
  """Steps of training with the same masks.

  Attributes:
    steps: how many.
    macs: multiply-adds of one example's forward pass through the sparse
      network.
    dense_gradients: in how many of the steps the method reads the gradient of
      weights that are off.
  """

  steps: int
  macs: int | float
  dense_gradients: int = 0


def multiply_adds(
  apply: Callable[..., Any], params: PyTree, *example: Any
) -> Costs:
  """Trace a forward pass and count what each kernel costs.

  Every matrix product and convolution is charged to the leaf that its operand
  was computed from, through reshapes, casts, masks and whatever else stands
  between; so a convolution that is written as a matrix product costs the same,
  a leaf that is used twice costs twice, and what a `scan` repeats is repeated.
  A kernel of n weights that is slid over H x W output pixels costs n H W, its
  padding included.

  Args:
    apply: (params, *example) -> output, a pure function, as
      `lambda p, x: model.apply({"params": p}, x)`. It may close over other
      arrays, such as batch statistics or masks.
    params: the tree of parameters, of arrays or of shapes with dtypes. Leaves
      that are not floating are taken as constants.
    *example: inputs of one example, with a batch dimension of 1 where the
      network wants one; arrays or shapes with dtypes. What depends on them is
      no parameter.

  Returns:
    The costs of the dense network.

  Raises:
    ValueError: if a product stands where its repetitions cannot be known: in a
      `while` loop, a kernel of Pallas, or a `shard_map`.

  Notes:
    Of the branches of a `cond` the most expensive one counts. An operand that
    was computed from several leaves is shared by their sizes where it is made
    of just them (queries, keys and values side by side); otherwise it is
    charged to the largest (a kernel with a learned scale).

  Examples:
    >>> params = {"kernel": jnp.ones((8, 3)), "bias": jnp.ones(3)}
    >>> apply = lambda p, x: x @ p["kernel"] + p["bias"]
    >>> multiply_adds(apply, params, jnp.ones((1, 8))).kernels
    {'kernel': 24}
  """
  traced = jax.make_jaxpr(apply)(params, *example)
  leaves = trees.named_leaves(params)
  origins = [
    frozenset([i]) if jnp.issubdtype(leaf.dtype, jnp.floating) else _CONSTANT
    for i, (_, leaf) in enumerate(leaves)
  ]
  origins += [_DATA] * (len(traced.jaxpr.invars) - len(origins))
  tally = _Tally({}, 0)
  sizes = [math.prod(leaf.shape) for _, leaf in leaves]
  _walk(traced.jaxpr, origins, _Count(tally, sizes, 1))
  names = [name for name, _ in leaves]
  return Costs({names[i]: n for i, n in tally.leaves.items()}, tally.others)


def inference(costs: Costs, densities: Mapping[str, float]) -> float:
  """Multiply-adds of one example through a sparse network.

  f_S = sum_l d_l MAC_l; products that read no leaf are dense.

  Args:
    costs: of the dense network.
    densities: leaf name -> share of its weights that are on, in [0, 1]; other
      leaves are dense.

  Returns:
    f_S; divide by `costs.dense` for the ratio, multiply by `FLOPS_PER_MAC` for
    FLOPs as GraNet and RigL count them.

  Raises:
    ValueError: if a name is not one of the kernels.
  """
  unknown = set(densities) - set(costs.kernels)
  if unknown:
    raise ValueError(
      f"`densities` names {sorted(unknown)}, which no product reads. Kernels: "
      + ", ".join(costs.kernels)
      + "."
    )
  return costs.others + math.fsum(
    macs * densities.get(name, 1.0) for name, macs in costs.kernels.items()
  )


def training(phases: Iterable[Phase], *, dense: int | float) -> float:
  """Multiply-adds of a training run, for one example a step.

  A step costs a forward pass f_S, the gradient of the activations f_S, and the
  gradient of the weights: f_S where only that of active weights is needed, f_D
  where the method reads all of it. So

      sum_t 2 f_S(t) + (f_D if t has a dense gradient else f_S(t)),

  which is 3 f_S of a static network or gradual pruning, 2 f_S + f_D of methods
  that read the dense gradient at every step, and in between for those that
  read it at mask updates: RigL has one such step in a period, GraNet as well.

  Args:
    phases: the steps of the run.
    dense: multiply-adds of one example's forward pass through the dense
      network, f_D.

  Returns:
    The sum. Multiply it by the batch size for the whole run; the dense run
    costs 3 f_D a step.

  References:
    Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_,
    2020, appendix H.
  """
  return math.fsum(
    3 * phase.steps * phase.macs + phase.dense_gradients * (dense - phase.macs)
    for phase in phases
  )


# Where a value comes from: the numbers of the leaves that it was computed from
# (none for a constant), or None as soon as an example had a part in it.
_Origin = frozenset[int] | None
_CONSTANT: _Origin = frozenset()
_DATA: _Origin = None


class _Tally:
  """Multiply-adds that were found so far."""

  def __init__(self, leaves: dict[int, int], others: int):
    self.leaves = leaves
    self.others = others

  @property
  def total(self) -> int:
    return sum(self.leaves.values()) + self.others

  def add(self, other: "_Tally") -> None:
    for leaf, macs in other.leaves.items():
      self.leaves[leaf] = self.leaves.get(leaf, 0) + macs
    self.others += other.others


class _Count(NamedTuple):
  """Where a walk writes, the sizes of the leaves, and the repetitions."""

  tally: _Tally
  sizes: list[int]
  times: int

  def fresh(self) -> "_Count":
    return self._replace(tally=_Tally({}, 0))


def _walk(
  jaxpr: core.Jaxpr, origins: list[_Origin], count: _Count
) -> list[_Origin]:
  """Adds up the products of a jaxpr; returns the origins of its results."""
  known: dict[Any, _Origin] = dict.fromkeys(jaxpr.constvars, _CONSTANT)
  known |= dict(zip(jaxpr.invars, origins, strict=True))

  def origin(atom: Any) -> _Origin:
    return _CONSTANT if isinstance(atom, core.Literal) else known[atom]

  for eqn in jaxpr.eqns:
    results = _step(eqn, [origin(atom) for atom in eqn.invars], count)
    known |= dict(zip(eqn.outvars, results, strict=True))
  return [origin(atom) for atom in jaxpr.outvars]


def _step(
  eqn: core.JaxprEqn, origins: list[_Origin], count: _Count
) -> list[_Origin]:
  """Adds up the products of one equation; returns its results' origins."""
  name = eqn.primitive.name
  called = _called(eqn)
  if name in _PRODUCTS:
    _charge(eqn, origins, count)
  elif name == "scan":
    return _scan(eqn, origins, count)
  elif name == "while":
    return _while(eqn, origins, count)
  elif name == "cond":
    return _cond(eqn, origins, count)
  elif called is not None:
    return _walk(called, origins, count)
  elif _multiplies(eqn):
    raise ValueError(
      f"`apply` has a product inside `{name}`, where it cannot be counted."
      " Trace a forward pass without it."
    )
  return [_join(origins)] * len(eqn.outvars)


def _join(origins: Iterable[_Origin]) -> _Origin:
  joined = frozenset()
  for origin in origins:
    if origin is None:
      return _DATA
    joined |= origin
  return joined


def _charge(eqn: core.JaxprEqn, origins: list[_Origin], count: _Count) -> None:
  """Charges a product of data to the leaves that its other operand reads."""
  if _join(origins) is not _DATA:
    return  # A product of parameters: once a batch, and not once an example.
  macs = count.times * _macs(eqn)
  weights = [
    (origin, math.prod(_shape(atom)))
    for origin, atom in zip(origins, eqn.invars, strict=True)
    if origin
  ]
  if not weights:
    count.tally.add(_Tally({}, macs))
    return
  ((leaves, size),) = weights
  count.tally.add(_Tally(_shares(leaves, size, macs, count.sizes), 0))


def _shares(
  leaves: frozenset[int], size: int, macs: int, sizes: list[int]
) -> dict[int, int]:
  """Splits the cost of an operand of some size among its leaves."""
  largest = max(sorted(leaves), key=sizes.__getitem__)
  if sum(sizes[leaf] for leaf in leaves) != size:
    return {largest: macs}
  shares = {leaf: macs * sizes[leaf] // size for leaf in sorted(leaves)}
  shares[largest] += macs - sum(shares.values())
  return shares


def _shape(atom: Any) -> tuple[int, ...]:
  return atom.aval.shape


def _macs(eqn: core.JaxprEqn) -> int:
  """Multiply-adds of one product."""
  left, right = map(_shape, eqn.invars)
  outputs = math.prod(_shape(eqn.outvars[0]))
  if eqn.primitive.name == "dot_general":
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return outputs * math.prod(left[axis] for axis in contracted)
  features = eqn.params["dimension_numbers"].rhs_spec[0]
  window = math.prod(right) // right[features]
  # A transposed convolution dilates its input with zeros.
  return outputs * window // math.prod(eqn.params["lhs_dilation"])


def _called(eqn: core.JaxprEqn) -> core.Jaxpr | None:
  """Returns what an equation calls with its own operands, if it does."""
  if eqn.primitive.name in _OPAQUE:
    return None
  for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
    inner = getattr(eqn.params.get(key), "jaxpr", eqn.params.get(key))
    if isinstance(inner, core.Jaxpr) and len(inner.invars) == len(eqn.invars):
      return inner
  return None


def _multiplies(eqn: core.JaxprEqn) -> bool:
  """Says whether there is a product in an equation, however deep."""
  if eqn.primitive.name in (*_PRODUCTS, "ragged_dot_general"):
    return True
  return any(
    _multiplies(inner)
    for jaxpr in core.jaxprs_in_params(eqn.params)
    for inner in jaxpr.eqns
  )


def _scan(
  eqn: core.JaxprEqn, origins: list[_Origin], count: _Count
) -> list[_Origin]:
  body = eqn.params["jaxpr"].jaxpr
  # Read off the shapes, since the parameters' names differ between versions:
  # a step sees one slice of what is scanned over and gives one of a result.
  end = _alike(eqn.invars, body.invars)
  first = end - _alike(eqn.outvars, body.outvars)
  carried = _carry(body, origins, first, end, count)
  operands = [*origins[:first], *carried, *origins[end:]]
  length = eqn.params["length"]
  return _walk(body, operands, count._replace(times=count.times * length))


def _alike(outside: Sequence[Any], inside: Sequence[Any]) -> int:
  """Returns how many values have the same shape outside and inside a loop."""
  return sum(
    _shape(a) == _shape(b) for a, b in zip(outside, inside, strict=True)
  )


def _while(
  eqn: core.JaxprEqn, origins: list[_Origin], count: _Count
) -> list[_Origin]:
  if _multiplies(eqn):
    raise ValueError(
      "`apply` has a product inside a `while` loop, whose repetitions are not"
      " known. Use `scan`, or `fori_loop` with constant bounds."
    )
  first = eqn.params["cond_nconsts"]
  body = eqn.params["body_jaxpr"].jaxpr
  constants = eqn.params["body_nconsts"]
  return _carry(body, origins[first:], constants, len(body.invars), count)


def _carry(
  body: core.Jaxpr,
  origins: list[_Origin],
  first: int,
  end: int,
  count: _Count,
) -> list[_Origin]:
  """Returns where the carried values of a loop come from, in any round."""
  carried = origins[first:end]
  while True:
    operands = [*origins[:first], *carried, *origins[end:]]
    results = _walk(body, operands, count.fresh())[: end - first]
    joined = [_join(pair) for pair in zip(carried, results, strict=True)]
    if joined == carried:
      return carried
    carried = joined


def _cond(
  eqn: core.JaxprEqn, origins: list[_Origin], count: _Count
) -> list[_Origin]:
  walks = [(count.fresh(), branch.jaxpr) for branch in eqn.params["branches"]]
  results = [_walk(branch, origins[1:], fresh) for fresh, branch in walks]
  tallies = [fresh.tally for fresh, _ in walks]
  count.tally.add(max(tallies, key=lambda tally: tally.total))
  return [_join(each) for each in zip(*results, strict=True)]
