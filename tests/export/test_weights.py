"""Files of sparse weights: the same bits come back, bad files are refused."""

import collections
import json
import struct

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

import sparsejax
from sparsejax.export import weight_records, weights
from sparsejax.export.weights import load, save

DTYPES = tuple(weight_records.DTYPES)
Pair = collections.namedtuple("Pair", "first second")


def assert_same(tree, other):
  """Compares structure, dtypes, shapes and bits."""
  assert jax.tree.structure(tree) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def array(rng, dtype, shape, sparsity):
  """Returns random bits, some of them NaN or -0, and zeros."""
  size = int(np.prod(shape)) * np.dtype(dtype).itemsize
  bits = np.frombuffer(rng.bytes(size), np.uint8)
  if np.dtype(dtype).kind == "b":
    bits = bits % 2
  found = bits.view(dtype).reshape(shape).copy()
  zeros = rng.random(shape) < sparsity
  found[zeros] = np.zeros((), dtype)
  if np.issubdtype(dtype, np.floating) and found.size:
    found.reshape(-1)[0] = -0.0
  return found


def random_tree(seed):
  """Returns a tree of dicts, lists and tuples with arrays of all kinds."""
  rng = np.random.default_rng(seed)
  shapes = [(), (0,), (3,), (5, 7), (2, 3, 4), (1, 1), (9, 8)]

  def leaf():
    dtype = weight_records.DTYPES[DTYPES[rng.integers(len(DTYPES))]]
    shape = shapes[rng.integers(len(shapes))]
    return array(rng, dtype, shape, rng.choice([0.0, 0.5, 0.95, 1.0]))

  def node(depth):
    kind = rng.integers(5) if depth else 4
    if kind == 4:
      return leaf()
    children = [node(depth - 1) for _ in range(rng.integers(1, 4))]
    if kind == 0:
      return {f"k{i}" * (i + 1): x for i, x in enumerate(children)}
    if kind in (1, 2):
      return children if kind == 1 else tuple(children)
    return None

  return {"a": node(2), "b": [node(2), leaf()]}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_any_tree_comes_back_bit_for_bit(tmp_path_factory, seed, compress):
  tree = random_tree(seed)
  path = tmp_path_factory.mktemp("weights") / "w.safetensors"
  save(path, tree, compress=compress)
  assert_same(load(path).params, tree)


@pytest.mark.parametrize("compress", [False, True])
def test_masks_come_back_with_active_zeros(tmp_path, compress):
  params = {"kernel": jnp.ones((6, 4)), "bias": jnp.zeros(4)}
  tx = sparsejax.sparsify(
    optax.sgd(0.1), sparsejax.static(0.5), key=jax.random.key(0)
  )
  state = tx.init(params)
  params = sparsejax.apply_masks(params, state)
  masks = sparsejax.get_masks(state)
  row, column = np.argwhere(np.asarray(masks["kernel"]))[0]
  # A weight that has just been regrown is active and 0.
  params["kernel"] = params["kernel"].at[row, column].set(0.0)
  save(tmp_path / "w", params, masks, compress=compress)
  found = load(tmp_path / "w")
  assert_same(found.params, params)
  assert_same(found.masks, masks)


def test_sizes_are_those_of_values_and_bits(tmp_path):
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(512, 1024)).astype(np.float32)
  for sparsity, ratio in ((0.9, 7.5), (0.95, 12), (0.98, 19)):
    order = rng.permutation(kernel.size)[: int(sparsity * kernel.size)]
    sparse = kernel.copy().reshape(-1)
    sparse[order] = 0
    params = {"kernel": sparse.reshape(kernel.shape)}
    plain = weights.write(tmp_path / "a", params)
    packed = weights.write(tmp_path / "b", params, compress=True)
    small = weights.write(tmp_path / "c", params, dtype="bfloat16")
    assert plain.sparse_bytes < kernel.nbytes / ratio
    assert packed.sparse_bytes < plain.sparse_bytes
    assert small.sparse_bytes < 0.85 * plain.sparse_bytes
    assert plain.dense_bytes >= kernel.nbytes


def test_bfloat16_rounds_floating_leaves_alone(tmp_path):
  params = {"w": np.float32([[1.001, 0], [0, -2]]), "n": np.arange(3)}
  save(tmp_path / "w", params, dtype="bfloat16")
  found = load(tmp_path / "w").params
  assert_same(found["w"], params["w"].astype(ml_dtypes.bfloat16))
  assert_same(found["n"], params["n"])


def test_other_programs_read_both_files(tmp_path):
  library = pytest.importorskip("safetensors.numpy")
  params = {"a": {"kernel": np.float32([[0, 3, 0, 0], [0, 0, 0, -1]])}}
  written = weights.write(tmp_path, params)
  dense = library.load_file(written.dense)
  np.testing.assert_array_equal(dense["a.kernel"], params["a"]["kernel"])
  sparse = library.load_file(written.sparse)
  np.testing.assert_array_equal(sparse["a.kernel.values"], [3, -1])
  bits = np.unpackbits(sparse["a.kernel.bitmask"], bitorder="little")
  np.testing.assert_array_equal(np.flatnonzero(bits), [1, 7])


def test_other_nodes_need_a_tree_like_them(tmp_path):
  tree = Pair({"kernel": jnp.eye(40)}, jnp.ones(2))
  save(tmp_path / "w", tree)
  with pytest.raises(ValueError, match="`like` must be given"):
    load(tmp_path / "w")
  assert_same(load(tmp_path / "w", like=tree).params, tree)
  with pytest.raises(ValueError, match="`like` has other leaves"):
    load(tmp_path / "w", like={"kernel": 0})


@pytest.mark.parametrize(
  ("params", "masks", "options", "message"),
  [
    ({"w": 1.0}, None, {}, "must have arrays as leaves"),
    ({"w": np.ones(2, np.complex64)}, None, {}, "cannot hold"),
    ({"w": np.ones((2, 2))}, {"w": np.eye(2) > 0}, {}, "apply_masks"),
    ({"w": np.ones((2, 2))}, {"w": np.ones(4, bool)}, {}, "has shape"),
    ({"w": np.ones(2)}, None, {"dtype": "float16"}, "`dtype` must be"),
    ({"a/b": np.ones(2), "a": {"b": np.ones(2)}}, None, {}, "two leaves"),
  ],
)
def test_what_cannot_be_saved_is_refused(
  tmp_path, params, masks, options, message
):
  with pytest.raises(ValueError, match=message):
    save(tmp_path / "w", params, masks, **options)
  assert not list(tmp_path.iterdir())


def saved(path, compress):
  rng = np.random.default_rng(1)
  kernel = rng.normal(size=(16, 9)).astype(np.float32)
  kernel[rng.random(kernel.shape) < 0.8] = 0
  tree = {"layer": {"kernel": kernel, "bias": np.arange(3.0)}, "step": (None,)}
  save(path, tree, compress=compress)
  return tree


@pytest.mark.parametrize("compress", [False, True])
def test_no_changed_byte_goes_unnoticed(tmp_path, compress):
  tree = saved(tmp_path / "w", compress)
  data = (tmp_path / "w").read_bytes()
  for place in range(len(data)):
    changed = bytearray(data)
    changed[place] ^= 1 << (place % 8)
    (tmp_path / "w").write_bytes(changed)
    try:
      found = load(tmp_path / "w").params
    except weight_records.WeightsError as error:
      assert str(error).startswith(str(tmp_path / "w"))
    else:  # Only what no reader looks at, such as spaces in the header.
      assert_same(found, tree)


@pytest.mark.parametrize("compress", [False, True])
def test_truncated_and_longer_files_are_refused(tmp_path, compress):
  saved(tmp_path / "w", compress)
  data = (tmp_path / "w").read_bytes()
  for end in (0, 1, 7, 8, 9, len(data) // 2, len(data) - 1):
    (tmp_path / "w").write_bytes(data[:end])
    with pytest.raises(weight_records.WeightsError, match="cannot be loaded"):
      load(tmp_path / "w")
  (tmp_path / "w").write_bytes(data + b"\0")
  with pytest.raises(weight_records.WeightsError, match="cannot be loaded"):
    load(tmp_path / "w")
  with pytest.raises(weight_records.WeightsError, match="No such file"):
    load(tmp_path / "missing")


def forged(path, change, compress=False):
  """Saves a file, and writes it again with another record, sealed as usual."""
  saved(path, compress)
  data = path.read_bytes()
  length = int.from_bytes(data[:8], "little")
  header = json.loads(data[8 : 8 + length])
  record = json.loads(header["__metadata__"][weight_records.KEY])
  change(record, header)
  text = json.dumps(record).replace('"deep"', "[" * 3000 + "]" * 3000)
  header["__metadata__"][weight_records.KEY] = text
  header["__metadata__"]["sparsejax.crc32"] = str(
    weight_records.checksum(np.frombuffer(text.encode(), np.uint8))
  )
  encoded = json.dumps(header).encode()
  body = data[8 + length :]
  path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)


def _set(*path):
  *keys, value = path

  def change(record, header):
    del header  # It stays.
    node = record
    for key in keys[:-1]:
      node = node[key]
    node[keys[-1]] = value

  return change


# Leaf 0 is the bias, leaf 1 the kernel.
FORGERIES = {
  "shape": _set("leaves", 1, "shape", [16, 8]),
  "huge shape": _set("leaves", 1, "shape", [2**40, 2**20]),
  "endless shape": _set("leaves", 1, "shape", [10**400]),
  "negative shape": _set("leaves", 1, "shape", [-1, 9]),
  "many dimensions": _set("leaves", 1, "shape", [1] * 99),
  "count": _set("leaves", 1, "active", 3),
  "negative count": _set("leaves", 1, "active", -3),
  "dtype": _set("leaves", 1, "dtype", "float64"),
  "object dtype": _set("leaves", 1, "dtype", "object"),
  "name": _set("leaves", 1, "name", "../other"),
  "no checksum": _set("leaves", 1, "checksums", []),
  "format": _set("format", 2),
  "no leaves": _set("leaves", None),
  "compressed": _set("compressed", True),
  "leaf twice": _set("tree", {"list": [0, 0]}),
  "unknown leaf": _set("tree", {"list": [0, 7]}),
  "unknown node": _set("tree", {"call": "os.system"}),
  "deep tree": _set("tree", "deep"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_records_are_refused(tmp_path, forgery):
  forged(tmp_path / "w", FORGERIES[forgery])
  with pytest.raises(weight_records.WeightsError, match="cannot be loaded"):
    load(tmp_path / "w")


def test_what_needs_too_much_memory_is_refused_before(tmp_path):
  """All sizes fit each other, but the arrays would take 2^40 bytes."""
  library = pytest.importorskip("zstandard")
  size = 2**38
  frame = np.frombuffer(library.ZstdCompressor().compress(b""), np.uint8)
  leaf = weight_records.LeafRecord(
    "w", "float32", (size,), 0, [weight_records.checksum(frame)] * 2
  )
  record = weight_records.Record({"dict": {"w": 0}}, [leaf], True)
  tensors = {"w.values.zst": frame, "w.bitmask.zst": frame}
  weights._write_file(tmp_path / "w", tensors, weight_records.seal(record))
  with pytest.raises(weight_records.WeightsError, match="`max_bytes`"):
    load(tmp_path / "w")
  with pytest.raises(weight_records.WeightsError, match="compressed from"):
    load(tmp_path / "w", max_bytes=2**42)


def test_a_frame_that_claims_another_size_is_refused(tmp_path):
  library = pytest.importorskip("zstandard")
  bomb = library.ZstdCompressor().compress(bytes(2**26))
  frame = np.frombuffer(bomb, np.uint8)
  leaf = weight_records.LeafRecord(
    "w", "float32", (4,), None, [weight_records.checksum(frame)]
  )
  record = weight_records.Record({"dict": {"w": 0}}, [leaf], True)
  weights._write_file(
    tmp_path / "w", {"w.zst": frame}, weight_records.seal(record)
  )
  with pytest.raises(weight_records.WeightsError, match="should be from 16"):
    load(tmp_path / "w")


def test_another_safetensors_file_is_refused(tmp_path):
  weights.save_dense(tmp_path / "w", {"kernel": jnp.ones((2, 2))})
  with pytest.raises(weight_records.WeightsError, match="no file of"):
    load(tmp_path / "w")


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
  tree = saved(tmp_path / "w", False)

  def fail(*args, **options):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(weight_records.safetensors("numpy"), "save_file", fail)
  with pytest.raises(OSError, match="No space left"):
    save(tmp_path / "w", {"kernel": np.ones(3)})
  assert [path.name for path in tmp_path.iterdir()] == ["w"]
  assert_same(load(tmp_path / "w").params, tree)
