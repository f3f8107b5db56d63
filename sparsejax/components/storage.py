"""Storage: what becomes of a pruned weight's value and optimizer state.

The user always holds the sparse network. `zeroed` keeps nothing else: value and
momentum of a pruned weight are gone (`updates/optimizer_step.py` resets the
state); `zeroed_with_momentum` keeps the state. `kept` holds the dense latent
weights in the optimizer state, lets the inner optimizer step those, momentum
and all, and emits the updates of the sparse network.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from sparsejax.components import trees
from sparsejax.method import (
  Accumulator,
  InnerStep,
  Input,
  Leaf,
  MaskChange,
  Masks,
  Storage,
)


def masked_gradient(leaf: Leaf) -> Array:
  """The gradient of active weights, 0 elsewhere."""
  assert leaf.gradient is not None  # There is one in every step.
  return jnp.where(leaf.mask, leaf.gradient, jnp.zeros_like(leaf.gradient))


def straight_through(leaf: Leaf) -> Array:
  """The dense gradient of the sparse network, for all latent weights.

  References:
    Lin et al., `Dynamic model pruning with feedback
    <https://arxiv.org/abs/2006.07253>`_, 2020, equation DPF.
  """
  assert leaf.gradient is not None  # There is one in every step.
  return leaf.gradient


def _emit_zeroed(
  params: PyTree, step: InnerStep, change: MaskChange, accumulators: Mapping
) -> tuple[PyTree, PyTree]:
  """Emits `-p` where a weight is inactive or restarts, else the update."""
  del accumulators  # The masks decide.
  emitted = trees.map_masked(
    lambda keep, update, param: jnp.where(keep, update, -param),
    change.keep,
    step.updates,
    params,
    dense=lambda update, param: update,
  )
  return emitted, ()


def _emit_kept(
  params: PyTree, step: InnerStep, change: MaskChange, accumulators: Mapping
) -> tuple[PyTree, PyTree]:
  """Emits what moves each visible weight to its latent value, or to 0."""
  del accumulators  # The masks decide.
  latent = _latent(step, change)

  def emit(new, old, update, moved, param):
    return jnp.where(new, jnp.where(old, update, moved), -param)

  emitted = trees.map_masked(
    emit,
    change.new,
    change.old,
    step.updates,
    latent,
    params,
    dense=lambda old, update, moved, param: update,
  )
  return emitted, trees.sparse_only(change.new, latent)


def _kept_weights(params: PyTree, latent: PyTree, masks: Masks) -> PyTree:
  """Returns the latent weights, with the visible value where one is active.

  So the two never drift apart by rounding.
  """
  return trees.map_masked(
    jnp.where, masks, params, latent, dense=lambda param, _: param
  )


def _latent(step: InnerStep, change: MaskChange) -> PyTree:
  return trees.map_masked(
    lambda mask, weight, update: (weight + update).astype(weight.dtype),
    change.new,
    step.weights,
    step.updates,
    dense=lambda weight, update: weight,
  )


zeroed = Storage(
  init=lambda params, masks, accumulators: (),
  weights=lambda params, latent, masks: params,
  gradient=masked_gradient,
  emit=_emit_zeroed,
  keeps_values=False,
  keeps_state=False,
)
"""A pruned weight loses its value and optimizer state, and restarts at 0.

Only a weight that prune-and-regrow drops and regrows in the same update keeps
both, unless `PruneAndRegrow.restart` is set.
"""


zeroed_with_momentum = zeroed._replace(
  gradient=straight_through, keeps_state=True, reads=(Input.GRADIENT,)
)
"""As `zeroed`, but the optimizer gets the dense gradient and keeps its state.

So momentum is accumulated at all positions, and what regrows moves with it at
once (SNFS).
"""


def _emit_zeroed_after_step(
  params: PyTree, step: InnerStep, change: MaskChange, accumulators: Mapping
) -> tuple[PyTree, PyTree]:
  """Emits `-p` where a weight is inactive after the step, else the update."""
  change = change._replace(keep=change.new)  # What comes back has moved from 0.
  return _emit_zeroed(params, step, change, accumulators)


zeroed_after_step = zeroed._replace(
  gradient=straight_through,
  emit=_emit_zeroed_after_step,
  keeps_values=True,
  keeps_state=True,
  reads=(Input.GRADIENT,),
)
"""The optimizer steps all weights, inactive ones from 0, and keeps its state.

At a mask update all stepped weights compete, and the others are 0 again (Gao et
al., 2025). Nothing but the state of the optimizer is kept between steps.
"""


def zeroed_with_noise(
  signs: Accumulator, *, penalty: float, noise: float
) -> Storage:
  """As `zeroed`; active weights are pulled to 0 and moved at random.

  The gradient becomes `G + penalty sign - noise n`, n standard normal; the sign
  is positive where `signs` holds True. Both numbers are at least 0.

  References:
    Bellec et al., `Deep rewiring <https://arxiv.org/abs/1711.05136>`_, 2018,
    algorithm 1.
  """

  def gradient(leaf: Leaf) -> Array:
    assert leaf.gradient is not None  # There is one in every step.
    sign = jnp.where(signs.of(leaf), 1.0, -1.0)
    moved = leaf.gradient.astype(jnp.float32) + penalty * sign
    if noise:
      assert leaf.key is not None  # `sparsify` requires one.
      shape = leaf.gradient.shape
      moved -= noise * jax.random.normal(leaf.key, shape, jnp.float32)
    moved = moved.astype(leaf.gradient.dtype)
    return jnp.where(leaf.mask, moved, jnp.zeros_like(moved))

  reads = (Input.ACTIVE_GRADIENT, Input.MASK, signs)
  if noise:
    reads += (Input.KEY,)
  return zeroed._replace(gradient=gradient, reads=reads)


kept = Storage(
  init=lambda params, masks, accumulators: trees.sparse_only(masks, params),
  weights=_kept_weights,
  gradient=masked_gradient,
  emit=_emit_kept,
  keeps_values=True,
  keeps_state=True,
)
"""A pruned weight keeps its latent value, which weight decay and momentum still
move, and comes back with it (Zhu & Gupta, 2017)."""

kept_straight_through = kept._replace(
  gradient=straight_through, reads=(Input.GRADIENT,)
)
"""As `kept`, and the gradient acts on all latent weights (DPF, DNW)."""


kept_fixed = kept._replace(
  gradient=straight_through,
  update=lambda leaf, update: jnp.zeros_like(update),
  reads=(Input.GRADIENT,),
)
"""As `kept`, but no weight ever moves: only the masks do (supermasks)."""


def kept_decayed(decay: float) -> Storage:
  """As `kept_straight_through`, and inactive weights decay faster.

  Their gradient becomes `G + decay w`; the decay is at least 0.

  References:
    Zhou et al., `Learning N:M fine-grained structured sparse neural networks
    from scratch <https://arxiv.org/abs/2102.04010>`_, 2021, SR-STE.
  """

  def gradient(leaf: Leaf) -> Array:
    assert leaf.gradient is not None  # There is one in every step.
    pulled = leaf.gradient + decay * leaf.weights
    return jnp.where(
      leaf.mask, leaf.gradient, pulled.astype(leaf.gradient.dtype)
    )

  reads = (Input.GRADIENT, Input.WEIGHTS, Input.MASK)
  return kept._replace(gradient=gradient, reads=reads)


def kept_within(backward: Accumulator, penalty: float) -> Storage:
  """As `kept`, but only the weights in a wider set learn.

  Active weights, and inactive ones in the set `backward`, a mask that includes
  both, get the gradient of the sparse network and of a penalty
  `c (|w_active| + |w_inactive| / D)` on the Euclidean norms of the two in each
  layer, where D is the active fraction and c is at least 0.

  References:
    Jayakumar et al., `Top-KAST <https://arxiv.org/abs/2106.03517>`_, 2021.
  """

  def gradient(leaf: Leaf) -> Array:
    assert leaf.gradient is not None  # There is one in every step.
    wide = backward.of(leaf)
    weight = leaf.weights.astype(jnp.float32)
    others = tuple(d for d in range(weight.ndim) if d != leaf.axis)

    def sums(values: Array) -> Array:
      return jnp.sum(values, axis=others, keepdims=True)

    def pull(part: Array) -> Array:
      inside = jnp.where(part, weight, 0.0)
      norm = jnp.sqrt(sums(inside**2))
      return inside / jnp.where(norm > 0, norm, 1.0)

    size = weight.size // (1 if leaf.axis is None else weight.shape[leaf.axis])
    # A float, because an integer might be too large for an int32.
    active = sums(leaf.mask.astype(jnp.float32)) / float(size)
    active = jnp.where(active > 0, active, 1.0)
    penalized = pull(leaf.mask) + pull(wide & ~leaf.mask) / active
    total = leaf.gradient + (penalty * penalized).astype(leaf.gradient.dtype)
    return jnp.where(wide, total, jnp.zeros_like(total))

  def update(leaf: Leaf, update: Array) -> Array:
    return jnp.where(backward.of(leaf), update, jnp.zeros_like(update))

  reads = (Input.GRADIENT, Input.WEIGHTS, Input.MASK, backward)
  return kept._replace(gradient=gradient, update=update, reads=reads)


def soft_thresholded(threshold: Accumulator) -> Storage:
  """The user holds `sign(w) max(|w| - sigmoid(s), 0)` of the latent weights.

  Those start so that the user holds the parameters given to `init`. `threshold`
  is a `learned` accumulator with s, which broadcasts over a leaf.

  References:
    Kusupati et al., `Soft threshold weight reparameterization
    <https://arxiv.org/abs/2002.03231>`_, 2020, equation 4.
  """

  def outward(leaf: Array, s: Array) -> Array:
    size = jnp.abs(leaf) + jax.nn.sigmoid(s).astype(leaf.dtype)
    return jnp.sign(leaf) * size

  def inward(leaf: Array, s: Array) -> Array:
    size = jnp.abs(leaf) - jax.nn.sigmoid(s).astype(leaf.dtype)
    return jnp.sign(leaf) * jnp.maximum(size, 0)

  def init(params: PyTree, masks: Masks, accumulators: Mapping) -> PyTree:
    return trees.map_masked(
      lambda m, p, s: jnp.where(m, outward(p, s), jnp.zeros_like(p)),
      masks,
      params,
      accumulators[threshold.name].values,
      dense=lambda p, s: s,
    )

  def emit(
    params: PyTree, step: InnerStep, change: MaskChange, accumulators: Mapping
  ) -> tuple[PyTree, PyTree]:
    latent = _latent(step, change)
    emitted = trees.map_masked(
      lambda m, w, s, p, u: jnp.where(m, inward(w, s) - p, -p),
      change.new,
      latent,
      accumulators[threshold.name].values,
      params,
      step.updates,
      dense=lambda w, s, p, u: u,
    )
    return emitted, trees.sparse_only(change.new, latent)

  return kept._replace(
    init=init,
    weights=lambda params, latent, masks: trees.map_masked(
      lambda m, p, w: w, masks, params, latent, dense=lambda p, w: p
    ),
    emit=emit,
    reads=(Input.ACTIVE_GRADIENT, Input.MASK, threshold),
  )
