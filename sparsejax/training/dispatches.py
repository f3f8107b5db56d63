"""Dispatches: several training steps per call of the host.

With resident data a dispatch is one program that selects its batches. With
streamed data each step is one call, and so it is with convolutions on a CPU.
"""

import collections
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from sparsejax.data import Resident, Stream, batches
from sparsejax.training import (
  forward,
  input_pipeline,
  replicas,
  sharding,
  train_step,
)
from sparsejax.training.train_state import Setup, TrainState

TrainDispatch = Callable[[TrainState], tuple[TrainState, train_step.Metrics]]
MaskUpdate = Callable[[TrainState], TrainState]


class Target(NamedTuple):
  """What a program is compiled for.

  Attributes:
    setup: static.
    state: a state, or its shapes with shardings.
    mesh: device mesh.
  """

  setup: Setup
  state: TrainState
  mesh: Mesh


def compile_dispatches(
  target: Target, train: Resident | Stream, *, trains: bool
) -> TrainDispatch:
  """Compile dispatches of training steps.

  Args:
    target: what to compile for.
    train: the training split.
    trains: whether any step is left; if not, nothing is compiled.

  Returns:
    A function that runs the next dispatch.
  """
  setup, state, mesh = target
  if isinstance(train, Stream):
    key = jax.random.wrap_key_data(sharding.fetch(state.key))
    seed = batches.stream_seed(
      key
    )  # Now: transfers are disallowed in the loop.
    return _step_by_step(
      target,
      functools.partial(train_step.step_on_batch, setup),
      lambda first: input_pipeline.train_batches(
        train,
        seed=seed,
        batch_size=setup.batch_size,
        first_step=first,
        mesh=mesh,
      ),
      input_pipeline.batch_shapes(
        train, batch_size=setup.batch_size, mesh=mesh
      ),
      train.example,
      trains,
    )
  if _is_slow_in_a_loop(target, train.example):
    return _step_by_step(
      target,
      replicas.mapped(
        functools.partial(train_step.step_from_split, setup),
        setup.replicas,
        in_axes=(replicas.STATE, 0, None),
        out_axes=(replicas.STATE, 0),
      ),
      lambda first: itertools.repeat(train),
      train,
      train.example,
      trains,
    )
  dispatch: Any = jax.jit(
    replicas.mapped(
      functools.partial(train_step.run_dispatch, setup),
      setup.replicas,
      in_axes=(replicas.STATE, None),
      out_axes=(replicas.STATE, 0),
    ),
    donate_argnums=0,
    out_shardings=(sharding.of(state), sharding.replicated(mesh)),
  )
  if trains:
    dispatch = dispatch.lower(state, train).compile()
  return lambda state: dispatch(state, train)


def compile_mask_update(target: Target, *, trains: bool) -> MaskUpdate | None:
  """Compile the mask update between two steps.

  Args:
    target: what to compile for.
    trains: whether any step is left; if not, nothing is compiled.

  Returns:
    A function that updates the masks where an update may be due, and donates
    the state; `None` if the method updates masks in its steps.
  """
  setup, state, _ = target
  if not setup.mask_update_steps:
    return None
  update: Any = jax.jit(
    replicas.mapped(
      functools.partial(train_step.update_masks, setup),
      setup.replicas,
      in_axes=(replicas.STATE,),
      out_axes=replicas.STATE,
    ),
    donate_argnums=0,
    out_shardings=sharding.of(state),
  )
  if trains:
    update = update.lower(state).compile()

  def update_if_due(state: TrainState) -> TrainState:
    due = int(sharding.fetch(state.step)) % setup.mask_update_steps == 0
    return update(state) if due else state

  return update_if_due


def dispatch_end(setup: Setup, first: int) -> int:
  """Returns the step at which the dispatch that starts after `first` ends."""
  return min(setup.dispatch_ends(first))


def _is_slow_in_a_loop(target: Target, example: Any) -> bool:
  """Returns whether the model has convolutions, and runs on a CPU.

  There, XLA takes 55 times as long for their gradients inside a loop (two
  layers of 16 channels on 128 inputs of 32 by 32: 57 ms outside, 3 s inside).
  """
  setup, state, mesh = target
  if mesh.devices.flat[0].platform != "cpu":
    return False

  def outputs(state: TrainState) -> Any:
    return forward.apply_model(
      setup.model,
      state.params,
      state.model_state,
      setup.task.draw(None, example).inputs,
      constants=setup.layout.collections(state.opt_state),
    )

  of_all = replicas.mapped(
    outputs, setup.replicas, in_axes=(replicas.STATE,), out_axes=0
  )
  traced = jax.make_jaxpr(of_all)(state)
  return "conv_general_dilated" in str(traced)


def _step_by_step(
  target: Target,
  step: Callable[..., tuple[TrainState, train_step.Metrics]],
  source: Callable[[int], Iterator[Any]],
  reads: Any,
  example: Any,
  trains: bool,
) -> TrainDispatch:
  """Returns dispatches in which every step is one call.

  Args:
    target: what to compile for.
    step: (state, history, examples) -> state and history after a step.
    source: the examples of the steps from a given one on.
    reads: what a step reads: examples or a split, or their shapes.
    example: a blank example.
    trains: whether to compile the step.
  """
  setup, state, mesh = target
  take_step, empty_history = _step_programs(
    target, step, reads, example, trains
  )
  position, examples = -1, iter(())

  def train(state: TrainState) -> tuple[TrainState, train_step.Metrics]:
    nonlocal position, examples
    first = int(sharding.fetch(state.step))
    if first != position:
      examples = source(first)
    position = dispatch_end(setup, first)
    history = empty_history()
    running: collections.deque[jax.Array] = collections.deque()
    for _ in range(first, position):
      state, history, done = take_step(state, history, next(examples))
      running.append(done)
      # The host may run a few steps ahead, but not a whole dispatch.
      if len(running) > input_pipeline.PREFETCH:
        jax.block_until_ready(running.popleft())
    return state, history

  return train


def _step_programs(
  target: Target,
  step: Callable[..., tuple[TrainState, train_step.Metrics]],
  reads: Any,
  example: Any,
  trains: bool,
) -> tuple[Any, Callable[[], train_step.Metrics]]:
  """Returns the compiled step, and a program that makes an empty history."""
  setup, state, mesh = target
  whole = sharding.replicated(mesh)

  def take_step(
    state: TrainState, history: train_step.Metrics, examples: Any
  ) -> tuple[TrainState, train_step.Metrics, jax.Array]:
    state, history = step(state, history, examples)
    return state, history, state.step

  shapes = jax.eval_shape(
    replicas.mapped(
      functools.partial(train_step.empty_history, setup),
      setup.replicas,
      in_axes=(replicas.STATE, None),
      out_axes=0,
    ),
    state,
    train_step.batch_shapes(example, setup.batch_size),
  )
  compiled: Any = jax.jit(
    take_step,
    donate_argnums=(0, 1),
    out_shardings=(sharding.of(state), whole, whole),
  )
  if trains:
    compiled = compiled.lower(state, shapes, reads).compile()
  empty_history = jax.jit(
    lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
    out_shardings=whole,
  )
  return compiled, empty_history
