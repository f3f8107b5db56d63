"""Trains on four simulated devices and prints what it saw, as JSON.

    python tests/helpers/sharded.py few  # or "units", "others", "wide"

Run in another process, because the number of devices is fixed when JAX starts:
by `test_sharding.py`, and with other methods by `pods/test_methods.py`.
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
from sparsejax.components import placement, wide_counts

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
  "rigl": sparsejax.rigl(0.9, every_steps=2, end_step=8),
}
METHODS |= {
  "blocks": sparsejax.granet(
    0.5,
    end_step=6,
    every_steps=2,
    total_steps=8,
    granularity=sparsejax.blocks(4, 4),
  ),
  "n_of_m": sparsejax.granet(
    0.5,
    end_step=6,
    every_steps=2,
    total_steps=8,
    granularity=sparsejax.n_of_m(2, 4),
  ),
  "filters": sparsejax.rigl(
    0.5, every_steps=2, end_step=8, granularity=sparsejax.filters()
  ),
}
PLACES = {
  "replicated": lambda ndim: P(),
  "rows": lambda ndim: P(*[None] * (ndim - 2), "x") if ndim > 1 else P(),
  "columns": lambda ndim: P(*[None] * (ndim - 1), "x"),
}
# Method, place (None: one device), and the argument `sharded` of `sparsify`.
RUNS = {
  "few": [
    ("granet", "rows", None),
    ("granet", "replicated", False),
    ("gmp_kept", "columns", None),
    ("optg", "columns", True),
    ("str", "rows", None),
  ],
  "units": [
    ("blocks", "rows", None),
    ("blocks", "columns", None),
    ("n_of_m", "columns", None),
    ("n_of_m", "rows", None),
    ("filters", "rows", None),
  ],
  "others": [
    ("granet", "columns", None),
    ("granet", "replicated", None),
    ("set", "rows", None),
    ("set", "replicated", False),
    ("top_kast", "columns", None),
    ("dynset", "rows", None),
    ("snfs", "columns", None),
    ("deep_r", "rows", None),
    ("rigl", "columns", None),
    ("gmp_kept", "replicated", None),
    ("gmp_kept", "rows", None),
  ],
  # Where sharded, an int32 is taken to end at 40.
  "wide": [
    ("granet", "columns", None),
    ("gmp_kept", "rows", None),
    ("snfs", "rows", None),
  ],
}
STEPS = 5


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


def put(tree, place):
  """Puts arrays on one device, or on all devices."""
  if place is None:
    return jax.tree.map(jnp.asarray, tree)
  return jax.tree.map(
    lambda x: jax.device_put(x, NamedSharding(MESH, PLACES[place](x.ndim))),
    tree,
  )


def strays(state, params):
  """Returns what is shaped like a kernel, but lies elsewhere."""
  places = {x.shape: x.sharding for x in jax.tree.leaves(params)}
  return [
    jax.tree_util.keystr(path)
    for path, x in jax.tree.leaves_with_path(state)
    if x.ndim > 1
    and x.shape in places
    and not x.sharding.is_equivalent_to(places[x.shape], x.ndim)
  ]


def transformation(method, sharded):
  """Returns the method around an optimizer with momentum."""
  inner = optax.chain(
    optax.add_decayed_weights(1e-3), optax.sgd(0.1, momentum=0.9)
  )
  return sparsejax.sparsify(
    inner, METHODS[method], key=jax.random.key(1), sharded=sharded
  )


def train(method, place, sharded=None):
  """Returns a digest of the masks of every step, and what moved."""
  tx = transformation(method, sharded)
  params = put(draw(0), place)
  begin = jax.jit(tx.init).lower(params).compile()
  state = begin(params)
  begun = strays(state, params)
  params = sparsejax.apply_masks(params, state)

  def step(params, state, grads):
    updates, state = tx.update(
      grads, state, params, metric=1 / (1 + state.step)
    )
    return optax.apply_updates(params, updates), state

  compiled = jax.jit(step).lower(params, state, params).compile()
  digest = hashlib.sha256()
  for i in range(STEPS):
    grads = put(draw(10 + i), place)
    params, state = jax.block_until_ready(compiled(params, state, grads))
    for mask in jax.tree.leaves(sparsejax.get_masks(state)):
      digest.update(np.packbits(np.asarray(mask)).tobytes())
  sparsejax.assert_sparse(params, state)
  text = begin.as_text() + compiled.as_text()
  return {
    "masks": digest.hexdigest(),
    "counts": sparsejax.summary(params, state).active,
    "gathered": max(gathered(text), default=0),
    "strays": begun + strays(state, params),
    "program": len(compiled.as_text()),
  }


if __name__ == "__main__":
  MESH = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
  sharded_runs = RUNS[sys.argv[1]]
  methods = dict.fromkeys(method for method, *_ in sharded_runs)
  results = [{"method": m, "place": None, **train(m, None)} for m in methods]
  if sys.argv[1] == "wide":
    wide_counts.LIMBS = wide_counts.Limbs(bits=6, most=40)
    jax.clear_caches()
  results += [
    {"method": m, "place": p, **train(m, p, *sharded)}
    for m, p, *sharded in sharded_runs
  ]
  eager = put(draw(0), "rows")
  state = transformation("rigl", None).init(eager)
  try:
    refused = str(transformation("rigl", False).init(eager))
  except ValueError as error:
    refused = str(error)
  kernel = eager["a"]["kernel"]
  flags = np.asarray(kernel) > 0
  copied = placement.copied(flags, kernel)
  found = {"runs": results, "eager": strays(state, eager), "refused": refused}
  found["given"] = copied.sharding == kernel.sharding and bool(
    (np.asarray(copied) == flags).all()
  )
  json.dump(found, sys.stdout)
