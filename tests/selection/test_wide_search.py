"""Selection where counts have two limbs, against the one with int32."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from sparsejax.components import wide_counts
from sparsejax.components.wide_counts import Limbs
from sparsejax.selection import counting, positions, search
from sparsejax.selection.groups import Groups

SHAPES = ((3, 4, 5), (2, 6), (40,), (4, 3))
SIZES = [int(np.prod(shape)) for shape in SHAPES]
# Groups of leaves; slices of the first leaf that are layers; one for all.
GROUPS = {
  "one": Groups((None,) * 4, (0, 0, 0, 0), (0, 60, 72, 112)),
  "in another order": Groups(
    (None,) * 4, (1, 0, 1, 0), (40, 12, 0, 0), min_count=3
  ),
  "slices": Groups(
    (1, None, None, None), (0, 1, 1, 0, 1, 2, 0), (0, 0, 15, 15, 30, 0, 30)
  ),
}
SCORES = st.sampled_from([0.0, -0.0, 1.0, -1.0, np.nan, np.inf, 0.5])


@functools.cache
def compiled(name, limbs):
  groups = dataclasses.replace(GROUPS[name], limbs=limbs)

  def run(scores, counts, valid, bits):
    chosen = search.select(
      scores, counts, groups, valid=valid, shuffle=lambda: bits
    )
    return chosen, counting.count_active(chosen, groups)

  return jax.jit(run)


@pytest.mark.parametrize(
  ("name", "limbs"),
  [
    pytest.param("one", Limbs(6, 25), marks=pytest.mark.slow),
    pytest.param("in another order", Limbs(6, 25), marks=pytest.mark.slow),
    pytest.param("in another order", Limbs(2, 3), marks=pytest.mark.slow),
    pytest.param("slices", Limbs(6, 25), marks=pytest.mark.slow),
    ("slices", Limbs(2, 3)),
  ],
)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_two_limbs_select_what_an_int32_does(name, limbs, data):
  scores = [
    data.draw(hnp.arrays(np.float32, s, elements=SCORES)) for s in SHAPES
  ]
  valid = [data.draw(hnp.arrays(bool, s)) for s in SHAPES]
  bits = [
    data.draw(hnp.arrays(np.uint32, s, elements=st.integers(0, 3)))
    for s in SHAPES
  ]
  numbers = [
    data.draw(st.integers(0, sum(SIZES))) for _ in range(GROUPS[name].count)
  ]
  want = compiled(name, None)(scores, np.array(numbers), valid, bits)
  wide = wide_counts.on_device(numbers, limbs)
  got = compiled(name, limbs)(scores, wide, valid, bits)
  for a, b in zip(want[0], got[0], strict=True):
    np.testing.assert_array_equal(a, b)
  np.testing.assert_array_equal(np.asarray(got[1]), np.asarray(want[1]))


def test_places_have_a_word_for_chunks_and_one_for_what_is_inside():
  groups = Groups((None,), (0,), (0,), limbs=Limbs())
  shape = (80, 8192, 28672)
  chunk, index = jax.eval_shape(
    lambda: [
      [x.make(*x.inputs) for x in words]
      for words in positions.words_of([shape], groups)
    ]
  )
  assert chunk[0].shape == index[0].shape == shape
  assert positions._axes_of_chunks(shape, [0, 1, 2], 2**31 - 1) == [0]
  assert positions._axes_of_chunks(shape, [0, 1, 2], 2**28) == [0]
  assert positions._axes_of_chunks(shape, [0, 1, 2], 2**27) == [0, 1]
  assert positions._axes_of_chunks(shape, [0, 1, 2], 2**36) == []
