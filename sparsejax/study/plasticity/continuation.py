"""How a branch trains on: its first state, and its learning rate."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from sparsejax.analysis.plasticity import Pruned
from sparsejax.components import trees
from sparsejax.state import map_sparse_states, sparse_states
from sparsejax.training import train_state
from sparsejax.training.train_state import Setup, TrainState, Weights
from sparsejax.updates import inner_state as inner_states


def hold_learning_rate(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Returns the optimizer with a learning rate that stays as it is.

  The counts of learning-rate schedules do not advance; all other state does.
  """
  inner = optax.with_extra_args_support(inner)

  def update(
    updates: Any, state: Any, params: Any = None, **extra_args: Any
  ) -> tuple[Any, Any]:
    updates, new = inner.update(updates, state, params, **extra_args)
    held = jax.tree.map(
      lambda after, before: before if _is_schedule(after) else after,
      new,
      state,
      is_leaf=_is_schedule,
    )
    return updates, held

  return optax.GradientTransformationExtraArgs(inner.init, update)


def with_followers(state: TrainState) -> Any:
  """Returns the parameters with those of biases and scales of dead filters."""
  (sparse,) = sparse_states(state.opt_state)
  if not sparse.followers:
    return state.params
  return trees.map_masked(
    lambda mask, value, param: jnp.where(mask, param, value),
    sparse.followers.masks,
    sparse.followers.values,
    state.params,
    dense=lambda value, param: param,
  )


def start(setup: Setup, state: TrainState, pruned: Pruned) -> TrainState:
  """Returns the state of a branch whose optimizer starts anew.

  Args:
    setup: static.
    state: of the run, before pruning.
    pruned: the network to train.

  Returns:
    A state at the step of the run, with its data order and learning rate.
  """
  new = train_state.from_weights(
    setup,
    Weights(pruned.params, state.model_state),
    jax.random.wrap_key_data(state.key),
    pruned.masks,
  )

  def at_step(sparse: Any) -> Any:
    counted = jax.tree.map(
      lambda node: (
        node._replace(count=state.step.astype(node.count.dtype))
        if _is_schedule(node)
        else node
      ),
      sparse.inner_state,
      is_leaf=_is_schedule,
    )
    return sparse._replace(step=state.step, inner_state=counted)

  return new._replace(
    step=state.step, opt_state=map_sparse_states(at_step, new.opt_state)
  )


def with_optimizer_of(
  state: TrainState, branch: TrainState, inner: optax.GradientTransformation
) -> TrainState:
  """Returns a branch that keeps the optimizer state of the run.

  That of weights which were pruned, or restart, is reset, as a mask update
  does. Where nothing was pruned the result is the state of the run.

  Args:
    state: of the run, before pruning.
    branch: as `start` returns it.
    inner: the optimizer.
  """
  (old,), (new,) = map(sparse_states, (state.opt_state, branch.opt_state))
  keep = trees.map_masked(
    lambda before, after, p, q: before & after & (p == q),
    old.masks,
    new.masks,
    state.params,
    branch.params,
    dense=lambda *_: optax.MaskedNode(),
  )
  inner_state = inner_states.reset(inner, old.inner_state, keep, branch.params)
  followers = old.followers
  if followers and new.followers:
    followers = followers._replace(masks=new.followers.masks)
  kept = old._replace(
    masks=new.masks,
    units=new.units,
    requested=new.requested,
    followers=followers,
    inner_state=inner_state,
  )
  return state._replace(
    params=branch.params,
    opt_state=map_sparse_states(lambda _: kept, state.opt_state),
  )


def _is_schedule(node: Any) -> bool:
  return isinstance(node, optax.ScaleByScheduleState)
