"""Step time between mask updates, compared to the plain optimizer step.

    python benchmarks/step.py

SGD with momentum on the kernels of ResNet-50, with and without donation of
parameters and state.
"""

import functools

import jax
import jax.numpy as jnp
import optax
import outputs
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


def transform_step(tx, params, state, grads):
  """Returns parameters and optimizer state after a step."""
  updates, state = tx.update(grads, state, params)
  return optax.apply_updates(params, updates), state


class Stepper:
  """A compiled step and its state."""

  def __init__(self, step, params, state, grads, donate):
    self.carry = jax.tree.map(jnp.array, (params, state))
    self.grads = grads
    self.state_bytes = sum(x.nbytes for x in jax.tree.leaves(state))
    self.compiled, _ = timing.compile_timed(
      step, *self.carry, grads, donate_argnums=(0, 1) if donate else ()
    )

  def __call__(self):
    """Takes a step."""
    self.carry = self.compiled(*self.carry, self.grads)
    return self.carry


def steps(kernels, donate, rounds):
  """Returns one row per method, relative to the plain optimizer step."""
  params = resnet50.normal(kernels, 0, 0.02)
  grads = resnet50.normal(kernels, 1, 0.001)

  def stepper(tx):
    step = functools.partial(transform_step, tx)
    return Stepper(step, params, tx.init(params), grads, donate)

  steppers = {"plain optax": stepper(INNER)}
  for name, method in METHODS.items():
    steppers[name] = stepper(
      sparsejax.sparsify(INNER, method, key=jax.random.key(0))
    )
  times = timing.measure(steppers, rounds)
  plain, size = steppers["plain optax"], resnet50.size(kernels)
  return [
    {
      "step": name,
      "donated": donate,
      "to plain": each.wall / times["plain optax"].wall,
      "to plain by CPU time": each.cpu / times["plain optax"].cpu,
      "milliseconds": 1e3 * each.wall,
      "extra state bytes a weight": (
        steppers[name].state_bytes - plain.state_bytes
      )
      / size,
    }
    for name, each in times.items()
  ]


def run(options):
  """Measures, and saves the results."""
  where = timing.machine()
  kernels, rounds = resnet50.shapes(), 15
  if options.small:
    kernels, rounds = resnet50.some(kernels), 1
  rows = [
    row for donate in (True, False) for row in steps(kernels, donate, rounds)
  ]
  timing.save("step_resnet50", rows, where, options.folder)


def main(argv=None):
  """Run the benchmark and save its results."""
  run(outputs.options(__doc__, argv))


if __name__ == "__main__":
  main()
