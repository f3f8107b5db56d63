"""One call of `update`: what goes in, and the optimizer step.

Decides what the inner optimizer sees and what happens to its state: `zeroed`
storage resets the state of pruned weights (`Call.step_at_old_masks`,
`Call.step_at_new_masks`), other storage leaves it alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from sparsejax.components import trees
from sparsejax.method import (
  Context,
  InnerStep,
  Input,
  Key,
  Layout,
  MaskChange,
  Masks,
  Method,
)
from sparsejax.selection import random_bits
from sparsejax.selection.bitmasks import Carrier
from sparsejax.state import SparseState
from sparsejax.updates import (
  context as contexts,
  followers,
  inner_state as inner_states,
)


class Call(NamedTuple):
  """One call of `update`.

  Attributes:
    method: the parts.
    inner: the inner transformation.
    layout: the sparse leaves; lists below are in its order.
    params: tree that the user holds, before the step.
    grads: tree of dense gradients; None for a mask update without a step.
    state: before the call.
    carrier: packs masks into bits, and unpacks them.
    bits: the masks before, packed.
    masks: the masks before, unpacked from `bits`. Use these and not those of
      `state`: a second reader of the stored masks makes XLA copy them at every
      step.
    key: typed key of the run, or None.
    metric: float32[], or None.
    hvp: (tree like `params`) -> the product of the Hessian with it, or None.
    extra_args: for the inner optimizer.
  """

  method: Method
  inner: optax.GradientTransformationExtraArgs
  layout: Layout
  params: PyTree
  grads: PyTree | None
  state: SparseState
  carrier: Carrier
  bits: Sequence[Array]
  masks: Sequence[Array]
  key: Key | None
  metric: Float[Array, ""] | None
  hvp: Callable[[PyTree], PyTree] | None
  extra_args: dict[str, Any]

  @property
  def next_step(self) -> Int[Array, ""]:
    """int32[], the number of completed steps after this one."""
    return jnp.asarray(optax.safe_increment(self.state.step))

  def weights(self, masks: Sequence[Array]) -> PyTree:
    """Returns the tree that the inner optimizer steps, given the old masks."""
    return self.method.storage.weights(
      self.params, self.state.latent, self.layout.masked_tree(masks)
    )

  def context(self, masks, weights, accumulators) -> Context:
    """Returns what storage and accumulators see of this step."""
    layout, step = self.layout, self.state.step
    leaves = contexts.leaves_of(
      self.method,
      layout,
      layout.take(weights),
      layout.take(self.grads),
      masks,
      accumulators,
    )
    context = Context(layout, leaves, step, self.key, self.metric, accumulators)
    if Input.KEY not in self.method.storage.reads:
      return context
    keyed = contexts.with_keys(context, step, random_bits.STEP)
    return context._replace(leaves=keyed)

  def accumulate(
    self, masks: Sequence[Array], accumulators: Mapping[str, PyTree]
  ) -> dict[str, PyTree]:
    """Returns the accumulators after a step that is taken with these masks."""
    weights = self.weights(self.masks)
    context = self.context(masks, weights, accumulators)
    return {
      each.name: each.after_step(each.of(context), context)
      if each.after_step
      else each.of(context)
      for each in self.method.all_accumulators
    }

  def hessian_gradient(self, masks: Sequence[Array]) -> list[Array]:
    """Returns H g of each sparse leaf, in layout order.

    As in both official codes of GraSP, g is the gradient of the active weights
    that compete: biases and other dense leaves are not part of it.
    """
    assert self.hvp is not None  # `sparsify` requires it.
    active = [
      jnp.where(mask, g, jnp.zeros_like(g))
      for mask, g in zip(masks, self.layout.take(self.grads), strict=True)
    ]
    zeros = optax.tree.zeros_like(self.params)
    return self.layout.take(self.hvp(self.layout.put(zeros, active)))

  def before_step(
    self, masks: Sequence[Array]
  ) -> tuple[PyTree, optax.OptState]:
    """Returns the weights and the inner state for a mask update to score.

    The masks are those before, as the branch of the conditional has them.
    """
    return self.weights(masks), self.state.inner_state

  def after_step(self, masks: Sequence[Array]) -> tuple[PyTree, optax.OptState]:
    """As `before_step`, but after the step of the inner optimizer."""
    weights = self.weights(masks)
    step = self._inner_step(
      masks, weights, weights, self.state.inner_state, self.state.accumulators
    )
    return optax.apply_updates(weights, step.updates), step.inner_state

  def step_at_old_masks(self, change: MaskChange) -> InnerStep:
    """Steps the inner optimizer with the gradient at the old masks.

    Weights that do not keep their value are at 0 after the step, and their
    optimizer state is reset. Where the optimizer acts elementwise the reset
    comes before the step, where XLA writes the state once and in place: after
    the step it costs a copy of it.
    """
    weights, state = self.weights(self.masks), self.state
    accumulators, masks = state.accumulators, self.masks
    entering, stepped = state.inner_state, weights
    resets = not self.method.storage.keeps_state
    early = resets and inner_states.is_elementwise(self.inner, self.params)
    if early:
      entering = self.reset(entering, change.keep)
      stepped = trees.where(change.keep, weights)
      masks = jax.tree.leaves(change.keep)
    step = self._inner_step(masks, weights, stepped, entering, accumulators)
    if resets and not early:
      reset = self.reset(step.inner_state, change.keep)
      step = step._replace(inner_state=reset)
    return step

  def step_at_new_masks(
    self, change: MaskChange, accumulators: Mapping[str, PyTree]
  ) -> InnerStep:
    """Steps the inner optimizer with the gradient at the new masks.

    Weights that do not keep their value are at 0 before the step.
    """
    weights, masks = self.weights(self.masks), jax.tree.leaves(change.new)
    entering = self.state.inner_state
    if self.method.storage.keeps_values:
      return self._inner_step(masks, weights, weights, entering, accumulators)
    step = self._inner_step(
      masks,
      weights,
      trees.where(change.keep, weights),
      self.reset(entering, change.keep),
      accumulators,
    )
    if not inner_states.is_elementwise(self.inner, self.params):
      state = self.reset(step.inner_state, change.new)
      step = step._replace(inner_state=state)
    updates = trees.map_masked(
      lambda keep, u, p: jnp.where(keep, u, u - p),
      change.keep,
      step.updates,
      self.params,
      dense=lambda u, p: u,
    )
    return step._replace(updates=updates)

  def reset(self, inner_state: optax.OptState, keep: Masks) -> optax.OptState:
    """Resets the inner state outside a mask, unless the storage keeps it."""
    if self.method.storage.keeps_state:
      return inner_state
    return inner_states.reset(self.inner, inner_state, keep, self.params)

  def _inner_step(
    self, masks, weights, stepped, inner_state, accumulators
  ) -> InnerStep:
    """Steps the inner optimizer at `stepped`; the storage sees `weights`."""
    storage, layout = self.method.storage, self.layout
    leaves = self.context(masks, weights, accumulators).leaves
    grads = layout.put(self.grads, [storage.gradient(leaf) for leaf in leaves])
    grads = followers.gradient(self.state.followers, grads)
    updates, inner_state = self.inner.update(
      grads, inner_state, stepped, **self.extra_args
    )
    pairs = zip(leaves, layout.take(updates), strict=True)
    updates = layout.put(updates, [storage.update(x, u) for x, u in pairs])
    return InnerStep(weights, updates, inner_state)
