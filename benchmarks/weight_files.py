"""Sizes of files of sparse weights, and the time to write and read them.

    python benchmarks/weight_files.py

The kernels of a ResNet-50 with random weights, masked by ERK at 90, 95 and
98 %: files of `sparsejax.export.weights` in float32 and bfloat16, with
and without zstd, and as others would store it: dense, and dense with zstd.
Ratios are to the dense float32 file.
"""

import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import optax
import outputs
import resnet50
import timing
import zstandard

import sparsejax
from sparsejax.export import weights

Shapes = dict[str, tuple[int, ...]]
SPARSITIES = (0.9, 0.95, 0.98)
FILES = {
  "values and bits": {},
  "values and bits, zstd": {"compress": True},
  "bfloat16": {"dtype": "bfloat16"},
  "bfloat16, zstd": {"dtype": "bfloat16", "compress": True},
}


def network(kernels: Shapes, sparsity: float) -> tuple[Any, Any]:
  """Returns parameters and masks."""
  params = resnet50.normal(kernels, 0, 0.05)
  tx = sparsejax.sparsify(
    optax.identity(), sparsejax.static(sparsity), key=jax.random.key(1)
  )
  state = tx.init(params)
  return sparsejax.apply_masks(params, state), sparsejax.get_masks(state)


def sizes(
  kernels: Shapes, sparsity: float, folder: pathlib.Path
) -> list[dict[str, Any]]:
  """Returns one row per kind of file."""
  params, masks = network(kernels, sparsity)
  dense = folder / "dense.safetensors"
  weights.save_dense(dense, params)
  whole = dense.stat().st_size
  packed = len(zstandard.ZstdCompressor(level=9).compress(dense.read_bytes()))
  table = [
    _row(sparsity, "dense float32", whole, whole),
    _row(sparsity, "dense float32, zstd", packed, whole),
  ]
  for name, options in FILES.items():
    path = folder / "sparse.safetensors"
    start = time.process_time()
    weights.save(path, params, masks, **options)
    saved = time.process_time()
    weights.load(path)
    row = _row(sparsity, name, path.stat().st_size, whole)
    row |= {"save s": saved - start, "load s": time.process_time() - saved}
    table.append(row)
  return table


def _row(sparsity: float, name: str, size: int, whole: int) -> dict[str, Any]:
  return {
    "file": f"{name} at {sparsity}",
    "MB": size / 1e6,
    "times smaller": whole / size,
    "save s": "",
    "load s": "",
  }


def main(argv: Sequence[str] | None = None) -> None:
  """Run the command line `argv`."""
  options, where = outputs.options(__doc__, argv), timing.machine()
  kernels = resnet50.shapes()
  if options.small:
    kernels = resnet50.some(kernels)
  with tempfile.TemporaryDirectory() as folder:
    rows = [
      row for s in SPARSITIES for row in sizes(kernels, s, pathlib.Path(folder))
    ]
  timing.save("weight_files", rows, where, options.folder)


if __name__ == "__main__":
  main()
