"""What compiling a step costs more than compiling the plain optimizer step.

    python benchmarks/compile.py

SGD with momentum on the kernels of ResNet-50, donated; tracing is included.
"""

import functools

import jax
import resnet50
import step
import timing

import sparsejax


def compilations(kernels, rounds=3):
  """Returns one row per method: the medians of a few compilations."""
  params = resnet50.draw(kernels, 0, 0.02)
  transforms = {"plain optax": step.INNER}
  for name, method in step.METHODS.items():
    transforms[name] = sparsejax.sparsify(
      step.INNER, method, key=jax.random.key(0)
    )
  states = {name: tx.init(params) for name, tx in transforms.items()}
  seen = {name: [] for name in transforms}
  for _ in range(rounds):
    for name, tx in transforms.items():
      jax.clear_caches()
      one = functools.partial(step.transform_step, tx)
      args = (params, states[name], params)
      seen[name].append(timing.compiling(one, *args, donate_argnums=(0, 1))[1])
  took = {
    name: timing.Took(
      *(sorted(x)[len(x) // 2] for x in zip(*some, strict=True))
    )
    for name, some in seen.items()
  }
  plain = took["plain optax"]
  return [
    {
      "step": name,
      "seconds": each.wall,
      "extra seconds": each.wall - plain.wall,
      "extra CPU seconds": each.cpu - plain.cpu,
    }
    for name, each in took.items()
  ]


def main():
  """Measures and saves all."""
  where = timing.machine()
  timing.save("compile_resnet50", compilations(resnet50.shapes()), where)


if __name__ == "__main__":
  main()
