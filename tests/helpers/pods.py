"""Compiles for pods that are not there, and reads what comes out.

    python tests/helpers/pods.py [WORD...]

prints rows of the table of benchmarks/README.md: all, or those with one of the
words in their pod or program.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import math
import os
import pathlib
import re
import sys
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import mesh_utils, topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

import sparsejax

H100 = pathlib.Path(__file__).parents[1] / "pods" / "h100.txtpb"
# So that libtpu asks no metadata server, writes no logs, and does not refuse a
# second process. The rest is read by libtpu when it is loaded.
ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-16",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
  "TPU_LOG_DIR": "disabled",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
FEW = ((3, 3, 64, 64), (1, 1, 256, 512), (2048, 1024))  # kernels
METHODS = {
  "granet": sparsejax.granet(
    0.9, end_step=100, every_steps=10, total_steps=200
  ),
  "gmp": sparsejax.gmp(0.9, end_step=100, every_steps=10),
  "rigl": sparsejax.rigl(0.9, end_step=100, every_steps=10),
}


@dataclasses.dataclass(frozen=True)
class Pod:
  """Accelerators to compile for.

  Attributes:
    library: the module that compiles for them.
    shape: slices or hosts, and devices in each.
    memory: bytes of one device that a program can use.
    topology: arguments of `get_topology_desc`.
  """

  library: str
  shape: tuple[int, int]
  memory: float
  topology: tuple[tuple[str, object], ...]

  def devices(self) -> np.ndarray:
    """Returns the devices in an array of `shape`."""
    if not importlib.util.find_spec(self.library):
      pytest.skip(f"{self.library} is not installed; see CONTRIBUTING.md")
    os.environ.update(ENVIRONMENT)
    given = dict(self.topology)
    if given["platform"] == "cuda":
      given["target_config"] = H100.read_text()
    devices = np.array(topologies.get_topology_desc(**given).devices)
    if given.get("num_slices"):
      slices, each = self.shape
      devices = mesh_utils.create_hybrid_device_mesh(
        (each,), (slices,), devices=devices.tolist()
      )
    return devices.reshape(self.shape)


def _v5e(name, chips, slices=1):
  topology = {"platform": "tpu", "topology_name": f"v5e:{name}"}
  if slices > 1:
    topology["num_slices"] = slices
  return Pod("libtpu", (slices, chips), 15.75 * 2**30, tuple(topology.items()))


PODS = {
  "v5e 4x4": _v5e("4x4", 16),
  "v5e 16x16": _v5e("16x16", 256),
  "2 slices of v5e 4x4": _v5e("4x4", 16, slices=2),
  "2 x 8 H100": Pod(
    "jax_cuda13_plugin",
    (2, 8),
    80e9,
    (("platform", "cuda"), ("topology_name", ""), ("topology", "1x2x8")),
  ),
}

# The collectives of the train step are compared with those of the dense one.
COMPARED = ("v5e 4x4", "2 slices of v5e 4x4")
# Their train step has one text of 1,024 tokens per device.
TRANSFORMERS = (("v5e 4x4", "1b"), ("v5e 16x16", "8b"))

_SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2}
_SIZES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_COLLECTIVE = re.compile(
  r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all"
  r"|collective-permute|collective-broadcast)(?:-start)?\("
)


def collectives(text: str) -> list[tuple[str, int]]:
  """Returns name and bytes of every collective of compiled code."""
  return [(m[2], _bytes(m[1])) for m in _COLLECTIVE.finditer(text)]


def _bytes(signature: str) -> int:
  arrays = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", signature)
  return sum(
    _SIZES[kind] * math.prod(int(n) for n in dims.split(",") if n)
    for kind, dims in arrays
  )


@dataclasses.dataclass(frozen=True)
class Program:
  """What a compiled program says of itself."""

  memory: int  # bytes of one device, at most
  temporary: int  # of them, neither arguments nor results
  collectives: list[tuple[str, int]]
  seconds: float  # of processor time


def compiled(function, *args, **kwargs) -> Program:
  """Lowers and compiles with little optimization."""
  started = time.process_time()
  with quickly():
    program = jax.jit(function, **kwargs).lower(*args).compile()
  used = program.memory_analysis()
  memory = used.argument_size_in_bytes + used.temp_size_in_bytes
  memory += used.output_size_in_bytes - used.alias_size_in_bytes
  seconds = time.process_time() - started
  temporary = used.temp_size_in_bytes
  return Program(memory, temporary, collectives(program.as_text()), seconds)


@contextlib.contextmanager
def quickly():
  """Compiles in a third of the time, and never reads a cache.

  Programs for devices that are not there can be written to the cache, but not
  be read from it.
  """
  changed = {
    "jax_optimization_level": "O0",
    "jax_enable_compilation_cache": False,
  }
  before = {name: getattr(jax.config, name) for name in changed}
  try:
    for name, value in changed.items():
      jax.config.update(name, value)
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)


def with_shapes(tree, sharding_of):
  """Returns the shapes of a tree, sharded as a function of shapes says."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding_of(x.shape)
    ),
    tree,
  )


@functools.cache
def mask_updates(
  pod: str, method: str, kernels: tuple[tuple[int, ...], ...] | None = None
) -> tuple[Program, Program]:
  """Compiles `init` and `update` on kernels, those of ResNet-50 by default.

  They are sharded by fsdp; slices, or hosts, have a replica each.
  """
  import resnet50

  shapes = kernels or tuple(resnet50.shapes().values())
  mesh = Mesh(
    PODS[pod].devices(), ("replica", "fsdp"), axis_types=(AxisType.Auto,) * 2
  )

  def sharding_of(shape):
    spec = [None] * len(shape)
    for axis in reversed(range(len(shape))):
      if len(shape) > 1 and shape[axis] % mesh.shape["fsdp"] == 0:
        spec[axis] = "fsdp"
        break
    return NamedSharding(mesh, P(*spec))

  params = {
    str(i): jax.ShapeDtypeStruct(
      shape, jnp.float32, sharding=sharding_of(shape)
    )
    for i, shape in enumerate(shapes)
  }
  tx = sparsejax.sparsify(
    optax.sgd(0.1, momentum=0.9), METHODS[method], key=jax.random.key(0)
  )
  state = with_shapes(jax.eval_shape(tx.init, params), sharding_of)
  return compiled(tx.init, params), compiled(
    tx.update, params, state, params, donate_argnums=1
  )


@functools.cache
def train_step(pod: str, method: str) -> Program:
  """Compiles the trainer's step of ResNet-50 on ImageNet, 64 images a device.

  Nothing is decoded: the images are zeros that take no memory.
  """
  from sparsejax.data import Split, augment, labeled_images
  from sparsejax.training import initial_state, sharding, train_step as steps
  from sparsejax.training.config import build, files

  devices = PODS[pod].devices().ravel()
  mesh = sharding.make_mesh(devices=devices.tolist())
  batch_size = 64 * devices.size
  path = files.find("`--config`", "imagenet")
  config = files.load(path).get_config(
    f"resnet50,{method},batch_size={batch_size},epochs=90"
  )
  images = np.broadcast_to(np.uint8(0), (1_281_167, 224, 224, 3))
  split = Split(images, np.zeros(len(images), np.int32))
  dataset = labeled_images(
    split, split, classes=1000, mean=127.5, std=127.5, augment=augment.identity
  )
  experiment = build.build(config.lock(), dataset)
  setup = experiment.setup._replace(shard=sharding.batch_sharder(mesh))
  batch = with_shapes(
    Split(
      jax.ShapeDtypeStruct((batch_size, *images.shape[1:]), np.uint8),
      jax.ShapeDtypeStruct((batch_size,), np.int32),
    ),
    lambda shape: sharding.batch_sharding(mesh),
  )
  return compiled(
    functools.partial(steps.train_step, setup),
    initial_state.abstract(experiment, mesh),
    batch,
    donate_argnums=0,
    out_shardings=sharding.replicated(mesh),
  )


@functools.cache
def transformer(
  pod: str, method: str, size: str = "8b"
) -> tuple[Program, Program, object]:
  """Compiles a mask update and the train step of a transformer, by fsdp.

  The third result is the state, with shapes and shardings.

  One text of 1,024 tokens per device, of the vocabulary of Llama 3; each block
  is computed again in the backward pass. No token is read.
  """
  from sparsejax.training import (
    initial_state,
    sharding,
    train_step as steps,
    weight_sharding,
  )
  from sparsejax.training.config import build, files

  devices = PODS[pod].devices().ravel().tolist()
  context, batch_size = 1024, len(devices)
  path = files.find("`--config`", "lm")
  config = files.load(path).get_config(
    f"{method},size={size},dtype=bfloat16,batch_size={batch_size},steps=1000"
  )
  config.model.remat = True
  config.mesh.data, config.mesh.fsdp = 1, -1
  with mock.patch.multiple(
    jax, devices=lambda: devices, device_count=lambda: len(devices)
  ):
    experiment = build.build(config.lock(), _blank_text(context, batch_size))
    mesh = sharding.make_mesh(config.mesh.to_dict())
  state = initial_state.abstract(experiment, mesh)
  setup = experiment.setup._replace(
    shard=sharding.batch_sharder(mesh),
    gather=weight_sharding.gatherer(
      sharding.of(state.params), experiment.model.layer_axes
    ),
  )
  examples = with_shapes(
    steps.batch_shapes(experiment.dataset.example, batch_size),
    lambda shape: sharding.batch_sharding(mesh),
  )
  update = compiled(
    setup.tx.update,
    state.params,
    state.opt_state,
    state.params,
    donate_argnums=1,
    out_shardings=(sharding.of(state.params), sharding.of(state.opt_state)),
  )
  step = compiled(
    functools.partial(steps.train_step, setup),
    state,
    examples,
    donate_argnums=0,
    out_shardings=(sharding.of(state), sharding.replicated(mesh)),
  )
  return update, step, state


def _blank_text(context, batch_size):
  """Returns text of the vocabulary of Llama 3 that takes no memory."""
  from sparsejax.data import Dataset, windows
  from sparsejax.tasks import next_token

  tokens = np.broadcast_to(np.int32(0), (1001 * batch_size * context,))
  train, test = (
    windows.windows(tokens, name="blank", context=context, train=train)
    for train in (True, False)
  )
  return Dataset(
    train,
    test,
    next_token(context=context, bytes_per_token=4.0),
    provided={"vocabulary": 128_256},
  )


def row(pod: str, name: str, program: Program) -> str:
  """Returns a row of the table."""
  kinds = dict.fromkeys(kind for kind, _ in program.collectives)
  listed = ", ".join(
    f"{sum(k == kind for k, _ in program.collectives)} {kind}"
    f" ({max(b for k, b in program.collectives if k == kind):,})"
    for kind in kinds
  )
  memory = (
    f"{program.memory / 1e6:,.0f}, of them {program.temporary / 1e6:,.0f}"
  )
  share = program.memory / PODS[pod].memory
  return (
    f"| {pod} | {name} | {memory} | {share:.1%} | {listed or 'none'} |"
    f" {program.seconds:.0f} |"
  )


def main(*words: str) -> None:
  """Prints the rows with one of the words, or all."""
  programs = {
    f"{which}, gmp, ResNet-50": (mask_updates, index)
    for index, which in enumerate(("`init`", "`update`"))
  }
  found = [
    (pod, name, *programs[name], "gmp") for pod in PODS for name in programs
  ]
  found += [
    (pod, f"train step, {method}, ResNet-50", train_step, None, method)
    for pod in PODS
    for method in (("granet", "dense") if pod in COMPARED else ("granet",))
  ]
  found += [
    (
      pod,
      f"{which}, gmp, transformer of {size}",
      transformer,
      index,
      "gmp",
      size,
    )
    for pod, size in TRANSFORMERS
    for index, which in enumerate(("`update`", "train step"))
  ]
  for pod, name, make, index, *args in found:
    if not words or any(word in f"{pod}, {name}" for word in words):
      made = make(pod, *args)
      print(row(pod, name, made if index is None else made[index]), flush=True)


if __name__ == "__main__":
  jax.config.update("jax_platforms", "cpu")
  main(*sys.argv[1:])
