"""What removing half of the channels gains, in XLA and in onnxruntime.

    python benchmarks/export.py

A ResNet-18 for CIFAR and a MobileNet-V1, with a random half of every group of
channels dead, are shrunk, and the smaller network is timed against the masked
one on one core. Needs the extra `onnx`.
"""

import functools
import os
import pathlib
import tempfile

if __name__ == "__main__":  # One core, before XLA makes its threads.
  os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import outputs  # noqa: E402
import timing  # noqa: E402

from sparsejax.analysis import coupling  # noqa: E402
from sparsejax.components import trees  # noqa: E402
from sparsejax.export import onnx_file, shrink  # noqa: E402
from sparsejax.models import MODELS, ResNet, layers  # noqa: E402
from sparsejax.models.residual_blocks import BasicBlock, projection  # noqa: E402

ROUNDS = 5


def resnet18(classes):
  """Returns ResNet-18 with a stem for 32 x 32 images."""
  return ResNet(
    classes=classes,
    block=BasicBlock,
    blocks=(2, 2, 2, 2),
    widths=(64, 128, 256, 512),
    large_stem=False,
    shortcut=projection,
    kernel_init=layers.kaiming_fan_in,
    classifier=layers.linear(layers.kaiming_fan_in, layers.torch_bias),
    dtype=jnp.float32,
  )


NETWORKS = {
  "ResNet-18, 32 x 32": (lambda: resnet18(10), 32),
  "MobileNet-V1, 224 x 224": (lambda: MODELS["mobilenet_v1"](1000), 224),
}


def half_dead(model, x):
  """Returns a network with a random half of each kind of channel dead."""

  def apply(variables, x):
    return model.apply(variables, x, train=False)

  variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(
    x
  )
  groups = coupling.coupling(apply, variables, x)
  dead = np.zeros(len(groups), bool)
  rng = np.random.default_rng(0)
  for _, _, of, _ in groups.axes():
    left = of[~groups.frozen[of] & ~dead[of]]
    count = len(of) // 2 - int(dead[of].sum())
    if len(left) + int(dead[of].sum()) == len(of) and count > 0:
      dead[rng.choice(left, count, replace=False)] = True
  masks = groups.masks(dead)
  silent = [
    jnp.where(masks[name], leaf, 0)
    for name, leaf in trees.named_leaves(variables)
  ]
  return apply, jax.tree.unflatten(jax.tree.structure(variables), silent)


def rows(name, model, size, batches, rounds):
  """Yields the times of a network in both runtimes, at each batch size."""
  image = np.random.default_rng(0).normal(size=(1, size, size, 3))
  x = jnp.asarray(image, jnp.float32)
  apply, variables = half_dead(model, x)
  small = shrink.shrink(apply, variables, None, x)
  with tempfile.TemporaryDirectory() as folder:
    networks = {
      "masked": (apply, variables),
      "smaller": (small.apply, small.params),
    }
    sessions = {}
    for kind, network in networks.items():
      path = pathlib.Path(folder) / f"{kind}.onnx"
      onnx_file.save(path, *network, x)
      sessions[kind] = onnx_file.load(path, threads=1)
  for batch in batches:
    xs = jnp.repeat(x, batch, axis=0)
    array = np.asarray(xs)
    calls = {}
    for kind, (function, params) in networks.items():
      calls[f"XLA {kind}"] = functools.partial(jax.jit(function), params, xs)
      calls[f"onnxruntime {kind}"] = functools.partial(
        onnx_file.run, sessions[kind], array
      )
    found = timing.measure(calls, rounds, warm_up=1, warm=1)
    for runtime in ("XLA", "onnxruntime"):
      masked, smaller = (
        1e3 * found[f"{runtime} {kind}"].cpu for kind in networks
      )
      yield {
        "network": f"{name}, batch {batch}, {runtime}",
        "masked cpu ms": masked,
        "smaller cpu ms": smaller,
        "times faster": masked / smaller,
        "times fewer multiply-adds": small.report.before.multiply_adds
        / small.report.after.multiply_adds,
        "difference": small.report.difference,
      }


def run(options):
  """Times all networks and saves the results."""
  where = timing.machine()
  names = list(NETWORKS)[:1] if options.small else list(NETWORKS)
  batches = (1,) if options.small else (1, 32)
  found = [
    row
    for name in names
    for row in rows(
      name,
      NETWORKS[name][0](),
      32 if options.small else NETWORKS[name][1],
      batches if "MobileNet" not in name else (1,),
      1 if options.small else ROUNDS,
    )
  ]
  timing.save("export", found, where, options.folder)


def main(argv=None):
  """Run the benchmark and save its results."""
  run(outputs.options(__doc__, argv))


if __name__ == "__main__":
  main()
