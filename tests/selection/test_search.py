"""Exact selection against a sort, on adversarial scores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiers
from helpers.sorting import select_by_sorting
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from sparsejax.components import counts as counting, ranking
from sparsejax.selection import search
from sparsejax.selection.groups import Groups, each_layer

ADVERSARIAL = st.sampled_from(
  [0.0, -0.0, 1.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 3e38]
  + [2.0**-126, -(2.0**-126), 0.5, 1.0000001]
)
SHAPES = ((5,), (2, 3, 2), (4, 4))


def canonical(x):
  """Returns the scores of ranks, in plain numpy."""
  x = np.where(np.isnan(x), -np.inf, x.astype(np.float64))
  return np.where(np.abs(x) < 2.0**-126, 0.0, x)


def by_sorting(scores, counts, groups, valid):
  """Keeps the best of each group of leaves with a stable sort."""
  chosen = [np.zeros(s.shape, bool) for s in scores]
  for group, count in enumerate(counts):
    entries = [
      (-canonical(scores[leaf].ravel()[i]), leaf, i)
      for leaf in range(len(scores))
      if groups[leaf] == group
      for i in range(scores[leaf].size)
      if valid[leaf].ravel()[i]
    ]
    for _, leaf, i in sorted(entries)[:count]:
      chosen[leaf].ravel()[i] = True
  return chosen


@functools.cache
def compiled(groups, by_sorting_):
  sizes = [int(np.prod(s)) for s in SHAPES]
  offsets = [
    sum(n for n, h in zip(sizes[:i], groups[:i], strict=True) if h == g)
    for i, g in enumerate(groups)
  ]
  competing = Groups((None,) * 3, groups, tuple(offsets))
  select = select_by_sorting if by_sorting_ else search.select
  return jax.jit(
    lambda scores, counts, valid: select(scores, counts, competing, valid=valid)
  )


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("groups", [(0, 0, 0), (0, 1, 2), (1, 0, 1)])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_keeps_exactly_the_best(reference, groups, data):
  scores = [
    data.draw(hnp.arrays(np.float32, s, elements=ADVERSARIAL)) for s in SHAPES
  ]
  valid = [data.draw(hnp.arrays(bool, s)) for s in SHAPES]
  counts = [data.draw(st.integers(0, 33)) for _ in range(max(groups) + 1)]
  got = compiled(groups, reference)(scores, jnp.array(counts), valid)
  want = by_sorting(scores, counts, groups, valid)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_array_equal(a, b)


def test_random_ranks_and_slices_as_layers():
  rng = np.random.default_rng(0)
  ranks = rng.integers(0, 2**32, size=(3, 40, 5), dtype=np.uint32)
  ranks[:, :20] &= 7  # many ties
  groups = each_layer([1], [15] * 40)
  counts = rng.integers(0, 16, size=40)
  (got,) = search.select([jnp.asarray(ranks)], counts, groups)
  for i in range(40):
    flat = ranks[:, i].ravel()
    best = np.argsort(-flat.astype(np.int64), kind="stable")[: counts[i]]
    want = np.zeros(15, bool)
    want[best] = True
    np.testing.assert_array_equal(np.asarray(got)[:, i].ravel(), want)


def test_large_leaf_with_ties_keeps_the_first():
  scores = np.repeat(np.arange(8, dtype=np.float32), 50_000).reshape(400, 1000)
  groups = each_layer([None], [400_000])
  got = search.select([jnp.asarray(scores)], jnp.array([75_001]), groups)[0]
  want = np.zeros(400_000, bool)
  want[350_000:] = True
  want[300_000:325_001] = True
  np.testing.assert_array_equal(np.asarray(got).ravel(), want)


def test_ranks_follow_the_canonical_order():
  x = np.array(
    [-np.inf, np.nan, -1, -1e-40, -0.0, 0.0, 1e-40, 2.0**-126, np.inf]
  )
  r = np.asarray(ranking.ranks(jnp.asarray(x, jnp.float32)))
  assert r[0] == r[1]
  assert len(set(r[3:7].tolist())) == 1
  assert r[1] < r[2] < r[3] < r[7] < r[8]
  assert ranking.ranks(jnp.asarray([1, 2], jnp.uint32)).tolist() == [1, 2]


@pytest.mark.parametrize("select", [search.select, select_by_sorting])
@pytest.mark.parametrize("count", tiers.every(3, range(8)))
def test_zeros_are_kept_in_the_shuffled_order(count, select):
  """Below positive and above negative scores, ties of the bits by index."""
  scores = jnp.array([-1.0, 0.0, -0.0, 1e-40, 0.0, 2.0**-126, 0.0])
  bits = jnp.array([9, 5, 2**32 - 1, 7, 7, 0, 0], jnp.uint32)
  order = [5, 2, 3, 4, 1, 6, 0]
  (got,) = select(
    [scores],
    jnp.array([count]),
    each_layer([None], [7]),
    shuffle=lambda: [bits],
  )
  assert set(np.flatnonzero(got)) == set(order[:count])


@pytest.mark.parametrize(
  ("size", "sparsity", "count"),
  [
    (20_024_000, 0.9, 2_002_400),  # int() of the product is one too few
    (100, 0.45, 55),
    (10, 0.9, 1),
    (5, 0.99, 1),  # at least one
    (7, 0.0, 7),
    (25_502_912, 0.9, 2_550_291),
  ],
)
def test_requested_count(size, sparsity, count):
  assert counting.requested_count(size, sparsity) == count


@given(
  st.lists(st.integers(1, 10**6), min_size=1, max_size=9),
  st.floats(0, 0.999),
)
def test_apportioned_counts_sum_to_the_requested_total(sizes, sparsity):
  requested = counting.requested_count(sizes, sparsity)
  counts = counting.apportion(sizes, [sparsity] * len(sizes), requested)
  assert counts.sum() == requested
  assert (counts >= 0).all() and (counts <= sizes).all()
  if requested > 1:
    exact = np.asarray(sizes) * (1 - sparsity)
    assert (np.abs(counts - exact) < 1.01).all()


@pytest.mark.parametrize("fraction", [0.3, 0.005, 0.1, 1 / 3])
def test_shares_are_exact_up_to_two_billion(fraction):
  rng = np.random.default_rng(0)
  counts = rng.integers(0, 2**31 - 1, size=2000).astype(np.int32)
  got = counting.share(
    jnp.asarray(counts),
    lambda step: fraction + 0 * step,
    jnp.int32(5),
    counting.ceil,
  )
  want = np.ceil(counts.astype(np.float64) * fraction - 1e-6)
  np.testing.assert_array_equal(np.asarray(got), want.astype(np.int64))
  assert got.dtype == jnp.int32
