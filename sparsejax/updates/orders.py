"""Orders of the mask update and the optimizer step within one call.

Each is one function of a `Call`. `update_only` is a mask update without a step,
for loops that update masks before they compute the gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from sparsejax.method import InnerStep, MaskChange, Method
from sparsejax.state import SparseState
from sparsejax.updates import inner_state as inner_states
from sparsejax.updates.mask_update import maybe_update
from sparsejax.updates.optimizer_step import Call


class Outcome(NamedTuple):
  """The result of a call; the state, but for its `inner_state` and `latent`."""

  change: MaskChange
  step: InnerStep
  state: SparseState


def step_then_update(call: Call) -> Outcome:
  """Scores the moved weights with the gradient of the step (GraNet, ITOP)."""
  accumulators = call.accumulate(call.masks, call.state.accumulators)
  change, state = maybe_update(
    call, accumulators, call.next_step, call.after_step
  )
  step = call.step_at_old_masks(change)
  step = step._replace(
    inner_state=_reset_all(call, change.done, step.inner_state)
  )
  return Outcome(change, step, state._replace(step=call.next_step))


def update_then_step(call: Call) -> Outcome:
  """Takes the step with the new masks (once an epoch: OptG, SET by metric).

  The gradient of that step was taken at the old ones. Where a loop calls
  `update_only` before it computes the gradient, no update is due here.
  """
  change, state = maybe_update(
    call, call.state.accumulators, call.state.step, call.before_step
  )
  fresh = _reset_all(call, change.done, call.state.inner_state)
  call = call._replace(state=call.state._replace(inner_state=fresh))
  step = call.step_at_new_masks(change, state.accumulators)
  accumulators = call.accumulate(
    jax.tree.leaves(change.new), state.accumulators
  )
  return Outcome(
    change._replace(keep=change.new),  # What restarts has moved from 0 already.
    step,
    state._replace(step=call.next_step, accumulators=accumulators),
  )


def update_instead_of_step(call: Call) -> Outcome:
  """Spends the step on a mask update where one is due (RigL)."""
  change, state = maybe_update(
    call, call.state.accumulators, call.state.step, call.before_step
  )
  step = call.step_at_old_masks(change)
  entering = call.reset(call.state.inner_state, change.keep)
  zeros = optax.tree.zeros_like(step.updates)
  accumulators = call.accumulate(call.masks, state.accumulators)
  return Outcome(
    change,
    step._replace(
      updates=_select(change.done, zeros, step.updates),
      inner_state=_select(change.done, entering, step.inner_state),
    ),
    state._replace(
      step=jnp.where(change.done, call.state.step, call.next_step),
      accumulators=_select(change.done, state.accumulators, accumulators),
    ),
  )


def update_only(call: Call) -> Outcome:
  """Updates the masks without a step, by weights and accumulators alone."""
  change, state = maybe_update(
    call, call.state.accumulators, call.state.step, call.before_step
  )
  weights, inner_state = call.weights(call.masks), call.state.inner_state
  inner_state = _reset_all(call, change.done, inner_state)
  inner_state = call.reset(inner_state, change.keep)
  step = InnerStep(weights, optax.tree.zeros_like(weights), inner_state)
  return Outcome(change, step, state)


def between_steps(method: Method) -> bool:
  """Whether a loop should call `update_only` before a step whose update is due.

  Then the gradient of that step is taken at the new masks, as in the papers of
  the methods that update masks before a step.
  """
  return method.order is update_then_step and method.updates_without_gradient


def _reset_all(
  call: Call, condition: Array, inner_state: optax.OptState
) -> optax.OptState:
  if not call.method.reset_optimizer:
    return inner_state
  return inner_states.reset_all(call.inner, inner_state, condition, call.params)


def _select(condition: Array, if_true: PyTree, if_false: PyTree) -> PyTree:
  return jax.tree.map(
    lambda a, b: jnp.where(condition, a, b), if_true, if_false
  )
