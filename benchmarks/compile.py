"""Compile time of a sparse step, compared to the plain optimizer step.

    python benchmarks/compile.py

SGD with momentum on the kernels of ResNet-50, donated. Times include tracing.
"""

import functools

import jax
import outputs
import resnet50
import step
import timing

import sparsejax


def compilations(kernels, rounds=3):
  """Returns one row per method: medians over a few compilations."""
  params = resnet50.normal(kernels, 0, 0.02)
  transforms = {"plain optax": step.INNER}
  for name, method in step.METHODS.items():
    transforms[name] = sparsejax.sparsify(
      step.INNER, method, key=jax.random.key(0)
    )
  states = {name: tx.init(params) for name, tx in transforms.items()}
  samples = {name: [] for name in transforms}
  for _ in range(rounds):
    for name, tx in transforms.items():
      jax.clear_caches()
      one = functools.partial(step.transform_step, tx)
      args = (params, states[name], params)
      samples[name].append(
        timing.compile_timed(one, *args, donate_argnums=(0, 1))[1]
      )
  times = {
    name: timing.Timing(
      *(sorted(x)[len(x) // 2] for x in zip(*timings, strict=True))
    )
    for name, timings in samples.items()
  }
  plain = times["plain optax"]
  return [
    {
      "step": name,
      "seconds": each.wall,
      "extra seconds": each.wall - plain.wall,
      "extra CPU seconds": each.cpu - plain.cpu,
    }
    for name, each in times.items()
  ]


def run(options):
  """Measures, and saves the results."""
  where = timing.machine()
  kernels, rounds = resnet50.shapes(), 3
  if options.small:
    kernels, rounds = resnet50.some(kernels), 1
  rows = compilations(kernels, rounds)
  timing.save("compile_resnet50", rows, where, options.folder)


def main(argv=None):
  """Run the benchmark and save its results."""
  run(outputs.options(__doc__, argv))


if __name__ == "__main__":
  main()
