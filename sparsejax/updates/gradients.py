"""Which gradients a method reads: what its training costs depends on it."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Float, PyTree

from sparsejax.components import trees
from sparsejax.method import Method, Moment, Seen, Start, Update

DenseGradient = Literal["never", "at updates", "every step"]

# A convolution, since some criteria look at the planes of a kernel.
_SHAPE = (3, 3, 4, 4)
_RNG = np.random.RandomState(0)
_WEIGHTS, *_GRADIENTS = _RNG.normal(size=(3, *_SHAPE)).astype(np.float32)


def dense_gradient(method: Method) -> DenseGradient:
  """Says in which steps a method reads the gradient of weights that are off.

  It is found out by calling the slots on a small leaf whose weights are all
  off, with two gradients, and looking whether the results differ. So it holds
  for any composition, and nothing has to be declared.

  Args:
    method: what `sparsejax.granet(...)` and the like return.

  Returns:
    "every step" where a memory follows that gradient (OptG, sparse momentum)
    or the step applies it (DPF); "at updates" where nothing but the mask
    updates looks at it (RigL, GraNet); "never" where its cost can be saved.
  """
  if any(map(_reads, _in_steps(method))):
    return "every step"
  return "at updates" if any(map(_reads, _in_updates(method))) else "never"


class _Look(NamedTuple):
  """What slots see of a method that has just begun."""

  seen: Seen
  memory: dict[str, PyTree]
  layout: trees.Layout


_Slot = Callable[[_Look], Any]


def _look(method: Method, grad: Float[Array, "..."]) -> _Look:
  params = {"kernel": jnp.asarray(_WEIGHTS)}
  masks = {"kernel": jnp.zeros(_SHAPE, bool)}
  layout = trees.layout(params, [True])
  start = Start(params, masks, layout)
  memory = {name: slot.init(start) for name, slot in method.memory.items()}
  of_leaf = {
    name: jax.tree.leaves(slot.leaves(memory[name]))[0]
    for name, slot in method.memory.items()
    if slot.leaves is not None
  }
  seen = Seen(
    param=params["kernel"],
    grad=grad,
    mask=masks["kernel"],
    memory=of_leaf,
    key=jax.random.key(0),
  )
  return _Look(seen, memory, layout)


def _in_steps(method: Method) -> Iterator[Callable[[Array], Any]]:
  """Yields what every step computes, as functions of the gradient."""
  storage = method.storage
  slots: list[_Slot] = [
    lambda look: storage.gradient(look.seen),
    lambda look: storage.move(look.seen, jnp.ones(_SHAPE)),
  ]
  slots += [
    lambda look, name=name, step=slot.step: step(
      look.memory[name], Moment(jnp.zeros((), jnp.int32), [look.seen])
    )
    for name, slot in method.memory.items()
    if slot.step is not None
  ]
  return _of_gradient(method, slots)


def _in_updates(method: Method) -> Iterator[Callable[[Array], Any]]:
  """Yields what mask updates compute, as functions of the gradient."""
  regrow, pattern = method.regrow, method.pattern
  slots: list[_Slot] = []
  if regrow is not None:
    slots += [
      lambda look: regrow.by(look.seen),
      lambda look: regrow.prune_by(look.seen),
    ]
  if method.prunes and pattern is None:
    slots.append(lambda look: method.criterion(look.seen))
  if method.prunes and pattern is not None:
    slots.append(lambda look: pattern(method.criterion(look.seen), look.seen))
  slots += [
    lambda look, name=name, observe=slot.observe: observe(
      look.memory[name], _update(look)
    )
    for name, slot in method.memory.items()
    if slot.observe is not None
  ]
  return _of_gradient(method, slots)


def _of_gradient(
  method: Method, slots: list[_Slot]
) -> Iterator[Callable[[Array], Any]]:
  for slot in slots:
    yield lambda grad, slot=slot: slot(_look(method, grad))


def _update(look: _Look) -> Update:
  return Update(
    step=jnp.ones((), jnp.int32),
    metric=jnp.full((), 0.5, jnp.float32),
    seen=[look.seen],
    lost=jnp.zeros(1, jnp.int32),
    layout=look.layout,
  )


def _reads(function: Callable[[Array], Any]) -> bool:
  """Says whether the results differ from one gradient to another.

  Most do not depend on it at all, which a trace tells without computing them.
  """
  if not _depends(function):
    return False
  with jax.ensure_compile_time_eval():
    one, other = (
      jax.tree.leaves(jax.jit(function)(jnp.asarray(grad)))
      for grad in _GRADIENTS
    )
    return not all(map(np.array_equal, one, other))


def _depends(function: Callable[[Array], Any]) -> bool:
  """Says whether anything leads from the argument to a result."""
  jaxpr = jax.make_jaxpr(function)(_GRADIENTS[0]).jaxpr
  reached = set(jaxpr.invars)

  def is_reached(atom: Any) -> bool:
    return not isinstance(atom, core.Literal) and atom in reached

  for eqn in jaxpr.eqns:
    if any(map(is_reached, eqn.invars)):
      reached |= set(eqn.outvars)
  return any(map(is_reached, jaxpr.outvars))
