"""Files of sparse weights: the active values, and one bit per weight.

A file is a safetensors file, which any safetensors reader opens. A sparse leaf
`block/kernel` is two tensors: `block.kernel.values`, its active weights in
row-major order, and `block.kernel.bitmask`, one bit per weight, the least
significant bit first. A dense leaf is one tensor under its own name. With
compression every tensor is a zstd frame in bytes, under a name that ends in
`.zst`, and the bytes of values are shuffled first: all lowest bytes, then all
second ones, and so on.

The metadata holds `sparsejax.weights`, a record in JSON of the tree, and of the
shape, dtype and checksums of each leaf. `read` trusts none of it: sizes are
compared before memory is taken, and nothing in a file is executed.

float32 takes 4 (1 - sparsity) + 1/8 bytes per weight, so that a file has 1/7.6,
1/12.3 and 1/19.5 of the bytes of dense float32 at a sparsity of 0.9, 0.95 and
0.98, without compression.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from sparsejax.components import leaves, trees
from sparsejax.export import weight_records as records
from sparsejax.export.weight_records import LeafRecord, WeightsError
from sparsejax.method import Masks

SPARSE_FILE = "weights.safetensors"
DENSE_FILE = "dense.safetensors"


class Loaded(NamedTuple):
  """What a file holds.

  Attributes:
    params: the tree, with numpy arrays; exact zeros where a weight is inactive.
    masks: the masks, `MaskedNode` at dense leaves.
  """

  params: PyTree
  masks: Masks


class Written(NamedTuple):
  """Files that `write` wrote.

  Attributes:
    sparse: values and bitmasks.
    dense: the same weights as plain arrays, for other programs.
    sparse_bytes: size of the first.
    dense_bytes: size of the second.
  """

  sparse: pathlib.Path
  dense: pathlib.Path
  sparse_bytes: int
  dense_bytes: int


def write(
  folder: str | os.PathLike,
  params: PyTree,
  masks: Masks | None = None,
  *,
  dtype: Any = None,
  compress: bool = False,
) -> Written:
  """Writes `weights.safetensors` and `dense.safetensors` into a folder.

  Args:
    folder: made if it is missing.
    params: as in `save`.
    masks: as in `save`.
    dtype: of the sparse file, as in `save`; the dense file keeps that of the
      parameters.
    compress: as in `save`.

  Raises:
    ValueError: as `save` does.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  sparse, dense = folder / SPARSE_FILE, folder / DENSE_FILE
  save(sparse, params, masks, dtype=dtype, compress=compress)
  save_dense(dense, params)
  sizes = sparse.stat().st_size, dense.stat().st_size
  return Written(sparse, dense, *sizes)


def save(
  path: str | os.PathLike,
  params: PyTree,
  masks: Masks | None = None,
  *,
  dtype: Any = None,
  compress: bool = False,
) -> None:
  """Saves a sparse network as values and bitmasks.

  Args:
    path: the file; an existing one is replaced once the new one is complete.
    params: tree of arrays. Of dicts with text as keys, lists and tuples the
      file records the structure; for other nodes `load` needs `like=`.
    masks: from `sparsejax.get_masks`: leaves with a mask are stored sparse, and
      an active weight of 0 stays active. None stores those leaves sparse whose
      zeros make that smaller.
    dtype: "float32" or "bfloat16", which all floating leaves are rounded to;
      None keeps them as they are.
    compress: whether to compress with zstd (`pip install 'sparsejax[export]'`).

  Raises:
    ValueError: if a leaf is no array or of a dtype without a name in
      safetensors, `masks` do not fit, or an inactive weight is not 0.
  """
  named = _arrays(params, dtype)
  flags = _flags(params, named, masks)
  tensors: dict[str, np.ndarray] = {}
  entries = []
  for (name, array), active in zip(named, flags, strict=True):
    parts = _parts(array, active)
    stored = {
      records.tensor_name(name, part, compress): records.stored(data, compress)
      for part, data in parts.items()
    }
    if clash := tensors.keys() & stored.keys():
      raise ValueError(
        f"`params` has two leaves for the tensor {min(clash)!r}. Rename one of"
        " them."
      )
    tensors |= stored
    entries.append(
      LeafRecord(
        name=name,
        dtype=array.dtype.name,
        shape=array.shape,
        active=None if active is None else int(active.sum()),
        checksums=[records.checksum(data) for data in stored.values()],
      )
    )
  record = records.Record(
    tree=records.skeleton(params), leaves=entries, compressed=compress
  )
  _write_file(path, tensors, records.seal(record))


def save_dense(path: str | os.PathLike, params: PyTree) -> None:
  """Saves a network as a plain safetensors file of dense arrays.

  Names are those of the leaves, joined by dots, as in `block.kernel`.

  Raises:
    ValueError: if a leaf is no array or of a dtype without a name in
      safetensors.
  """
  tensors = {
    name.replace("/", "."): array for name, array in _arrays(params, None)
  }
  _write_file(path, tensors, {"format": "np"})


def load(
  path: str | os.PathLike,
  *,
  like: PyTree | None = None,
  max_bytes: int | None = None,
) -> Loaded:
  """Loads what `save` saved: the same tree, bit for bit.

  Args:
    path: the file.
    like: a tree of the same structure, for trees that are not made of dicts,
      lists and tuples alone; its leaves are not read.
    max_bytes: the most memory that the arrays may take. By default 64 times the
      size of the file and another 2^30: no uncompressed file needs more.

  Returns:
    The tree and its masks.

  Raises:
    WeightsError: if the file is missing, damaged, truncated, of another kind,
      or holds more than `max_bytes`.
    ValueError: if the file does not know the structure and `like` is None or
      has other leaves.
  """
  path = pathlib.Path(path)
  tensors, record, file_bytes = _read_file(path)
  try:
    _check_memory(record, file_bytes, max_bytes)
    records.check_tensors(record, tensors)
    pairs = [_decoded(leaf, record, tensors) for leaf in record.leaves]
  except WeightsError as error:
    raise WeightsError(f"{path} cannot be loaded: {error}.") from error
  rebuild = records.rebuilder(record, like, path)
  nodes = [optax.MaskedNode() if mask is None else mask for _, mask in pairs]
  return Loaded(rebuild([array for array, _ in pairs]), rebuild(nodes))


def _arrays(params: PyTree, dtype: Any) -> list[tuple[str, np.ndarray]]:
  """Returns name and array of every leaf, in row-major order."""
  rounded = None if dtype is None else jnp.dtype(dtype)
  if rounded is not None and rounded.name not in ("float32", "bfloat16"):
    raise ValueError(
      f"`dtype` must be 'float32', 'bfloat16' or None, got {dtype!r}."
    )
  named = []
  for name, leaf in trees.named_leaves(params):
    if not isinstance(leaf, (np.ndarray, np.generic, jax.Array)):
      raise ValueError(
        f"`params` must have arrays as leaves, got {type(leaf).__name__} at"
        f" {name!r}. Convert it with jnp.asarray."
      )
    array = _as_numpy(name, leaf)
    if rounded is not None and jnp.issubdtype(array.dtype, jnp.floating):
      array = array.astype(rounded)
    named.append((name, np.ascontiguousarray(array).reshape(array.shape)))
  return named


def _as_numpy(name: str, leaf: Any) -> np.ndarray:
  if leaf.dtype.name not in records.DTYPES:
    raise ValueError(
      f"`params` has dtype {leaf.dtype} at {name!r}, which a safetensors file"
      f" cannot hold. It holds {', '.join(records.DTYPES)}."
    )
  return np.asarray(leaf)


def _flags(
  params: PyTree,
  named: Sequence[tuple[str, np.ndarray]],
  masks: Masks | None,
) -> list[np.ndarray | None]:
  """Returns for each leaf its flat bools of active weights; None if dense."""
  if masks is None:
    return [_nonzero_if_smaller(array) for _, array in named]
  sparse = leaves.sparse_flags(params, masks)
  nodes = jax.tree.structure(params).flatten_up_to(masks)
  flags = []
  for (name, array), is_sparse, mask in zip(named, sparse, nodes, strict=True):
    active = np.asarray(mask, bool).reshape(-1) if is_sparse else None
    if active is not None and records.bits(array)[~active].any():
      raise ValueError(
        f"`params` has inactive weights that are not 0 at {name!r}. Call"
        " sparsejax.apply_masks(params, opt_state) first."
      )
    flags.append(active)
  return flags


def _nonzero_if_smaller(array: np.ndarray) -> np.ndarray | None:
  """Returns where bits are set, so that -0.0 is no zero; None if dense."""
  active = records.bits(array) != 0
  sparse_bytes = int(active.sum()) * array.itemsize + -(-array.size // 8)
  return active if sparse_bytes < array.nbytes else None


def _parts(
  array: np.ndarray, active: np.ndarray | None
) -> dict[str, np.ndarray]:
  """Returns the tensors of a leaf, in the order of its checksums."""
  if active is None:
    return {"": array}
  return {
    "values": array.reshape(-1)[active],
    "bitmask": np.packbits(active, bitorder="little"),
  }


def _write_file(
  path: str | os.PathLike,
  tensors: Mapping[str, np.ndarray],
  metadata: Mapping[str, str],
) -> None:
  """Writes a file under another name first, so that it is whole or missing."""
  path = pathlib.Path(path)
  partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
  try:
    records.safetensors("numpy").save_file(
      dict(tensors), partial, metadata=dict(metadata)
    )
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def _read_file(
  path: pathlib.Path,
) -> tuple[dict[str, records.Tensor], records.Record, int]:
  """Returns the raw tensors, the record, and the size of the file."""
  library = records.safetensors()
  try:
    data = path.read_bytes()
  except OSError as error:
    raise WeightsError(f"{path} cannot be loaded: {error.strerror}.") from error
  try:
    found = library.deserialize(data)  # Compares all sizes with the file's.
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
  except (library.SafetensorError, ValueError, RecursionError) as error:
    raise WeightsError(
      f"{path} cannot be loaded: it is damaged, or no safetensors file"
      f" ({error})."
    ) from error
  tensors = {
    name: records.Tensor(view["dtype"], tuple(view["shape"]), view["data"])
    for name, view in found
  }
  try:
    return tensors, records.unseal(metadata), len(data)
  except WeightsError as error:
    raise WeightsError(f"{path} cannot be loaded: {error}.") from error


def _check_memory(
  record: records.Record, file_bytes: int, max_bytes: int | None
) -> None:
  limit = 64 * file_bytes + 2**30 if max_bytes is None else max_bytes
  needed = sum(leaf.nbytes for leaf in record.leaves)
  if needed > limit:
    raise WeightsError(
      f"its arrays take {needed:,} bytes, more than `max_bytes` of {limit:,}."
      " Give a larger one if you trust the file"
    )


def _decoded(
  leaf: LeafRecord,
  record: records.Record,
  tensors: Mapping[str, records.Tensor],
) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns the array of a leaf, and its mask."""
  parts = {
    part: records.raw(leaf, part, record, tensors)
    for part in leaf.part_dtypes()
  }
  dtype = records.DTYPES[leaf.dtype]
  if leaf.active is None:
    array = np.frombuffer(parts[""], dtype).reshape(leaf.shape)
    return array.copy(), None
  packed = np.frombuffer(parts["bitmask"], np.uint8)
  active = np.unpackbits(packed, bitorder="little").view(bool)
  if active[leaf.size :].any() or int(active.sum()) != leaf.active:
    raise WeightsError(
      f"the bitmask of {leaf.name!r} has {int(active.sum())} active weights,"
      f" but there are {leaf.active} values"
    )
  active = active[: leaf.size]
  array = np.zeros(leaf.size, dtype)
  array[active] = np.frombuffer(parts["values"], dtype)
  return array.reshape(leaf.shape), active.reshape(leaf.shape)
