"""What a file of sparse weights records, and the checks of what it claims."""

import importlib
import json
import math
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from sparsejax.components import trees

KEY = "sparsejax.weights"
_CHECKSUM_KEY = "sparsejax.crc32"
_FORMAT = 1
_MAX_DIMS = 32
_LEVEL = 9  # of zstd
_MAX_WINDOW = 2**27

_SAFETENSORS = {
  "bool": "BOOL",
  "uint8": "U8",
  "int8": "I8",
  "uint16": "U16",
  "int16": "I16",
  "float16": "F16",
  "bfloat16": "BF16",
  "uint32": "U32",
  "int32": "I32",
  "float32": "F32",
  "uint64": "U64",
  "int64": "I64",
  "float64": "F64",
}
DTYPES: dict[str, np.dtype] = {name: jnp.dtype(name) for name in _SAFETENSORS}
"""The dtypes that a file may hold, by name."""


class WeightsError(ValueError):
  """A file of weights that cannot be loaded, and why."""


class Tensor(NamedTuple):
  """A tensor of a safetensors file: its name for the dtype, shape and bytes."""

  dtype: str
  shape: tuple[int, ...]
  data: Any


class LeafRecord(NamedTuple):
  """One leaf of the tree.

  Attributes:
    name: like `block/kernel`.
    dtype: one of `DTYPES`.
    shape: of the leaf.
    active: number of active weights; None for a dense leaf.
    checksums: CRC-32 of the bytes of each of its tensors.
  """

  name: str
  dtype: str
  shape: tuple[int, ...]
  active: int | None
  checksums: list[int]

  @property
  def size(self) -> int:
    """Number of weights."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """Bytes of the array, and of the mask of a sparse leaf."""
    weight = DTYPES[self.dtype].itemsize + (self.active is not None)
    return self.size * weight

  def part_dtypes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Returns dtype and shape of each tensor by its part of the name."""
    if self.active is None:
      return {"": (self.dtype, self.shape)}
    return {
      "values": (self.dtype, (self.active,)),
      "bitmask": ("uint8", (-(-self.size // 8),)),
    }


class Record(NamedTuple):
  """What a file says of itself.

  Attributes:
    tree: nested dicts, lists and tuples, as `skeleton` writes them; None where
      the tree has other nodes.
    leaves: in tree order.
    compressed: whether tensors are zstd frames.
  """

  tree: Any
  leaves: list[LeafRecord]
  compressed: bool


def safetensors(module: str | None = None) -> Any:
  """Returns the package `safetensors`, or one of its modules."""
  return _library("safetensors" + (f".{module}" if module else ""))


def bits(array: np.ndarray) -> np.ndarray:
  """Returns the flat bits of an array as unsigned integers."""
  return array.reshape(-1).view(f"u{array.itemsize}")


def checksum(data: Any) -> int:
  """Returns the CRC-32 of the bytes of an array."""
  flat: Any = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
  return zlib.crc32(flat)


def tensor_name(leaf: str, part: str, compressed: bool) -> str:
  """Returns the name of a tensor in the file."""
  names = [*leaf.split("/"), part, "zst" if compressed else ""]
  return ".".join(name for name in names if name) or "weights"


def stored(data: np.ndarray, compressed: bool) -> np.ndarray:
  """Returns a tensor as the file holds it."""
  if not compressed:
    return data
  level = _library("zstandard").ZstdCompressor(level=_LEVEL)
  raw_bytes = data.reshape(-1).view(np.uint8)
  shuffled = raw_bytes.reshape(-1, data.itemsize).T.tobytes()
  return np.frombuffer(level.compress(shuffled), np.uint8)


def raw(
  leaf: LeafRecord,
  part: str,
  record: Record,
  tensors: Mapping[str, Tensor],
) -> Any:
  """Returns the bytes of one part of a leaf; `check_tensors` comes first."""
  data = tensors[tensor_name(leaf.name, part, record.compressed)].data
  if not record.compressed:
    return data
  dtype, shape = leaf.part_dtypes()[part]
  itemsize = DTYPES[dtype].itemsize
  size = itemsize * math.prod(shape)
  library = _library("zstandard")
  try:
    claimed = library.get_frame_parameters(data).content_size
    if claimed != size:  # Before memory is taken for it.
      raise WeightsError(
        f"{leaf.name!r} is compressed from {claimed} bytes, and should be from"
        f" {size}"
      )
    limited = library.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    found = limited.decompress(
      data, max_output_size=max(size, 1), allow_extra_data=False
    )
  except library.ZstdError as error:
    raise WeightsError(f"{leaf.name!r} is damaged ({error})") from error
  shuffled = np.frombuffer(found, np.uint8).reshape(itemsize, -1)
  return shuffled.T.tobytes()


def skeleton(tree: PyTree) -> Any:
  """Describes a tree of dicts, lists and tuples; None for other trees.

  Leaves are numbers in tree order.
  """
  numbered = jax.tree.unflatten(
    jax.tree.structure(tree), range(len(jax.tree.leaves(tree)))
  )
  try:
    return _described(numbered)
  except TypeError:
    return None


def seal(record: Record) -> dict[str, str]:
  """Returns the metadata of a file, with the checksum of the record."""
  content = {
    "format": _FORMAT,
    "compressed": record.compressed,
    "tree": record.tree,
    "leaves": [leaf._asdict() for leaf in record.leaves],
  }
  text = json.dumps(content, separators=(",", ":"))
  return {KEY: text, _CHECKSUM_KEY: str(zlib.crc32(text.encode()))}


def unseal(metadata: Any) -> Record:
  """Returns the record in the metadata of a file.

  Raises:
    WeightsError: if it is missing, damaged, or makes no sense.
  """
  if not isinstance(metadata, Mapping) or KEY not in metadata:
    raise WeightsError(
      f"it has no {KEY!r} in its metadata, so it is no file of"
      " sparsejax.export.weights.save"
    )
  text = str(metadata[KEY])
  if str(metadata.get(_CHECKSUM_KEY)) != str(zlib.crc32(text.encode())):
    raise WeightsError("its record is damaged: the checksum does not match")
  try:
    content = json.loads(text)
    if content["format"] != _FORMAT:
      raise WeightsError(
        f"its format is {content['format']!r}, and this version reads {_FORMAT}"
      )
    leaves = [_leaf(**fields) for fields in content["leaves"]]
    return Record(content["tree"], leaves, bool(content["compressed"]))
  except (ValueError, TypeError, KeyError, RecursionError) as error:
    if isinstance(error, WeightsError):
      raise
    raise WeightsError("its record is not what was written") from error


def check_tensors(record: Record, tensors: Mapping[str, Tensor]) -> None:
  """Compares names, dtypes, shapes and checksums of tensors with the record.

  Raises:
    WeightsError: for a difference.
  """
  expected = set()
  for leaf in record.leaves:
    parts = leaf.part_dtypes()
    if len(leaf.checksums) != len(parts):
      raise WeightsError(f"the record of {leaf.name!r} lacks a checksum")
    for (part, (dtype, shape)), found in zip(
      parts.items(), leaf.checksums, strict=True
    ):
      name = tensor_name(leaf.name, part, record.compressed)
      if name in expected or name not in tensors:
        raise WeightsError(f"the tensor {name!r} is missing, or there twice")
      expected.add(name)
      _check_tensor(name, tensors[name], dtype, shape, record.compressed)
      if zlib.crc32(tensors[name].data) != found:
        raise WeightsError(f"the checksum of {name!r} does not match")
  if extra := tensors.keys() - expected:
    raise WeightsError(f"the tensor {min(extra)!r} is not in its record")


def rebuilder(
  record: Record, like: PyTree | None, path: pathlib.Path
) -> Callable[[Sequence[Any]], PyTree]:
  """Returns what makes the tree from its leaves.

  Raises:
    WeightsError: if the record's tree makes no sense.
    ValueError: if `like` is missing, or has other leaves.
  """
  names = [leaf.name for leaf in record.leaves]
  if like is not None:
    here = [name for name, _ in trees.named_leaves(like)]
    if here != names:
      differ = sorted(set(here) ^ set(names)) or names
      raise ValueError(
        f"`like` has other leaves than {path}: {', '.join(differ[:6])}."
      )
    return lambda leaves: jax.tree.unflatten(jax.tree.structure(like), leaves)
  if record.tree is None:
    raise ValueError(
      f"`like` must be given: {path} holds a tree with other nodes than dicts,"
      " lists and tuples. Give the tree of the model, as its `init` returns it."
    )
  used: list[int] = []
  try:
    _built(record.tree, names, used)
  except (TypeError, LookupError, RecursionError) as error:
    raise WeightsError(
      f"{path} cannot be loaded: the tree in its record makes no sense."
    ) from error
  if sorted(used) != list(range(len(names))):
    raise WeightsError(
      f"{path} cannot be loaded: its tree does not hold each leaf once."
    )
  return lambda leaves: _built(record.tree, leaves, [])


def _library(name: str) -> Any:
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      f"{name.partition('.')[0]} is not installed; weights are read and written"
      " with the extra `export`: pip install 'sparsejax[export]'"
    ) from error


def _described(node: Any) -> Any:
  if node is None or isinstance(node, int):
    return node
  if type(node) is dict:
    if not all(isinstance(key, str) for key in node):
      raise TypeError
    return {"dict": {key: _described(x) for key, x in node.items()}}
  if type(node) in (list, tuple):
    return {type(node).__name__: [_described(x) for x in node]}
  raise TypeError


def _built(node: Any, leaves: Sequence[Any], used: list[int]) -> Any:
  if node is None:
    return None
  if isinstance(node, int) and not isinstance(node, bool) and node >= 0:
    used.append(node)
    return leaves[node]
  found: Any = node.items() if isinstance(node, dict) else ((0, 0),)
  ((kind, children),) = found
  if kind == "dict":
    return {key: _built(x, leaves, used) for key, x in children.items()}
  if kind in ("list", "tuple") and isinstance(children, list):
    built = [_built(x, leaves, used) for x in children]
    return built if kind == "list" else tuple(built)
  raise TypeError


def _leaf(
  name: Any, dtype: Any, shape: Any, active: Any, checksums: Any
) -> LeafRecord:
  sizes = [*shape, *checksums, *([] if active is None else [active])]
  whole = all(type(size) is int and 0 <= size < 2**62 for size in sizes)
  if not (
    whole
    and type(name) is str
    and dtype in DTYPES
    and len(shape) <= _MAX_DIMS
    and math.prod(max(size, 1) for size in shape) < 2**62
    and (active is None or active <= math.prod(shape))
  ):
    raise ValueError
  return LeafRecord(name, dtype, tuple(shape), active, list(checksums))


def _check_tensor(
  name: str,
  tensor: Tensor,
  dtype: str,
  shape: tuple[int, ...],
  compressed: bool,
) -> None:
  if compressed:
    fits = tensor.dtype == "U8" and len(tensor.shape) == 1
  else:
    fits = (tensor.dtype, tensor.shape) == (_SAFETENSORS[dtype], shape)
  if not fits:
    raise WeightsError(
      f"the tensor {name!r} is {tensor.dtype}{list(tensor.shape)}, which its"
      " record does not say"
    )
