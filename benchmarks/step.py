"""The step without a mask update, beside the plain optimizer step.

    python benchmarks/step.py

SGD with momentum on the kernels of ResNet-50, parameters and state donated or
not; and the time that compiling takes.
"""

import functools
import time

import jax
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


class Stepper:
  """A compiled step and what it carries from call to call."""

  def __init__(self, tx, params, grads, donate):
    def step(params, state, grads):
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), state

    state = tx.init(params)
    self.carry = (jax.tree.map(lambda x: x + 0, params), state)
    self.grads = grads
    start = time.process_time()
    donated = (0, 1) if donate else ()
    lowered = jax.jit(step, donate_argnums=donated).lower(*self.carry, grads)
    self.compiled = lowered.compile()
    self.compile_seconds = time.process_time() - start
    self.state_bytes = sum(x.nbytes for x in jax.tree.leaves(state))

  def __call__(self):
    """Takes a step and returns what it carries on."""
    self.carry = self.compiled(*self.carry, self.grads)
    return self.carry


def measure(kernels, donate, rounds):
  """Returns one row per method, in ratios to the plain step."""
  params = resnet50.draw(kernels, 0, 0.02)
  grads = resnet50.draw(kernels, 1, 0.001)
  make = functools.partial(Stepper, params=params, grads=grads, donate=donate)
  steppers = {"plain": make(INNER)}
  for name, method in METHODS.items():
    tx = sparsejax.sparsify(INNER, method, key=jax.random.key(0))
    steppers[name] = make(tx)
  seconds = timing.alternate(steppers, rounds)
  plain = steppers["plain"]
  return [
    {
      "step": name,
      "donated": donate,
      "to plain": seconds[name] / seconds["plain"],
      "milliseconds": 1e3 * seconds[name],
      "extra compile CPU seconds": s.compile_seconds - plain.compile_seconds,
      "extra state bytes a weight": (s.state_bytes - plain.state_bytes)
      / resnet50.size(kernels),
    }
    for name, s in steppers.items()
  ]


if __name__ == "__main__":
  where = timing.machine()
  kernels = resnet50.shapes()
  rows = [r for donate in (True, False) for r in measure(kernels, donate, 15)]
  timing.save("step_resnet50", rows, where)
