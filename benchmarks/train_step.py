"""The whole training step of a ResNet-50 with GraNet, compared to dense.

    python benchmarks/train_step.py

Batches of 32 images of 64x64 pixels, SGD with momentum, everything donated. The
timed steps contain no mask update.
"""

import functools

import jax
import jax.numpy as jnp
import optax
import outputs
import step
import timing

import sparsejax
from sparsejax import models

BATCH, PIXELS, CLASSES = 32, 64, 1000


def train_step(model, tx, params, batch_stats, state, images, labels):
  """Returns parameters, batch statistics and optimizer state after a step."""

  def loss_of(params):
    logits, changed = model.apply(
      {"params": params, "batch_stats": batch_stats},
      images,
      train=True,
      mutable=["batch_stats"],
    )
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return loss.mean(), changed["batch_stats"]

  grads, batch_stats = jax.grad(loss_of, has_aux=True)(params)
  updates, state = tx.update(grads, state, params)
  return optax.apply_updates(params, updates), batch_stats, state


class Trainer:
  """A compiled training step and its state."""

  def __init__(self, model, variables, tx, images, labels):
    params = jax.tree.map(jnp.array, variables["params"])
    stats = jax.tree.map(jnp.array, variables["batch_stats"])
    self.carry = (params, stats, tx.init(params))
    self.batch = (images, labels)
    self.compiled, self.compile_time = timing.compile_timed(
      functools.partial(train_step, model, tx),
      *self.carry,
      *self.batch,
      donate_argnums=(0, 1, 2),
    )

  def __call__(self):
    """Takes a step."""
    self.carry = self.compiled(*self.carry, *self.batch)
    return self.carry


def train_steps(rounds, model=None, batch=BATCH, pixels=PIXELS):
  """Returns one row for the dense step and one for GraNet."""
  model = model or models.resnet50(CLASSES)
  images = jax.random.normal(jax.random.key(1), (batch, pixels, pixels, 3))
  labels = jnp.arange(batch) % 10
  variables = model.init(jax.random.key(0), images, train=False)
  granet = sparsejax.sparsify(
    step.INNER, step.METHODS["granet"], key=jax.random.key(0)
  )
  trainers = {
    name: Trainer(model, variables, tx, images, labels)
    for name, tx in (("dense", step.INNER), ("granet", granet))
  }
  times = timing.measure(trainers, rounds, warm_up=1, warm=0)
  dense = trainers["dense"].compile_time
  return [
    {
      "train step": name,
      "to dense": each.wall / times["dense"].wall,
      "to dense by CPU time": each.cpu / times["dense"].cpu,
      "milliseconds": 1e3 * each.wall,
      "extra compile seconds": trainers[name].compile_time.wall - dense.wall,
      "extra compile CPU seconds": trainers[name].compile_time.cpu - dense.cpu,
    }
    for name, each in times.items()
  ]


def run(options):
  """Measures, and saves the results."""
  where = timing.machine()
  if options.small:
    rows = train_steps(1, models.resnet20(CLASSES, width=0.25), 4, 16)
  else:
    rows = train_steps(15)
  timing.save("train_step_resnet50", rows, where, options.folder)


def main(argv=None):
  """Run the benchmark and save its results."""
  run(outputs.options(__doc__, argv))


if __name__ == "__main__":
  main()
