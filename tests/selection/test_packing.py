"""Packings contain every weight once, in order, with the same random bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiers
from helpers.sorting import select_by_sorting

from sparsejax.components import leaves as leaves_lib
from sparsejax.selection import packing, random_bits, search
from sparsejax.selection.lazy import lazy, materialize

TREES = {
  "small": {"a": (3, 3, 2, 5), "b": (7,), "c": (13, 7), "d": (13, 7)},
  "rows of several": {"a": (900, 40), "b": (5, 5)},
  "one": {"a": (16, 8)},
  "large": {"a": (64, 40), "b": (9, 4), "c": (16, 80)},
}


@pytest.fixture(autouse=True)
def small_leaves_count_as_large(monkeypatch):
  monkeypatch.setattr(packing, "_LARGE", 2**10)


def layout_of(name, axis=None):
  params = {k: jnp.zeros(shape) for k, shape in TREES[name].items()}
  overrides = {} if axis is None else {"a": leaves_lib.Override(axis=axis)}
  chosen = [leaf.ndim > 1 for leaf in params.values()]
  return leaves_lib.layout(params, chosen, overrides)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("pack", [packing.blocks, packing.rows, packing.leaves])
@pytest.mark.parametrize("name", tiers.every(2, list(TREES)))
def test_every_weight_once_and_in_its_layer(name, pack, axis):
  layout = layout_of(name, axis)
  packed = pack(layout)
  rng = np.random.default_rng(0)
  leaves = [
    jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in layout.leaves
  ]
  arrays = packed.pack(leaves)
  for starts in (None, list(map(jnp.asarray, packed.starts))):
    for a, b in zip(packed.unpack(arrays, starts), leaves, strict=True):
      np.testing.assert_array_equal(a, b)
  inside = [
    np.ones(x.shape, bool) if i is None else np.asarray(i)
    for x, i in zip(arrays, packed.is_weight(), strict=True)
  ]
  assert sum(i.sum() for i in inside) == sum(layout.sizes)
  found = {}
  start = 0
  for x, i, axis_ in zip(arrays, inside, packed.axes, strict=True):
    x, i = (
      np.asarray(y)[None] if axis_ is None else np.moveaxis(y, axis_, 0)
      for y in (x, i)
    )
    for row, is_weight in zip(x, i, strict=True):
      layer, offset = packed.layers[start], packed.offsets[start]
      assert offset == len(found.setdefault(layer, []))
      found[layer] += row[is_weight].tolist()
      start += 1
  for number, leaf in enumerate(layout.leaves):
    slices = [leaves[number]]
    if leaf.axis is not None:
      slices = np.moveaxis(leaves[number], leaf.axis, 0)
    for layer, values in zip(layout.layers_of(number), slices, strict=True):
      np.testing.assert_allclose(found[layer], np.ravel(values), rtol=1e-6)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("name", tiers.every(2, list(TREES)))
def test_bits_are_those_of_each_leaf(name, impl, axis):
  layout = layout_of(name, axis)
  key = jax.random.key(7, impl=impl)
  for pack in (packing.blocks, packing.rows, packing.leaves):
    packed = pack(layout)
    packed_bits = random_bits.bits(layout, packed, key, 5, random_bits.REGROW)
    got = packed.unpack(packed_bits)
    for leaf, bits in zip(layout.leaves, got, strict=True):
      folded = jax.random.fold_in(jax.random.fold_in(key, 5), leaf.index)
      folded = jax.random.fold_in(folded, 2)
      want = jax.random.bits(folded, leaf.shape, jnp.uint32)
      np.testing.assert_array_equal(bits, want)


def test_selections_agree_in_any_packing():
  """Many ties, most of them at 0, so that every way to break them is used."""
  layout = layout_of("large")
  rng = np.random.default_rng(0)
  key = jax.random.key(1)

  def selected(pack, groups, method):
    packed = pack(layout)

    def select(leaves, counts):
      return packed.unpack(
        method(
          [lazy(jnp.abs, x) for x in packed.pack(leaves)],
          counts[: max(groups) + 1],
          packed.groups(groups),
          valid=packed.is_weight(),
          shuffle=lambda: random_bits.bits(
            layout, packed, key, 0, random_bits.REGROW
          ),
        )
      )

    return jax.jit(select)

  for groups in ((0, 1, 2), (0, 1, 0)):
    want = selected(packing.leaves, groups, select_by_sorting)
    for pack in (packing.blocks, packing.rows, packing.leaves):
      got = selected(pack, groups, search.select)
      for levels, counts in ((2, [2000, 3, 0]), (99, [700, 36, 9])):
        leaves = [
          rng.integers(0, levels, x.shape) * (rng.random(x.shape) < 0.5)
          for x in layout.leaves
        ]
        leaves = [jnp.asarray(x, jnp.float32) for x in leaves]
        counts = jnp.asarray(counts, jnp.int32)
        for a, b in zip(got(leaves, counts), want(leaves, counts), strict=True):
          np.testing.assert_array_equal(a, b)


def test_a_lazy_array_contains_only_what_it_reads():
  score = lazy(
    lambda x: jnp.abs(x["a"]), {"a": 1.0 - jnp.ones(3), "b": jnp.ones(3)}
  )
  assert len(score.inputs) == 1
  assert materialize(score).tolist() == [0, 0, 0]
