"""Mask updates, compared to one pass over the weights and to `lax.top_k`.

    python benchmarks/selection.py

A pass is the jitted `tree.map(lambda p, g: p - 0.1 * g, params, grads)`, not
donated. Sparsity is 0.9; prune-and-regrow replaces 0.3 of the active weights.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import outputs
import resnet50
import timing
from jax import lax

import sparsejax
from sparsejax.components import leaves
from sparsejax.method import Context
from sparsejax.selection import search
from sparsejax.selection.groups import each_layer
from sparsejax.updates import context as contexts, mask_update, requested

METHODS = {
  "global magnitude": sparsejax.gmp(0.9, end_step=1, every_steps=1),
  "layer-wise magnitude": sparsejax.gmp(
    0.9,
    end_step=1,
    every_steps=1,
    scope=sparsejax.layerwise(sparsejax.erk),
  ),
  "RigL": sparsejax.rigl(0.9, end_step=100, every_steps=1),
  "SET": sparsejax.sparse_evolution(
    sparsity=0.9, every_steps=1, total_steps=100, by_sign=False
  ),
  "GraNet": sparsejax.granet(
    0.9, end_step=10, every_steps=1, total_steps=20, regrow_fraction=0.3
  ),
}
SIZES = tuple(2**i for i in range(6, 23, 2))


def compiled_update(method, layout, params, grads):
  """Returns a compiled mask update with its arguments bound."""
  rng = np.random.default_rng(2)
  active = 1.0 if method.regrow is None else 0.1
  budgets = None
  if method.prune is not None:
    budgets = jnp.asarray(requested.budget_table(method, layout)[-1])
    active = active if method.regrow is None else 0.15
  old = [jnp.asarray(rng.random(x.shape) < active) for x in params]

  def update(params, grads, old, budgets, key):
    leaves = contexts.leaves_of(method, layout, params, grads, old, {})
    context = Context(layout, leaves, jnp.int32(0), key, None, {})
    found = mask_update.next_masks(method, context, budgets, jnp.asarray(True))
    return found.new

  args = (params, grads, old, budgets, jax.random.key(0))
  compiled = jax.jit(update).lower(*args).compile()
  return functools.partial(compiled, *args), compiled.memory_analysis()


def by_top_k(params):
  """Returns the layer-wise magnitude masks by sorting, as a baseline."""
  masks = []
  for x in params:
    active = lax.top_k(jnp.abs(x.ravel()), max(1, x.size // 10))[1]
    masks.append(jnp.zeros(x.size, bool).at[active].set(True).reshape(x.shape))
  return masks


def updates(kernels, rounds):
  """Returns one row per method."""
  params_tree = resnet50.normal(kernels, 0, 0.02)
  grads_tree = resnet50.normal(kernels, 1, 0.001)
  layout = leaves.layout(params_tree, [True] * len(kernels))
  params, grads = layout.take(params_tree), layout.take(grads_tree)
  one_pass = jax.jit(lambda p, g: jax.tree.map(lambda a, b: a - 0.1 * b, p, g))
  calls = {"pass": functools.partial(one_pass, params_tree, grads_tree)}
  memory = {}
  for name, method in METHODS.items():
    calls[name], memory[name] = compiled_update(method, layout, params, grads)
  times = timing.measure(calls, rounds)
  top_k = "layer-wise magnitude by lax.top_k"
  calls = {
    "pass": calls["pass"],
    top_k: functools.partial(jax.jit(by_top_k), params),
  }
  sorting = timing.measure(calls, 1, warm_up=1, warm=0)
  # Scaled by the pass of the same run, since it is timed separately.
  times[top_k] = timing.Timing(
    wall=sorting[top_k].wall * times["pass"].wall / sorting["pass"].wall,
    cpu=sorting[top_k].cpu * times["pass"].cpu / sorting["pass"].cpu,
    faults=sorting[top_k].faults,
  )
  size = resnet50.size(kernels)
  return [
    {
      "update": name,
      "passes": each.wall / times["pass"].wall,
      "passes by CPU time": each.cpu / times["pass"].cpu,
      "milliseconds": 1e3 * each.wall,
      "page faults": each.faults,
      "temporary bytes a weight": memory[name].temp_size_in_bytes / size
      if name in memory
      else "",
    }
    for name, each in times.items()
  ]


def backends(sizes=SIZES, rounds=15):
  """Returns times of the threshold search and `lax.top_k` by leaf size."""
  rows = []
  for size in sizes:
    scores = jnp.abs(jax.random.normal(jax.random.key(size), (size,)))
    count, groups = size // 10, each_layer([None], [size])

    def threshold(scores, count=count, groups=groups):
      return search.select([scores], jnp.array([count]), groups)

    def top_k(scores, count=count):
      active = lax.top_k(scores, count)[1]
      return jnp.zeros(scores.shape, bool).at[active].set(True)

    calls = {
      f.__name__: functools.partial(jax.jit(f), scores)
      for f in (threshold, top_k)
    }
    times = timing.measure(calls, rounds)
    rows.append(
      {
        "weights": size,
        "threshold, microseconds": 1e6 * times["threshold"].wall,
        "lax.top_k, microseconds": 1e6 * times["top_k"].wall,
      }
    )
  return rows


def run(options):
  """Measures, and saves the results."""
  where = timing.machine()
  kernels, leaf, sizes = resnet50.shapes(), resnet50.single_leaf(), SIZES
  rounds = 9, 3, 15
  if options.small:
    kernels, leaf, sizes = resnet50.some(kernels), {"layer": (50, 40)}, (64,)
    rounds = 1, 1, 1
  results = {
    "selection_resnet50": lambda: updates(kernels, rounds[0]),
    "selection_single_leaf": lambda: updates(leaf, rounds[1]),
    "selection_backends": lambda: backends(sizes, rounds[2]),
  }
  for name, measure in results.items():
    timing.save(name, measure(), where, options.folder)


def main(argv=None):
  """Run the benchmark and save its results."""
  run(outputs.options(__doc__, argv))


if __name__ == "__main__":
  main()
