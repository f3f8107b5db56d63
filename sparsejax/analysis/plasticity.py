"""Pruning plasticity: how well a network recovers from being pruned once.

    plasticity = accuracy after k epochs of further training - before pruning
    final gap  = accuracy at the end - that of the run which was not pruned

`prune_once` prunes a network at any moment of its training, and may regrow what
it lost; `measure` follows the network through a loop of yours. `python -m
sparsejax.study.plasticity` measures whole grids with the trainer.

References:
  Liu et al., `Sparse training via boosting pruning plasticity with
  neuroregeneration <https://arxiv.org/abs/2106.10404>`_, 2021, section 3.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from jaxtyping import PyTree

from sparsejax.components import criteria, scopes
from sparsejax.method import (
  Criterion,
  Granularity,
  Key,
  Masks,
  Method,
  Scope,
  single_weights,
)
from sparsejax.methods import pruning
from sparsejax.sparsify import sparsify
from sparsejax.state import get_masks


class Pruned(NamedTuple):
  """A network that was pruned once.

  Attributes:
    params: like the parameters; exact zeros where the mask is False, and where
      a weight was regrown.
    masks: tree of bool like the parameters, `MaskedNode` at dense leaves.
  """

  params: PyTree
  masks: Masks


class Measured(NamedTuple):
  """Accuracies around one pruning, as `measure` found them.

  Attributes:
    before: just before pruning.
    pruned: just after it, before further training.
    after: after further training.
  """

  before: Any
  pruned: Any
  after: Any

  @property
  def plasticity(self) -> Any:
    """`after - before`: 0 where the network recovers fully."""
    return self.after - self.before

  def final_gap(self, final: Any) -> Any:
    """Returns `after - final`, for training that went to the end.

    Args:
      final: accuracy at the end of the run that was not pruned.
    """
    return self.after - final


def prune_once(
  params: PyTree,
  masks: Masks,
  rate: float,
  *,
  grads: PyTree | None = None,
  hvp: Callable[[PyTree], PyTree] | None = None,
  key: Key | None = None,
  scope: Scope = scopes.global_scope,
  criterion: Criterion = criteria.magnitude,
  regrow_by: Criterion | None = None,
  round_up: bool = True,
  granularity: Granularity = single_weights,
) -> Pruned:
  """Prunes a fraction of the active weights, and may regrow as many.

  One update of `sparsejax.one_shot` that takes no optimizer step. The paper
  trains on with a new optimizer: give the masks to `sparsify(inner,
  sparsejax.dense(), masks=...)`, and init it with the parameters.

  Args:
    params: the sparse network, any pytree.
    masks: its masks; `sparsejax.masks_from_params` makes those of a checkpoint.
    rate: fraction of the active weights to prune, in [0, 1]; not traced.
      `ceil(rate A)` of A active weights are pruned.
    grads: the dense gradient at `params`, for criteria that read it.
    hvp: as in the `update` of `sparsify`, for criteria that need it.
    key: random key, for `regrow_by`: positions with a score of exactly 0 are
      regrown at random.
    scope: which weights compete when they are pruned.
    criterion: what a weight is worth.
    regrow_by: what is regrown first; every layer regrows as many weights as it
      lost. None regrows nothing.
    round_up: whether `rate A` is rounded up, or down.
    granularity: what is pruned and regrown as one, such as filters. The leaves
      that follow an inactive filter hold what it regrows with.

  Returns:
    The network and its masks.

  Raises:
    ValueError: if the rate is out of range, or an argument that a criterion
      needs is missing.

  Examples:
    >>> import jax.numpy as jnp
    >>> params = {"kernel": jnp.array([[3.0, -1.0], [0.0, 0.2]])}
    >>> masks = {"kernel": params["kernel"] != 0}
    >>> prune_once(params, masks, 0.5).params["kernel"].tolist()
    [[3.0, 0.0], [0.0, 0.0]]
  """
  method = _one_shot(rate, scope, criterion, regrow_by, round_up, granularity)
  if grads is None and not method.updates_without_gradient:
    raise ValueError(
      "`grads` must be given to a criterion that reads the gradient, got None."
      " Pass jax.grad(loss)(params)."
    )
  unused: Any = optax.tree.zeros_like(params)
  tx = sparsify(optax.set_to_zero(), method, key=key, masks=masks)
  updates, state = tx.update(
    unused if grads is None else grads, tx.init(params), params, hvp=hvp
  )
  return Pruned(optax.apply_updates(params, updates), get_masks(state))


@functools.cache
def _one_shot(
  rate: float,
  scope: Scope,
  criterion: Criterion,
  regrow_by: Criterion | None,
  round_up: bool,
  granularity: Granularity,
) -> Method:
  """Returns one object per choice, so that it is compiled once."""
  return pruning.one_shot(
    rate=rate,
    at_step=1,
    scope=scope,
    criterion=criterion,
    regrow_by=regrow_by,
    round_up=round_up,
    granularity=granularity,
  )


def measure(
  params: PyTree,
  masks: Masks,
  rate: float,
  *,
  train: Callable[[Pruned], PyTree],
  evaluate: Callable[[PyTree], Any],
  **options: Any,
) -> Measured:
  """Prunes a network, trains on, and evaluates it at three moments.

  Args:
    params: the sparse network.
    masks: its masks.
    rate: as in `prune_once`.
    train: (the pruned network) -> its parameters after further training: k
      epochs at the learning rate of this moment for the plasticity (the paper:
      30 of 160), all that is left of the schedule for the final gap.
    evaluate: (params) -> the accuracy.
    **options: other arguments of `prune_once`.

  Returns:
    The accuracies.
  """
  pruned = prune_once(params, masks, rate, **options)
  return Measured(
    before=evaluate(params),
    pruned=evaluate(pruned.params),
    after=evaluate(train(pruned)),
  )
