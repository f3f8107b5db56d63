"""Multiply-adds of each kernel of a network, counted in a traced call.

A multiply-add (MAC) is the unit. GraNet and RigL count it as two FLOPs, STR and
OptG as one; ratios to the dense network are the same. Batch norm, activations,
pooling and biases are not counted.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core
from jaxtyping import PyTree

from sparsejax.analysis import jaxprs
from sparsejax.components import trees

FLOPS_PER_MAC = 2
_PRODUCTS = ("dot_general", "conv_general_dilated")


class Costs(NamedTuple):
  """Multiply-adds of a dense network for one example.

  Attributes:
    kernels: leaf name -> multiply-adds of the products that read the leaf, in
      the order in which the network first reads them. Leaves without a product
      (biases, scales, lookup tables) are missing.
    others: multiply-adds that read no leaf, such as those of attention between
      queries and keys.
    lookups: leaves of which an example selects rows, such as embeddings.
  """

  kernels: dict[str, int]
  others: int = 0
  lookups: frozenset[str] = frozenset()

  @property
  def dense(self) -> int:
    """Multiply-adds of all products."""
    return sum(self.kernels.values()) + self.others


class Phase(NamedTuple):
  """Steps of training with the same masks.

  Attributes:
    steps: number of steps.
    macs: multiply-adds of one example's forward pass through the sparse
      network.
    dense_gradients: number of those steps in which the method reads the
      gradient of inactive weights.
  """

  steps: int
  macs: int | float
  dense_gradients: int = 0


def multiply_adds(
  apply: Callable[..., Any], params: PyTree, *example: Any
) -> Costs:
  """Returns the multiply-adds of each kernel, counted in a traced forward pass.

  Every matrix product and convolution is charged to the leaf that its operand
  was computed from, through reshapes, casts, masks and any other operations; so
  a convolution written as a matrix product costs the same, a leaf used twice
  costs twice, and the body of a `scan` counts once per iteration. A kernel of n
  weights that slides over H x W output pixels costs n H W, padding included.

  Of the branches of a `cond` the most expensive one counts. An operand that
  concatenates several leaves (queries, keys and values) is shared by their
  sizes; one computed from several leaves in another way (a kernel with a
  learned scale) is charged to the largest.

  Args:
    apply: (params, *example) -> output, a pure function, as
      `lambda p, x: model.apply({"params": p}, x)`. It may close over other
      arrays, such as batch statistics or masks.
    params: tree of arrays, or of shapes with dtypes. Leaves that are not
      floating count as constants.
    *example: inputs of one example, with a batch dimension of 1 if the network
      needs one; arrays, or shapes with dtypes.

  Raises:
    ValueError: if the number of repetitions of a product is unknown: in a
      `while` loop, a Pallas kernel, or a `shard_map`.

  Examples:
    >>> params = {"kernel": jnp.ones((8, 3)), "bias": jnp.ones(3)}
    >>> apply = lambda p, x: x @ p["kernel"] + p["bias"]
    >>> multiply_adds(apply, params, jnp.ones((1, 8))).kernels
    {'kernel': 24}
  """
  traced = jaxprs.trace(apply, params, *example)
  leaves = trees.named_leaves(params)
  origins = [
    frozenset([i]) if jnp.issubdtype(leaf.dtype, jnp.floating) else _CONSTANT
    for i, (_, leaf) in enumerate(leaves)
  ]
  origins += [_DATA] * (len(traced.jaxpr.invars) - len(origins))
  sizes = [math.prod(leaf.shape) for _, leaf in leaves]
  macs: Counter[int | None] = Counter()
  lookups: set[int] = set()
  _walk(traced, origins, _Tally(macs, sizes, lookups))
  kernels = {leaves[i][0]: n for i, n in macs.items() if i is not None}
  return Costs(kernels, macs[None], frozenset(leaves[i][0] for i in lookups))


def training(phases: Iterable[Phase], *, dense: int | float) -> float:
  """Returns the multiply-adds of a training run, for one example per step.

  A step costs a forward pass f_S, the gradient of the activations f_S, and the
  gradient of the weights: f_S for active weights alone, f_D = `dense` for the
  dense gradient. So

      sum_t 2 f_S(t) + (f_D if t has a dense gradient else f_S(t)),

  which is 3 f_S for a static network or gradual pruning, 2 f_S + f_D for
  methods that read the dense gradient at every step, and in between for those
  that read it at mask updates, as RigL and GraNet do. A dense run is 3 f_D per
  step.

  References:
    Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_,
    2020, appendix H.
  """
  return math.fsum(
    3 * phase.steps * phase.macs + phase.dense_gradients * (dense - phase.macs)
    for phase in phases
  )


# The indices of the leaves that a value was computed from (none for a
# constant), or None if it depends on an example.
_Origin = frozenset[int] | None
_CONSTANT: _Origin = frozenset()
_DATA: _Origin = None


class _Tally(NamedTuple):
  """The products found so far, and how to charge more of them."""

  macs: Counter[int | None]  # by leaf index, None for no leaf
  sizes: list[int]  # of the leaves
  lookups: set[int]  # leaves whose rows an example selects
  times: int = 1  # that the current jaxpr runs

  def fresh(self) -> "_Tally":
    return self._replace(macs=Counter())


def _walk(program: core.ClosedJaxpr, origins, tally: _Tally) -> list[_Origin]:
  """Adds up the products of a program; returns the origins of its results."""
  return jaxprs.walk(
    program.jaxpr,
    origins,
    lambda eqn, operands: _step(eqn, operands, tally),
    literal=lambda atom: _CONSTANT,
    constants=[_CONSTANT] * len(program.consts),
  )


def _step(eqn: core.JaxprEqn, origins, tally: _Tally) -> list[_Origin]:
  """Adds up the products of one equation; returns its results' origins."""
  name = eqn.primitive.name
  if name in _PRODUCTS:
    _charge(eqn, origins, tally)
  elif name == "gather" and origins[1] is _DATA:
    tally.lookups.update(origins[0] or ())
  elif name in _LOOPS_AND_BRANCHES:
    return _LOOPS_AND_BRANCHES[name](eqn, origins, tally)
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


def _charge(eqn: core.JaxprEqn, origins, tally: _Tally) -> None:
  """Charges a product of data to the leaves that its other operand reads."""
  if _join(origins) is not _DATA:
    return  # A product of parameters: once per batch, not once per example.
  macs = tally.times * _macs(eqn)
  for leaves, atom in zip(origins, eqn.invars, strict=True):
    if leaves:
      tally.macs.update(_shares(leaves, atom, macs, tally.sizes))
      return
  tally.macs[None] += macs


def _shares(
  leaves: frozenset[int], atom: Any, macs: int, sizes: list[int]
) -> dict[int | None, int]:
  """Splits the cost of an operand among the leaves it was computed from."""
  size = math.prod(jaxprs.shape(atom))
  largest = max(sorted(leaves), key=sizes.__getitem__)
  if sum(sizes[leaf] for leaf in leaves) != size:
    return {largest: macs}
  shares: dict[int | None, int] = {
    leaf: macs * sizes[leaf] // size for leaf in sorted(leaves)
  }
  shares[largest] += macs - sum(shares.values())
  return shares


def _macs(eqn: core.JaxprEqn) -> int:
  """Returns the multiply-adds of one product."""
  left, right = map(jaxprs.shape, eqn.invars)
  outputs = math.prod(jaxprs.shape(eqn.outvars[0]))
  if eqn.primitive.name == "dot_general":
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return outputs * math.prod(left[axis] for axis in contracted)
  features = eqn.params["dimension_numbers"].rhs_spec[0]
  window = math.prod(right) // right[features]
  # A transposed convolution dilates its input with zeros.
  return outputs * window // math.prod(eqn.params["lhs_dilation"])


def _multiplies(eqn: core.JaxprEqn) -> bool:
  """Whether an equation has a product, however deep."""
  if eqn.primitive.name in (*_PRODUCTS, "ragged_dot_general"):
    return True
  return any(
    _multiplies(inner)
    for jaxpr in core.jaxprs_in_params(eqn.params)
    for inner in jaxpr.eqns
  )


def _scan(eqn: core.JaxprEqn, origins, tally: _Tally) -> list[_Origin]:
  body, first, end = jaxprs.scan_body(eqn)
  carried = _carry(body, origins, first, end, tally)
  operands = [*origins[:first], *carried, *origins[end:]]
  times = tally.times * eqn.params["length"]
  return _walk(body, operands, tally._replace(times=times))


def _while(eqn: core.JaxprEqn, origins, tally: _Tally) -> list[_Origin]:
  if _multiplies(eqn):
    raise ValueError(
      "`apply` has a product inside a `while` loop, whose repetitions are not"
      " known. Use `scan`, or `fori_loop` with constant bounds."
    )
  first = eqn.params["cond_nconsts"]
  body = eqn.params["body_jaxpr"]
  constants, end = eqn.params["body_nconsts"], len(body.jaxpr.invars)
  return _carry(body, origins[first:], constants, end, tally)


def _carry(
  body: core.ClosedJaxpr, origins, first: int, end: int, tally: _Tally
) -> list[_Origin]:
  """Returns the origins of a loop's carry, in any iteration."""
  carried = origins[first:end]
  while True:
    operands = [*origins[:first], *carried, *origins[end:]]
    results = _walk(body, operands, tally.fresh())[: end - first]
    joined = [_join(pair) for pair in zip(carried, results, strict=True)]
    if joined == carried:
      return carried
    carried = joined


def _cond(eqn: core.JaxprEqn, origins, tally: _Tally) -> list[_Origin]:
  tallies = [tally.fresh() for _ in eqn.params["branches"]]
  results = [
    _walk(branch, origins[1:], fresh)
    for branch, fresh in zip(eqn.params["branches"], tallies, strict=True)
  ]
  tally.macs.update(max((x.macs for x in tallies), key=Counter.total))
  return [_join(each) for each in zip(*results, strict=True)]


_LOOPS_AND_BRANCHES = {"scan": _scan, "while": _while, "cond": _cond}
