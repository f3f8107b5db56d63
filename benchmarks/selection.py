"""Mask updates beside a plain pass over the weights, and beside `lax.top_k`.

    python benchmarks/selection.py

A pass is the jitted `tree.map(lambda p, g: p - 0.1 * g, params, grads)`, not
donated. Updates are at sparsity 0.9, exchanges swap 0.3 of the active weights.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import resnet50
import timing
from jax import lax

import sparsejax
from sparsejax import trees, update

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


def compiled_update(method, layout, params, grads):
  """Compiles one mask update; returns it with its arguments bound."""
  rng = np.random.default_rng(2)
  density = 1.0 if method.regrow is None else 0.1
  if method.prunes and method.regrow is not None:
    density = 0.15
  old = [jnp.asarray(rng.random(x.shape) < density) for x in params]
  budgets = jnp.asarray(update.budget_table(method, layout)[-1])

  def change(params, grads, old, budgets, key):
    return update.next_masks(
      method,
      layout,
      params,
      grads,
      old,
      budgets,
      step=jnp.int32(0),
      exchange=jnp.asarray(True),
      key=key,
    )

  args = (params, grads, old, budgets, jax.random.key(0))
  compiled = jax.jit(change).lower(*args).compile()
  return functools.partial(compiled, *args), compiled.memory_analysis()


def by_top_k(params, layout):
  """Returns the layer-wise magnitude masks by sorting, for comparison."""

  def change(params):
    masks = []
    for x in params:
      kept = lax.top_k(jnp.abs(x.ravel()), max(1, x.size // 10))[1]
      masks.append(jnp.zeros(x.size, bool).at[kept].set(True).reshape(x.shape))
    return masks

  del layout
  return functools.partial(jax.jit(change), params)


def measure(kernels, rounds):
  """Returns one row per method."""
  params_tree = resnet50.draw(kernels, 0, 0.02)
  grads_tree = resnet50.draw(kernels, 1, 0.001)
  layout = trees.layout(params_tree, [True] * len(kernels))
  params, grads = layout.take(params_tree), layout.take(grads_tree)
  move = jax.jit(lambda p, g: jax.tree.map(lambda a, b: a - 0.1 * b, p, g))
  calls = {"pass": functools.partial(move, params_tree, grads_tree)}
  memory = {}
  for name, method in METHODS.items():
    calls[name], memory[name] = compiled_update(method, layout, params, grads)
  seconds = timing.alternate(calls, rounds)
  sorting = {"pass": calls["pass"], "top_k": by_top_k(params, layout)}
  sorted_ = timing.alternate(sorting, 1, warm_up=1)
  rows = [
    {
      "update": name,
      "passes": seconds[name] / seconds["pass"],
      "milliseconds": 1e3 * seconds[name],
      "temporary bytes a weight": memory[name].temp_size_in_bytes
      / resnet50.size(kernels),
    }
    for name in METHODS
  ]
  rows.append(
    {
      "update": "layer-wise magnitude by lax.top_k",
      "passes": sorted_["top_k"] / sorted_["pass"],
      "milliseconds": 1e3 * sorted_["top_k"],
      "temporary bytes a weight": "",
    }
  )
  return rows


if __name__ == "__main__":
  where = timing.machine()
  timing.save("selection_resnet50", measure(resnet50.shapes(), 7), where)
  timing.save(
    "selection_single_leaf", measure(resnet50.single_leaf(), 3), where
  )
