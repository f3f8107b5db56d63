"""The step without a mask update, beside the plain optimizer step.

    python benchmarks/step.py

SGD with momentum on the kernels of ResNet-50, parameters and state donated or
not; and the same with masks of one bit a weight.
"""

import functools

import jax
import jax.numpy as jnp
import optax
import resnet50
import timing

import sparsejax

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


def sparsified(method, **options):
  """Returns the method around SGD."""
  return sparsejax.sparsify(INNER, method, key=jax.random.key(0), **options)


def transform_step(tx, params, state, grads):
  """Takes a step."""
  updates, state = tx.update(grads, state, params)
  return optax.apply_updates(params, updates), state


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
    steppers[name] = stepper(sparsified(method))
  for name in ("static", "granet"):
    tx = sparsified(METHODS[name], pack_masks=True)
    steppers[f"{name}, packed masks"] = stepper(tx)
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
