"""What a process compiles once for all branches, and how it follows one."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

import sparsejax
from sparsejax.analysis import plasticity
from sparsejax.components import trees
from sparsejax.method import Input
from sparsejax.study.plasticity import continuation, protocol as protocols
from sparsejax.study.plasticity.protocol import Branch, Protocol
from sparsejax.training import (
  batch_gradient,
  initial_state,
  programs,
  sharding,
  weight_sharding,
)
from sparsejax.training.config.experiment import Experiment
from sparsejax.training.train_state import Setup, TrainState

# Folded into the mask key for regrowth; `sparsify` folds in step numbers.
_REGROWTH, _SCORING = 2**31 - 2, 2**31 - 3


class Origin(NamedTuple):
  """A run at a step: what its branches start from.

  Attributes:
    state: its state.
    scores: what criteria read.
    accuracy: test accuracy, in [0, 1].
  """

  state: TrainState
  scores: "Scores"
  accuracy: float


class Scores(NamedTuple):
  """What criteria read at the weights before pruning; `()` where none does.

  Attributes:
    grads: the mean gradient of some training batches.
    hessian_gradient: the mean product of their Hessians with it, of active
      weights.
  """

  grads: Any
  hessian_gradient: Any


class Lab:
  """Compiles every program once.

  Runs of all sparsities share their programs: what differs is in their states.
  """

  def __init__(
    self,
    experiment: Experiment,
    held: Experiment,
    protocol: Protocol,
    mesh: Mesh,
  ):
    """Prepares; compiles nothing yet.

    Args:
      experiment: of any of the runs.
      held: the same with a learning rate that does not advance.
      protocol: of the grid.
      mesh: device mesh.
    """
    self.experiment, self.protocol, self.mesh = experiment, protocol, mesh
    self.abstract = initial_state.abstract(experiment, mesh)
    self._setups = {
      protocols.FINAL_GAP: self._sharded(experiment.setup),
      protocols.PLASTICITY: self._sharded(held.setup),
    }
    self._programs: dict[str, programs.Programs] = {}
    self._begin: Callable[..., TrainState] = jax.jit(
      self._begin_unjitted,
      static_argnums=(0, 1),
      out_shardings=sharding.of(self.abstract),
    )
    self._gradient = jax.jit(functools.partial(_gradient, self._setup))
    self._product = jax.jit(functools.partial(_product, self._setup))

  @property
  def _setup(self) -> Setup:
    return self._setups[protocols.FINAL_GAP]

  def compiled(self, measure: str, state: TrainState) -> programs.Programs:
    """Returns the programs of a measure, compiled when first asked for.

    Those of the final gap are also those of the runs.

    Args:
      measure: one of `protocol.MEASURES`.
      state: any state of the grid.
    """
    if measure not in self._programs:
      self._programs[measure] = programs.compile(
        self._setups[measure], self.experiment.dataset, state, self.mesh
      )
    return self._programs[measure]

  def test(self, state: TrainState) -> dict[str, float]:
    """Returns `test_accuracy` and `test_loss` of a state."""
    compiled = self.compiled(protocols.FINAL_GAP, state)
    (found,) = programs.mean_metrics(compiled, ["test"], state)
    return found

  def origin(self, state: TrainState) -> Origin:
    """Returns what the branches of a run at some step start from."""
    scores = Scores((), ())
    reads = self._reads()
    gradients = {Input.GRADIENT, Input.ACTIVE_GRADIENT}
    if reads & {*gradients, Input.HESSIAN_GRADIENT}:
      grads = self._mean(lambda batch: self._gradient(state, batch))
      scores = scores._replace(grads=grads)
    if Input.HESSIAN_GRADIENT in reads:
      scores = scores._replace(
        hessian_gradient=self._mean(
          lambda batch: self._product(state, batch, scores.grads)
        )
      )
    accuracy = self.test(state)["test_accuracy"]
    return Origin(state, scores, accuracy)

  def begin(self, branch: Branch, origin: Origin) -> TrainState:
    """Returns the first state of a branch."""
    return self._begin(branch.rate, branch.regrow, origin.state, origin.scores)

  def _begin_unjitted(
    self, rate: float, regrow: bool, state: TrainState, scores: Scores
  ) -> TrainState:
    key = jax.random.fold_in(self.experiment.mask_key, _REGROWTH)
    pruned = plasticity.prune_once(
      continuation.with_followers(state),
      sparsejax.get_masks(state.opt_state),
      rate,
      grads=scores.grads or None,
      hvp=lambda _: scores.hessian_gradient,
      key=jax.random.fold_in(key, state.step),
      scope=self.protocol.scope,
      criterion=self.protocol.criterion,
      regrow_by=self.protocol.regrow_by if regrow else None,
      round_up=self.protocol.round_up,
      granularity=self.experiment.recipe.method.granularity,
    )
    branch = continuation.start(self._setup, state, pruned)
    if self.protocol.reset_optimizer:
      return branch
    return continuation.with_optimizer_of(state, branch, self.experiment.inner)

  def _sharded(self, setup: Setup) -> Setup:
    return setup._replace(
      shard=sharding.batch_sharder(self.mesh),
      gather=weight_sharding.gatherer(sharding.of(self.abstract.params)),
    )

  def _reads(self) -> set[Any]:
    regrow_by = (
      self.protocol.regrow_by.reads if any(self.protocol.regrow) else ()
    )
    return {*self.protocol.criterion.reads, *regrow_by}

  def _mean(self, of_batch: Callable[[Any], Any]) -> Any:
    """Returns the mean of a tree over the batches that are scored."""
    key = jax.random.fold_in(self.experiment.mask_key, _SCORING)
    batches = initial_state.examples(
      self.experiment.dataset, key, self._setup.batch_size
    )
    number, total = self.protocol.gradient_batches, None
    for examples in itertools.islice(batches, number):
      found = of_batch(jax.tree.map(jnp.asarray, examples))
      total = found if total is None else jax.tree.map(jnp.add, total, found)
    return jax.tree.map(lambda x: x / number, total)


def active(state: TrainState) -> int:
  """Returns the number of active weights."""
  return int(sharding.fetch(state.counters.active).sum())


def _gradient(setup: Setup, state: TrainState, examples: Any) -> Any:
  """Returns the dense gradient of a batch, drawn as for evaluation."""
  batch = jax.tree.map(setup.shard, setup.task.draw(None, examples))
  key = jax.random.wrap_key_data(state.key)
  found, _ = batch_gradient.batch_gradient(setup, state, batch, key)
  return found.grads


def _product(setup: Setup, state: TrainState, examples: Any, grads: Any) -> Any:
  """Returns the Hessian of a batch times the gradient of active weights."""
  direction = trees.map_masked(
    lambda mask, g: jnp.where(mask, g, jnp.zeros_like(g)),
    sparsejax.get_masks(state.opt_state),
    grads,
    dense=jnp.zeros_like,
  )
  return jax.jvp(
    lambda params: _gradient(setup, state._replace(params=params), examples),
    (state.params,),
    (direction,),
  )[1]
