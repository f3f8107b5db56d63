"""Traced programs without calls, and one way to walk through them."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
from jax.extend import core
from jaxtyping import PyTree

_T = TypeVar("_T")

# Their inner arrays are parts of the outer ones, or products of another kind.
_OPAQUE = ("shard_map", "pallas_call", "ragged_dot_general")
_WITH_BODIES = ("scan", "while", "cond")


def trace(apply: Callable[..., Any], *args: PyTree) -> core.ClosedJaxpr:
  """Returns the program of a function, with all calls replaced by their bodies.

  What `jit`, `checkpoint`, `custom_jvp` and `custom_vjp` wrap becomes a part of
  the program; the bodies of `scan`, `while` and `cond` stay, and have no calls
  either. No variable occurs in two bodies.

  Args:
    apply: function of trees of arrays.
    *args: its arguments: arrays, or shapes with dtypes.

  Returns:
    A program from the leaves of the arguments to the leaves of the result.
  """
  return _inlined(jax.make_jaxpr(apply)(*args))


def walk(
  jaxpr: core.Jaxpr,
  operands: Sequence[_T],
  step: Callable[[core.JaxprEqn, list[_T]], Sequence[_T]],
  *,
  literal: Callable[[Any], _T],
  constants: Sequence[_T] = (),
) -> list[_T]:
  """Interprets a program with values of any kind in place of arrays.

  Args:
    jaxpr: the program.
    operands: a value for each of its inputs.
    step: (equation, values of its operands) -> values of its results.
    literal: value of an array or a number that stands in the program.
    constants: a value for each of its constants.

  Returns:
    A value for each of its results.
  """
  known = dict(zip(jaxpr.constvars, constants, strict=True))
  known |= dict(zip(jaxpr.invars, operands, strict=True))

  def value(atom: Any) -> _T:
    return literal(atom) if isinstance(atom, core.Literal) else known[atom]

  for eqn in jaxpr.eqns:
    results = step(eqn, [value(atom) for atom in eqn.invars])
    known |= dict(zip(eqn.outvars, results, strict=True))
  return [value(atom) for atom in jaxpr.outvars]


def shape(atom: Any) -> tuple[Any, ...]:
  """Returns the shape of a variable or a literal; sizes may be symbolic."""
  return atom.aval.shape


def dtype(atom: Any) -> Any:
  """Returns the dtype of a variable or a literal."""
  return atom.aval.dtype


def called(eqn: core.JaxprEqn) -> core.ClosedJaxpr | None:
  """Returns the program that an equation calls with its own operands, if any.

  A loop or a branch is not a call.
  """
  if eqn.primitive.name in (*_OPAQUE, *_WITH_BODIES):
    return None
  for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
    inner = eqn.params.get(key)
    if isinstance(inner, core.Jaxpr):
      inner = core.ClosedJaxpr(inner, ())
    if isinstance(inner, core.ClosedJaxpr):
      if len(inner.jaxpr.invars) == len(eqn.invars):
        return inner
  return None


def scan_body(eqn: core.JaxprEqn) -> tuple[core.ClosedJaxpr, int, int]:
  """Returns the body of a scan, and where its carry begins and ends.

  Before the carry stand the operands that are the same in every iteration,
  after it those that are sliced.
  """
  body = eqn.params["jaxpr"]
  # From the shapes, since the parameters' names differ between versions: the
  # body sees a slice of what is scanned over and returns one of a result.
  end = _num_alike(eqn.invars, body.jaxpr.invars)
  return body, end - _num_alike(eqn.outvars, body.jaxpr.outvars), end


def bind(eqn: core.JaxprEqn, operands: Sequence[Any], **params: Any) -> list:
  """Runs one equation on arrays.

  Args:
    eqn: the equation.
    operands: its operands.
    **params: what differs from its own parameters.

  Returns:
    Its results.
  """
  found: Any = eqn.primitive.get_bind_params({**eqn.params, **params})
  result = eqn.primitive.bind(*operands, **found)
  return list(result) if eqn.primitive.multiple_results else [result]


def _inlined(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
  shapes = [
    jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype)
    for v in closed.jaxpr.invars
  ]
  # A new function object, so that no program shares its variables with another.
  return jax.make_jaxpr(functools.partial(_run, closed))(*shapes)


def _run(closed: core.ClosedJaxpr, *operands: Any) -> list[Any]:
  return walk(
    closed.jaxpr,
    operands,
    _run_step,
    literal=lambda atom: atom.val,
    constants=closed.consts,
  )


def _run_step(eqn: core.JaxprEqn, operands: list[Any]) -> list[Any]:
  inner = called(eqn)
  if inner is not None:
    return _run(inner, *operands)
  bodies = dict(_bodies(eqn)) if eqn.primitive.name in _WITH_BODIES else {}
  with eqn.ctx.manager:
    return bind(eqn, operands, **bodies)


def _bodies(eqn: core.JaxprEqn) -> Iterator[tuple[str, Any]]:
  """Yields the parameters of a loop or a branch that are programs, inlined."""
  for key, value in eqn.params.items():
    if isinstance(value, core.ClosedJaxpr):
      yield key, _inlined(value)
    elif isinstance(value, tuple) and value:
      if all(isinstance(each, core.ClosedJaxpr) for each in value):
        yield key, tuple(map(_inlined, value))


def _num_alike(outside: Sequence[Any], inside: Sequence[Any]) -> int:
  """Returns how many values have the same shape outside and inside a loop."""
  pairs = zip(outside, inside, strict=True)
  return sum(shape(a) == shape(b) for a, b in pairs)
