"""Networks that train side by side under `vmap`, compared to dense ones.

    python benchmarks/vmap.py

Times one step of 32 copies of a perceptron in one program, each with its own
weights and masks, between mask updates and with one in every ten steps. The
state is donated.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
import outputs
import timing

import sparsejax

COPIES, BATCH, ROUNDS, STEPS = 32, 64, 11, 20
WIDTHS = (64, 128, 128, 10)


def init(key: jax.Array) -> dict[str, Any]:
  """Returns random weights."""
  return {
    f"layer_{i}": {
      "kernel": jax.random.normal(jax.random.fold_in(key, i), shape)
      / shape[0] ** 0.5,
      "bias": jnp.zeros(shape[1]),
    }
    for i, shape in enumerate(zip(WIDTHS, WIDTHS[1:], strict=False))
  }


def loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the mean loss."""
  x = images
  for i, layer in enumerate(params.values()):
    x = (jax.nn.relu(x) if i else x) @ layer["kernel"] + layer["bias"]
  return optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()


def step(tx: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
  """Takes one step of one network."""
  params, state = carry
  images = jax.random.normal(jax.random.key(1), (BATCH, WIDTHS[0]))
  labels = jnp.arange(BATCH) % WIDTHS[-1]
  grads = jax.grad(loss)(params, images, labels)
  updates, state = tx.update(grads, state, params)
  return optax.apply_updates(params, updates), state


def start(tx: Any, sparse: bool, key: jax.Array) -> tuple[Any, Any]:
  """Returns the weights and the state of one network."""
  params = init(key)
  state = tx.init(params)
  return (sparsejax.apply_masks(params, state) if sparse else params), state


class Loop:
  """Steps of all copies, which keep their state from call to call."""

  def __init__(self, tx: Any, sparse: bool, copies: int):
    keys = jax.random.split(jax.random.key(0), copies)
    first = jax.jit(jax.vmap(functools.partial(start, tx, sparse)))
    self.carry = first(keys)
    together = jax.vmap(functools.partial(step, tx))
    self.step, self.compiling = timing.compile_timed(
      together, self.carry, donate_argnums=0
    )

  def __call__(self) -> Any:
    """Runs `STEPS` steps."""
    for _ in range(STEPS):
      self.carry = self.step(self.carry)
    return self.carry


def granet(every: int) -> sparsejax.Method:
  """Returns GraNet whose masks are updated in every so many steps."""
  return sparsejax.granet(
    0.9,
    initial_sparsity=0.5,
    end_step=every,
    every_steps=every,
    total_steps=10**6,
  )


def main(argv: Sequence[str] | None = None) -> None:
  """Run the benchmark and save its results."""
  options = outputs.options(__doc__, argv)
  where, copies, rounds = timing.machine(), COPIES, ROUNDS
  if options.small:
    copies, rounds = 2, 1
  inner = optax.sgd(0.05, momentum=0.9)
  loops = {"dense": Loop(inner, False, copies)}
  for name, every in (("granet", 10**5), ("granet, update in every 10", 10)):
    tx = sparsejax.sparsify(inner, granet(every), key=jax.random.key(0))
    loops[name] = Loop(tx, True, copies)
  found = timing.measure(loops, rounds, warm=0)
  rows = [
    {
      f"{copies} networks": name,
      "step / dense step": found[name].wall / found["dense"].wall,
      "CPU time": found[name].cpu / found["dense"].cpu,
      "milliseconds": 1e3 * found[name].wall / STEPS,
      "compile s": loop.compiling.wall,
    }
    for name, loop in loops.items()
  ]
  timing.save("vmap", rows, where, options.folder)


if __name__ == "__main__":
  main()
