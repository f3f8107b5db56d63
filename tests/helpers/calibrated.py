"""One network as a plain function, in Linen, in NNX and in Equinox.

Run as a script on eight simulated devices, where weights and batches are
sharded, it prints its statistics and pruned weights as JSON.
"""

import json
import sys

import equinox as eqx
import flax.linen as nn
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from sparsejax import calibration

IN, WIDTH, OUT, DEPTH = 8, 16, 8, 3


def draw(seed=0):
  """Returns the matrices of the network, and two batches, in float32."""
  random = np.random.default_rng(seed)

  def normal(*shape):
    return random.normal(size=shape).astype(np.float32)

  matrices = {
    "first": normal(IN, WIDTH) / 2,
    "blocks": normal(DEPTH, WIDTH, WIDTH) / 4,
    "last": normal(WIDTH, OUT) / 4,
  }
  return matrices, [normal(16, IN), normal(24, IN)]


class LinenBlock(nn.Module):
  @nn.compact
  def __call__(self, x, _=None):
    return jnp.tanh(nn.Dense(WIDTH, use_bias=False)(x)), None


class Linen(nn.Module):
  stacked: bool

  @nn.compact
  def __call__(self, x):
    x = jnp.tanh(nn.Dense(WIDTH, use_bias=False, name="first")(x))
    if self.stacked:
      stack = nn.scan(
        nn.remat(LinenBlock),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=DEPTH,
      )
      x, _ = stack(name="blocks")(x, None)
    else:
      for i in range(DEPTH):
        x, _ = LinenBlock(name=f"block_{i}")(x)
    return nn.Dense(OUT, use_bias=False, name="last")(x)


def linen(matrices, stacked):
  """Returns apply, params, and where each matrix of the network is."""
  params = {
    "first": {"kernel": matrices["first"]},
    "last": {"kernel": matrices["last"]},
  }
  where = {"first": "first/kernel", "last": "last/kernel"}
  if stacked:
    params["blocks"] = {"Dense_0": {"kernel": matrices["blocks"]}}
    where["blocks"] = ["blocks/Dense_0/kernel"]
  else:
    for i, matrix in enumerate(matrices["blocks"]):
      params[f"block_{i}"] = {"Dense_0": {"kernel": matrix}}
    where["blocks"] = [f"block_{i}/Dense_0/kernel" for i in range(DEPTH)]
  model = Linen(stacked)
  return lambda p, x: model.apply({"params": p}, x), params, where


def plain(matrices, stacked):
  """As `linen`."""

  def block(x, matrix):
    return jnp.tanh(x @ matrix), None

  def apply(p, x):
    x = jnp.tanh(x @ p["first"])
    if stacked:
      x, _ = jax.lax.scan(jax.checkpoint(block), x, p["blocks"])
    else:
      for matrix in p["blocks"]:
        x, _ = block(x, matrix)
    return x @ p["last"]

  params = dict(matrices)
  where = {"first": "first", "last": "last", "blocks": ["blocks"]}
  if not stacked:
    params["blocks"] = list(matrices["blocks"])
    where["blocks"] = [f"blocks/{i}" for i in range(DEPTH)]
  return apply, params, where


class Nnx(nnx.Module):
  def __init__(self, stacked):
    rngs = nnx.Rngs(0)

    def block(rngs):
      return nnx.Linear(WIDTH, WIDTH, use_bias=False, rngs=rngs)

    self.first = nnx.Linear(IN, WIDTH, use_bias=False, rngs=rngs)
    self.last = nnx.Linear(WIDTH, OUT, use_bias=False, rngs=rngs)
    self.stacked = stacked
    if stacked:
      self.blocks = nnx.vmap(block)(rngs.split(DEPTH))
    else:
      self.blocks = nnx.List([block(rngs) for _ in range(DEPTH)])

  def __call__(self, x):
    x = jnp.tanh(self.first(x))
    if self.stacked:
      x = nnx.scan(
        lambda x, block: jnp.tanh(block(x)),
        in_axes=(nnx.Carry, 0),
        out_axes=nnx.Carry,
      )(x, self.blocks)
    else:
      for block in self.blocks:
        x = jnp.tanh(block(x))
    return self.last(x)


def of_nnx(matrices, stacked):
  """As `linen`."""
  graph, params = nnx.split(Nnx(stacked), nnx.Param)
  where = {"first": "first/kernel", "last": "last/kernel"}
  where["blocks"] = ["blocks/kernel"]
  if not stacked:
    where["blocks"] = [f"blocks/{i}/kernel" for i in range(DEPTH)]
  return (
    lambda p, x: nnx.merge(graph, p)(x),
    _filled(params, matrices, where, lambda x: x),
    where,
  )


class Equinox(eqx.Module):
  first: eqx.nn.Linear
  blocks: object
  last: eqx.nn.Linear
  stacked: bool

  def __init__(self, stacked):
    keys = jax.random.split(jax.random.key(0), DEPTH)

    def linear(n, m, key):
      return eqx.nn.Linear(n, m, use_bias=False, key=key)

    self.first = linear(IN, WIDTH, keys[0])
    self.last = linear(WIDTH, OUT, keys[0])
    self.stacked = stacked
    if stacked:
      self.blocks = eqx.filter_vmap(lambda k: linear(WIDTH, WIDTH, k))(keys)
    else:
      self.blocks = [linear(WIDTH, WIDTH, key) for key in keys]

  def __call__(self, x):
    x = jnp.tanh(self.first(x))
    if self.stacked:
      arrays, static = eqx.partition(self.blocks, eqx.is_array)

      def body(x, slice_):
        return jnp.tanh(eqx.combine(slice_, static)(x)), None

      x, _ = jax.lax.scan(body, x, arrays)
    else:
      for block in self.blocks:
        x = jnp.tanh(block(x))
    return self.last(x)


def equinox(matrices, stacked):
  """As `linen`; the weights are transposed."""
  params, static = eqx.partition(Equinox(stacked), eqx.is_inexact_array)
  where = {"first": "first/weight", "last": "last/weight"}
  where["blocks"] = ["blocks/weight"]
  if not stacked:
    where["blocks"] = [f"blocks/{i}/weight" for i in range(DEPTH)]
  return (
    lambda p, x: jax.vmap(eqx.combine(p, static))(x),
    _filled(params, matrices, where, lambda x: np.swapaxes(x, -1, -2)),
    where,
  )


MODELS = {"plain": plain, "linen": linen, "nnx": of_nnx, "equinox": equinox}


def _filled(params, matrices, where, change):
  """Returns params with the matrices in their places."""
  by_name = {where[name]: matrices[name] for name in ("first", "last")}
  if len(where["blocks"]) == 1:
    by_name[where["blocks"][0]] = matrices["blocks"]
  else:
    by_name |= dict(zip(where["blocks"], matrices["blocks"], strict=True))
  names = [
    jax.tree_util.keystr(path, simple=True, separator="/").removesuffix(
      "/value"
    )
    for path, _ in jax.tree.leaves_with_path(params)
  ]
  treedef = jax.tree.structure(params)
  return treedef.unflatten([jnp.asarray(change(by_name[n])) for n in names])


def sums(model, stacked, statistic, place=lambda *trees: trees, **options):
  """Returns the statistics by matrix of the network, as numpy arrays."""
  matrices, batches = draw()
  apply, params, where = MODELS[model](matrices, stacked)
  params, batches = place(params, batches)
  found = calibration.calibrate(
    apply, params, batches, statistic=statistic, **options
  )

  def of(name):
    (one,) = found[name]
    return one.sums[:, 0]

  return {
    "first": of(where["first"])[0],
    "blocks": jnp.concatenate([of(name) for name in where["blocks"]]),
    "last": of(where["last"])[0],
  }


def main(model, loop):
  mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))

  def along(x, axis):
    where = P(*[None] * (x.ndim + axis), "x")
    return jax.device_put(x, NamedSharding(mesh, where))

  def place(params, batches):
    """Shards weights along their inputs, and batches along their examples."""
    inputs = -1 if model == "equinox" else -2
    return (
      jax.tree.map(lambda x: along(x, inputs), params),
      [along(x, -2) for x in batches],
    )

  result = {}
  for name in ("SQUARED_NORMS", "GRAM"):
    statistic = getattr(calibration, name)
    found = sums(model, loop == "scan", statistic, place)
    result[name] = {key: np.asarray(x).tolist() for key, x in found.items()}
    result[f"{name} whole"] = [
      key for key, x in found.items() if x.sharding.is_fully_replicated
    ]
  matrices, batches = draw()
  apply, params, _ = MODELS[model](matrices, loop == "scan")
  params, batches = place(params, batches)
  pruned = calibration.prune_with_calibration(
    apply, params, batches, 0.5, solver=calibration.sparsegpt()
  )
  result["masks"] = [
    np.asarray(x).tolist() for x in jax.tree.leaves(pruned.masks)
  ]
  pairs = zip(
    jax.tree.leaves(pruned.params), jax.tree.leaves(params), strict=True
  )
  result["moved"] = [
    not new.sharding.is_equivalent_to(old.sharding, new.ndim)
    for new, old in pairs
  ]
  return result


if __name__ == "__main__":
  chosen = [arg.split(",") for arg in sys.argv[1:]]
  json.dump([main(*case) for case in chosen], sys.stdout)
