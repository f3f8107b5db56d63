"""Trains on four simulated devices and tells what it saw, as JSON.

Run by `test_sharding.py` in another process, because the number of devices
is fixed when JAX starts.
"""

import hashlib
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import sparsejax

SHAPES = {
  "a": {"kernel": (16, 32), "bias": (32,)},
  "b": {"kernel": (32, 24)},
  "b2": {"kernel": (32, 24)},
  "c": {"kernel": (3, 3, 8, 16)},
}
METHODS = {
  "granet": sparsejax.granet(
    0.9, initial_sparsity=0.5, end_step=6, every_steps=2, total_steps=8
  ),
  "gmp_kept": sparsejax.gmp(
    0.9, every_steps=2, end_step=6, storage=sparsejax.kept
  ),
  "set": sparsejax.sparse_evolution(sparsity=0.9, every_steps=2, total_steps=8),
  "optg": sparsejax.optg(
    0.9, steps_per_epoch=2, epochs=4, score_learning_rate=0.1
  ),
  "top_kast": sparsejax.top_kast(0.9, backward_sparsity=0.7, every_steps=2),
  "str": sparsejax.soft_threshold(
    initial_threshold=-1.0, threshold_learning_rate=0.1
  ),
}
METHODS |= {
  "dynset": sparsejax.dynset(
    sparsity=0.9,
    steps_per_epoch=2,
    total_steps=8,
    regrow_by=sparsejax.criteria.near_active(),
  ),
  "snfs": sparsejax.snfs(0.9, every_steps=2, total_steps=8),
  "deep_r": sparsejax.deep_r(0.9, noise=1e-3),
}
PLACES = {
  "replicated": lambda ndim: P(),
  "rows": lambda ndim: P(*[None] * (ndim - 2), "x") if ndim > 1 else P(),
  "columns": lambda ndim: P(*[None] * (ndim - 1), "x"),
}
RUNS = [(name, place) for name in METHODS for place in (None, "rows")]
RUNS += [("granet", "columns"), ("granet", "replicated"), ("set", "replicated")]


def draw(seed):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda shape: rng.normal(size=shape).astype(np.float32),
    SHAPES,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def gathered(text):
  """Returns the sizes of what the compiled code gathers or moves."""
  pattern = r"= \(?\w+\[([\d,]*)\][^=]*? (?:all-gather|all-to-all)\("
  pattern += r"|= \(?\w+\[([\d,]*)\][^=]*? collective-permute\("
  sizes = []
  for found in re.findall(pattern, text):
    shape = next((part for part in found if part), "1")
    sizes.append(int(np.prod([int(n) for n in shape.split(",")])))
  return sizes


def train(method, place):
  """Returns a digest of the masks of every step, and the largest gather."""

  def put(tree):
    if place is None:
      return jax.tree.map(jnp.asarray, tree)
    return jax.tree.map(
      lambda x: jax.device_put(x, NamedSharding(MESH, PLACES[place](x.ndim))),
      tree,
    )

  inner = optax.chain(
    optax.add_decayed_weights(1e-3), optax.sgd(0.1, momentum=0.9)
  )
  tx = sparsejax.sparsify(inner, METHODS[method], key=jax.random.key(1))
  params = put(draw(0))
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)

  def step(params, state, grads):
    updates, state = tx.update(
      grads, state, params, metric=1 / (1 + state.step)
    )
    return optax.apply_updates(params, updates), state

  compiled = jax.jit(step).lower(params, state, params).compile()
  digest = hashlib.sha256()
  for i in range(8):
    grads = put(draw(10 + i))
    params, state = jax.block_until_ready(compiled(params, state, grads))
    for mask in jax.tree.leaves(sparsejax.get_masks(state)):
      digest.update(np.packbits(np.asarray(mask)).tobytes())
  sparsejax.assert_sparse(params, state)
  kernel, mask = params["b"]["kernel"], state.masks["b"]["kernel"]
  return {
    "masks": digest.hexdigest(),
    "counts": sparsejax.summary(params, state).active,
    "gathered": max(gathered(compiled.as_text()), default=0),
    "follows": bool(mask.sharding.is_equivalent_to(kernel.sharding, 2)),
  }


if __name__ == "__main__":
  MESH = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
  RESULTS = [{"method": m, "place": p, **train(m, p)} for m, p in RUNS]
  json.dump(RESULTS, sys.stdout)
