"""The step without a mask update, beside the plain optimizer step.

    python benchmarks/step.py

SGD with momentum on the kernels of ResNet-50, parameters and state donated or
not; and the same with masks of one bit a weight, written out by hand.
"""

import functools

import jax
import jax.numpy as jnp
import optax
import resnet50
import timing

import sparsejax
from sparsejax import bitmasks

INNER = optax.sgd(0.1, momentum=0.9)
METHODS = {
  "static": sparsejax.static(0.9),
  "gmp": sparsejax.gmp(0.9, end_step=30_000, every_steps=1_000),
  "gmp, kept": sparsejax.gmp(
    0.9, end_step=30_000, every_steps=1_000, storage=sparsejax.kept
  ),
  "granet": sparsejax.granet(
    0.9, end_step=30_000, every_steps=1_000, total_steps=90_000
  ),
  "rigl_itop": sparsejax.rigl_itop(0.9, every_steps=1_000, total_steps=90_000),
}


def transform_step(tx, params, state, grads):
  """Takes a step."""
  updates, state = tx.update(grads, state, params)
  return optax.apply_updates(params, updates), state


def bits_step(params, state, grads):
  """Takes a step of a static method whose state holds masks as bits."""
  packed, inner = state
  masks = jax.tree.map(lambda b, p: bitmasks.unpack(b, p.shape), packed, params)

  def visible(tree):
    return jax.tree.map(lambda m, x: jnp.where(m, x, 0), masks, tree)

  updates, inner = INNER.update(
    visible(grads), jax.tree.map(jnp.where, *_beside(masks, inner)), params
  )
  emitted = jax.tree.map(
    lambda m, u, p: jnp.where(m, u, -p), masks, updates, params
  )
  return optax.apply_updates(params, emitted), (packed, inner)


def _beside(masks, inner):
  """Returns masks, statistics and zeros as trees like the inner state."""
  treedef = jax.tree.structure(inner)
  return (
    jax.tree.unflatten(treedef, jax.tree.leaves(masks)),
    inner,
    jax.tree.map(jnp.zeros_like, inner),
  )


class Stepper:
  """A compiled step and what it carries from call to call."""

  def __init__(self, step, params, state, grads, donate):
    self.carry = jax.tree.map(jnp.array, (params, state))
    self.grads = grads
    self.state_bytes = sum(x.nbytes for x in jax.tree.leaves(state))
    self.compiled, _ = timing.compiling(
      step, *self.carry, grads, donate_argnums=(0, 1) if donate else ()
    )

  def __call__(self):
    """Takes a step and returns what it carries on."""
    self.carry = self.compiled(*self.carry, self.grads)
    return self.carry


def steps(kernels, donate, rounds):
  """Returns one row per method, in ratios to the plain step."""
  params = resnet50.draw(kernels, 0, 0.02)
  grads = resnet50.draw(kernels, 1, 0.001)

  def stepper(tx):
    step = functools.partial(transform_step, tx)
    return Stepper(step, params, tx.init(params), grads, donate)

  steppers = {"plain optax": stepper(INNER)}
  for name, method in METHODS.items():
    tx = sparsejax.sparsify(INNER, method, key=jax.random.key(0))
    steppers[name] = stepper(tx)
  masks = sparsejax.get_masks(
    sparsejax.sparsify(INNER, METHODS["static"], key=jax.random.key(0)).init(
      params
    )
  )
  packed = jax.tree.map(bitmasks.pack, masks)
  steppers["static, masks in bits"] = Stepper(
    bits_step, params, (packed, INNER.init(params)), grads, donate
  )
  took = timing.measure(steppers, rounds)
  plain, size = steppers["plain optax"], resnet50.size(kernels)
  return [
    {
      "step": name,
      "donated": donate,
      "to plain": each.wall / took["plain optax"].wall,
      "to plain by CPU time": each.cpu / took["plain optax"].cpu,
      "milliseconds": 1e3 * each.wall,
      "extra state bytes a weight": (
        steppers[name].state_bytes - plain.state_bytes
      )
      / size,
    }
    for name, each in took.items()
  ]


def main():
  """Measures and saves all."""
  where = timing.machine()
  kernels = resnet50.shapes()
  rows = [row for donate in (True, False) for row in steps(kernels, donate, 15)]
  timing.save("step_resnet50", rows, where)


if __name__ == "__main__":
  main()
