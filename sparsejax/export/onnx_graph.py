"""An ONNX graph under construction.

A value is a numpy array (a constant, which is folded) or a `Tensor`, a name in
the graph. ONNX wants channels first and JAX has them last, so a tensor may lie
transposed in memory; it is put straight only where an operation needs that, and
batch norm and ReLU behind a convolution do not.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
IR_VERSION = 10

# Bytes of an index of a sparse initializer, which ONNX wants in 64 bits.
_INDEX_BYTES = 8


class UnsupportedError(ValueError):
  """A network that cannot be written as ONNX; the message says why."""


class Tensor(NamedTuple):
  """A tensor of the graph.

  Attributes:
    name: its name.
    order: axis of the array for each axis of the tensor in memory.
  """

  name: str
  order: tuple[int, ...]


Value = Any  # np.ndarray | Tensor


class Graph:
  """Nodes and initializers.

  Attributes:
    batch: name of a tensor int64[1] with the size of the batch.
    symbol: the symbolic size of the batch in shapes, None if it is fixed.
  """

  def __init__(self, symbol: Any = None) -> None:
    self.symbol = symbol
    self.batch = ""
    self.nodes: list[onnx.NodeProto] = []
    self.dense: list[TensorProto] = []
    self.sparse: list[onnx.SparseTensorProto] = []
    self._names: dict[tuple[Any, ...], str] = {}
    self._alive: list[np.ndarray] = []  # Keeps the ids of `_names` unique.
    self._count = 0

  def node(
    self, kind: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any
  ) -> list[str]:
    """Adds a node; returns the names of its outputs."""
    names = [self._new("t") for _ in range(outputs)]
    self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
    return names

  def integers(self, values: Sequence[int]) -> str:
    """Returns the name of a constant int64 vector."""
    key = ("integers", *map(int, values))
    if key not in self._names:
      self._names[key] = self._add(np.asarray(key[1:], np.int64))
    return self._names[key]

  def constant(self, array: np.ndarray) -> str:
    """Returns the name of a constant; the same array is stored once."""
    if not array.ndim:
      key: tuple[Any, ...] = (array.dtype.str, array.tobytes())
    else:
      key = (id(array),)
      self._alive.append(array)
    if key not in self._names:
      self._names[key] = self._add(np.ascontiguousarray(array))
    return self._names[key]

  def straight(self, value: Value, shape: Sequence[Any]) -> str:
    """Returns the name of a value, not transposed and not to be broadcast."""
    if isinstance(value, np.ndarray):
      name = self.constant(value)
      whole = tuple(value.shape) == tuple(shape)
      return name if whole else self.expand(name, shape)
    return self.ordered(value, tuple(range(len(value.order))))

  def ordered(self, value: Value, order: tuple[int, ...]) -> str:
    """Returns the name of a value whose axes lie in an order."""
    if isinstance(value, np.ndarray):
      return self.constant(transposed(value, order))
    if value.order == order:
      return value.name
    steps = [value.order.index(axis) for axis in order]
    return self.node("Transpose", [value.name], perm=steps)[0]

  def expand(self, name: str, shape: Sequence[Any]) -> str:
    """Broadcasts a tensor to a shape."""
    return self.node("Expand", [name, self.shape(shape)])[0]

  def shape(self, shape: Sequence[Any]) -> str:
    """Returns the name of an int64 vector with a shape.

    Raises:
      UnsupportedError: if a size is computed from that of the batch.
    """
    if all(isinstance(n, int) for n in shape):
      return self.integers(shape)
    parts = []
    for n in shape:
      if not isinstance(n, int) and n != self.symbol:
        raise UnsupportedError(f"a shape has the size {n}")
      parts.append(self.integers([n]) if isinstance(n, int) else self.batch)
    return self.node("Concat", parts, axis=0)[0]

  def _new(self, prefix: str) -> str:
    self._count += 1
    return f"{prefix}{self._count}"

  def _add(self, array: np.ndarray) -> str:
    """Stores a constant, as values and indices where that is smaller."""
    name = self._new("c")
    active = np.flatnonzero(array)
    size = array.itemsize + _INDEX_BYTES
    if array.dtype == np.float32 and active.size * size < array.nbytes:
      values = numpy_helper.from_array(array.reshape(-1)[active], name)
      indices = numpy_helper.from_array(active.astype(np.int64))
      self.sparse.append(
        helper.make_sparse_tensor(values, indices, list(array.shape))
      )
    else:
      self.dense.append(numpy_helper.from_array(array, name))
    return name


def tensor(name: str, rank: int) -> Tensor:
  """Returns a tensor that is not transposed."""
  return Tensor(name, tuple(range(rank)))


def transposed(array: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
  """Returns an array with its axes in an order; the same object if they are."""
  if not array.ndim or order == tuple(range(len(order))):
    return array
  return np.ascontiguousarray(array.transpose(order))


def thin(array: np.ndarray) -> np.ndarray:
  """Returns an array without the copies that a broadcast made."""
  index = tuple(
    slice(0, 1) if stride == 0 and n > 1 else slice(None)
    for stride, n in zip(array.strides, array.shape, strict=True)
  )
  return array[index] if array.ndim else array


def element_type(dtype: Any) -> int:
  """Returns the ONNX type of a dtype.

  Raises:
    UnsupportedError: if onnxruntime cannot compute with it on CPUs.
  """
  name = np.dtype(dtype).name
  if name in ("bfloat16", "float16"):
    raise UnsupportedError(
      f"it computes in {name}, which onnxruntime cannot on CPUs; build the"
      " model with dtype=float32"
    )
  return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
