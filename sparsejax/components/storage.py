"""Storages: what becomes of the value of a weight that is off.

The user always holds the sparse network. `zeroed` keeps nothing else. `kept`
holds the dense latent weights in the optimizer state, lets the inner optimizer
step those, and shows the user the part that the masks keep.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from sparsejax.components import trees
from sparsejax.method import Masks, Seen, Stepped, Storage


def masked_gradient(seen: Seen) -> Array:
  """Lets the loss act on the weights that are on."""
  return jnp.where(seen.mask, seen.grad, jnp.zeros_like(seen.grad))


def straight_through(seen: Seen) -> Array:
  """Lets the gradient of the sparse network act on all latent weights.

  References:
    Lin et al., `Dynamic model pruning with feedback
    <https://arxiv.org/abs/2006.07253>`_, 2020, equation DPF.
  """
  return seen.grad


def _settle_zeroed(stepped: Stepped) -> tuple[PyTree, PyTree]:
  """Emits `-p` where a weight is off or starts again, the update elsewhere."""
  emitted = trees.map_masked(
    lambda k, u, p: jnp.where(k, u, -p),
    stepped.keep,
    stepped.updates,
    stepped.params,
    dense=lambda u, p: u,
  )
  return emitted, ()


def _settle_kept(stepped: Stepped) -> tuple[PyTree, PyTree]:
  """Emits what moves each held weight to its latent value, or to 0."""
  latent = _latent(stepped)

  def emit(new, old, update, moved, param):
    return jnp.where(new, jnp.where(old, update, moved), -param)

  emitted = trees.map_masked(
    emit,
    stepped.new,
    stepped.old,
    stepped.updates,
    latent,
    stepped.params,
    dense=lambda old, update, moved, param: update,
  )
  return emitted, trees.sparse_only(stepped.new, latent)


def _kept_weights(params: PyTree, latent: PyTree, masks: Masks) -> PyTree:
  """Returns the latent weights, taking over the held value where one is on.

  So the two never drift apart by rounding.
  """
  return trees.map_masked(
    jnp.where, masks, params, latent, dense=lambda param, _: param
  )


def _latent(stepped: Stepped) -> PyTree:
  return trees.map_masked(
    lambda m, w, u: (w + u).astype(w.dtype),
    stepped.new,
    stepped.weights,
    stepped.updates,
    dense=lambda w, u: w,
  )


zeroed = Storage(
  init=lambda params, masks, memory: (),
  weights=lambda params, latent, masks: params,
  gradient=masked_gradient,
  settle=_settle_zeroed,
  prunes_all=False,
  resets=True,
)
"""A weight that is off is gone; if it is regrown it starts again at 0."""


def zeroed_walking(signs: str, *, pull: float, noise: float) -> Storage:
  """As `zeroed`; weights that are on are pulled to 0 and pushed at random.

  To the gradient of the loss comes `pull sign - noise n`, n standard normal.

  Args:
    signs: name of the memory that tells which weights are of positive sign.
    pull: of the L1 norm, at least 0.
    noise: standard deviation, at least 0.

  References:
    Bellec et al., `Deep rewiring <https://arxiv.org/abs/1711.05136>`_, 2018,
    algorithm 1.
  """

  def gradient(seen: Seen) -> Array:
    sign = jnp.where(seen.memory[signs], 1.0, -1.0)
    moved = seen.grad.astype(jnp.float32) + pull * sign
    if noise:
      assert seen.key is not None  # `sparsify` refused to go on without one.
      moved -= noise * jax.random.normal(seen.key, seen.grad.shape, jnp.float32)
    moved = moved.astype(seen.grad.dtype)
    return jnp.where(seen.mask, moved, jnp.zeros_like(moved))

  return zeroed._replace(gradient=gradient, draws=bool(noise))


kept = Storage(
  init=lambda params, masks, memory: trees.sparse_only(masks, params),
  weights=_kept_weights,
  gradient=masked_gradient,
  settle=_settle_kept,
  prunes_all=True,
  resets=False,
)
"""A weight that is off keeps its latent value, which weight decay and momentum
still move, and comes back with it (Zhu & Gupta, 2017)."""

kept_straight_through = kept._replace(gradient=straight_through)
"""As `kept`, and the gradient acts on all latent weights (DPF, DNW)."""


def kept_decayed(decay: float) -> Storage:
  """As `kept_straight_through`, and weights that are off decay faster.

  Args:
    decay: what is added to their gradient for each unit of weight, at least 0.

  References:
    Zhou et al., `Learning N:M fine-grained structured sparse neural networks
    from scratch <https://arxiv.org/abs/2102.04010>`_, 2021, SR-STE.
  """

  def gradient(seen: Seen) -> Array:
    pulled = seen.grad + decay * seen.param
    return jnp.where(seen.mask, seen.grad, pulled.astype(seen.grad.dtype))

  return kept._replace(gradient=gradient)


def kept_in(name: str, penalty: float) -> Storage:
  """As `kept`, but only the weights in a wider set move.

  Weights that are on, and those that are off and in the set, get the gradient
  of the sparse network and of a penalty `c (|w_on| + |w_off| / D)` on the
  Euclidean norms of the two in each layer, where D is the share that is on.

  Args:
    name: of the memory that holds the set, a mask with the weights that are on.
    penalty: c, at least 0.

  References:
    Jayakumar et al., `Top-KAST <https://arxiv.org/abs/2106.03517>`_, 2021.
  """

  def gradient(seen: Seen) -> Array:
    wide = seen.memory[name]
    weight = seen.param.astype(jnp.float32)
    others = tuple(d for d in range(weight.ndim) if d != seen.axis)

    def sums(values: Array) -> Array:
      return jnp.sum(values, axis=others, keepdims=True)

    def pull(part: Array) -> Array:
      inside = jnp.where(part, weight, 0.0)
      norm = jnp.sqrt(sums(inside**2))
      return inside / jnp.where(norm > 0, norm, 1.0)

    size = weight.size // (1 if seen.axis is None else weight.shape[seen.axis])
    density = sums(seen.mask.astype(jnp.float32)) / size
    density = jnp.where(density > 0, density, 1.0)
    penalised = pull(seen.mask) + pull(wide & ~seen.mask) / density
    total = seen.grad + (penalty * penalised).astype(seen.grad.dtype)
    return jnp.where(wide, total, jnp.zeros_like(total))

  def move(seen: Seen, update: Array) -> Array:
    return jnp.where(seen.memory[name], update, jnp.zeros_like(update))

  return kept._replace(gradient=gradient, move=move)


def soft_thresholded(name: str) -> Storage:
  """The user holds `sign(w) max(|w| - sigmoid(s), 0)` of the latent weights.

  Those start so that the user holds the parameters given to `init`.

  Args:
    name: of the memory `Learned` that holds s, which broadcasts over a leaf.

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

  def init(params, masks, memory: Mapping[str, PyTree]) -> PyTree:
    return trees.map_masked(
      lambda m, p, s: jnp.where(m, outward(p, s), jnp.zeros_like(p)),
      masks,
      params,
      memory[name].values,
      dense=lambda p, s: s,
    )

  def settle(stepped: Stepped) -> tuple[PyTree, PyTree]:
    latent = _latent(stepped)
    emitted = trees.map_masked(
      lambda m, w, s, p, u: jnp.where(m, inward(w, s) - p, -p),
      stepped.new,
      latent,
      stepped.memory[name].values,
      stepped.params,
      stepped.updates,
      dense=lambda w, s, p, u: u,
    )
    return emitted, trees.sparse_only(stepped.new, latent)

  return kept._replace(
    init=init,
    weights=lambda params, latent, masks: trees.map_masked(
      lambda m, p, w: w, masks, params, latent, dense=lambda p, w: p
    ),
    settle=settle,
  )
