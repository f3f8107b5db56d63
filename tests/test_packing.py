"""Packings hold every weight once, in order, and draw the same bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import draws, packing, trees

TREES = {
  "small": {"a": (3, 3, 2, 5), "b": (7,), "c": (13, 7), "d": (13, 7)},
  "rows of several": {"a": (900, 40), "b": (5, 5)},
  "one": {"a": (16, 8)},
}


def layout_of(name, axis=None):
  params = {k: jnp.zeros(shape) for k, shape in TREES[name].items()}
  overrides = {} if axis is None else {"a": trees.Override(axis=axis)}
  chosen = [leaf.ndim > 1 for leaf in params.values()]
  return trees.layout(params, chosen, overrides)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("pack", [packing.blocks, packing.stacks])
@pytest.mark.parametrize("name", TREES)
def test_every_weight_once_and_in_its_layer(name, pack, axis):
  layout = layout_of(name, axis)
  packed = pack(layout)
  rng = np.random.default_rng(0)
  leaves = [rng.normal(size=x.shape).astype("f") for x in layout.leaves]
  arrays = packed.pack(leaves)
  for a, b in zip(packed.unpack(arrays), leaves, strict=True):
    np.testing.assert_array_equal(a, b)
  inside = [
    np.ones(x.shape, bool) if i is None else np.asarray(i)
    for x, i in zip(arrays, packed.inside(), strict=True)
  ]
  assert sum(i.sum() for i in inside) == sum(layout.sizes)
  found = {}
  start = 0
  for x, i, axis_ in zip(arrays, inside, packed.axes, strict=True):
    x, i = (
      np.asarray(y)[None] if axis_ is None else np.moveaxis(y, axis_, 0)
      for y in (x, i)
    )
    for row, on in zip(x, i, strict=True):
      layer, offset = packed.layers[start], packed.offsets[start]
      assert offset == len(found.setdefault(layer, []))
      found[layer] += row[on].tolist()
      start += 1
  for number, leaf in enumerate(layout.leaves):
    slices = [leaves[number]]
    if leaf.axis is not None:
      slices = np.moveaxis(leaves[number], leaf.axis, 0)
    for layer, values in zip(layout.layers_of(number), slices, strict=True):
      np.testing.assert_allclose(found[layer], np.ravel(values), rtol=1e-6)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("name", TREES)
def test_bits_are_those_of_each_leaf(name, impl, axis):
  layout = layout_of(name, axis)
  key = jax.random.key(7, impl=impl)
  for pack in (packing.blocks, packing.stacks):
    packed = pack(layout)
    got = packed.unpack(draws.bits(layout, packed, key, 5, draws.REGROW))
    for leaf, bits in zip(layout.leaves, got, strict=True):
      folded = jax.random.fold_in(jax.random.fold_in(key, 5), leaf.index)
      folded = jax.random.fold_in(folded, 2)
      want = jax.random.bits(folded, leaf.shape, jnp.uint32)
      np.testing.assert_array_equal(bits, want)
