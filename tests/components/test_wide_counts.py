"""Counts in two limbs against Python's integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from sparsejax.components import counts, wide_counts
from sparsejax.components.wide_counts import Limbs

# Short limbs carry at almost every step.
BITS = [1, 6, 30]
NUMBERS = st.integers(0, 2**40)


def numbers_up_to(bits):
  return st.lists(st.integers(0, 2 ** (bits + 20)), min_size=4, max_size=4)


def wide(numbers, bits):
  return wide_counts.on_device(np.array(numbers, np.int64), Limbs(bits))


@pytest.mark.parametrize("bits", BITS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_arithmetic_is_that_of_whole_numbers(bits, data):
  x, y = (data.draw(numbers_up_to(bits)) for _ in range(2))
  few = data.draw(st.integers(0, 2**31 - 1))
  a, b = wide(x, bits), wide(y, bits)
  exact = np.array(x), np.array(y)
  assert np.asarray(a).tolist() == x
  assert (a.low >= 0).all() and (a.low < 2**bits).all()
  for found, want in (
    (a + b, exact[0] + exact[1]),
    (a - b, exact[0] - exact[1]),
    (few - a, few - exact[0]),
    (a + jnp.int32(few), exact[0] + few),
    (wide_counts.minimum(a, b), np.minimum(*exact)),
    (wide_counts.maximum(a, few), np.maximum(exact[0], few)),
    (wide_counts.clip(a - b, 0, b), np.clip(exact[0] - exact[1], 0, exact[1])),
    (wide_counts.lowest(a[:, None]), min(x)),
    (wide_counts.highest(wide_counts.stack([a, b])), np.maximum(*exact)),
    (wide_counts.total(a, Limbs(bits)), sum(x)),
  ):
    assert (np.asarray(found) == want).all()
    assert ((found.low >= 0) & (found.low < 2**bits)).all()
  assert (np.asarray(a < b) == (exact[0] < exact[1])).all()
  assert (np.asarray(a <= b) == (exact[0] <= exact[1])).all()
  equal = np.asarray(wide_counts.equal(a, b))
  assert (equal == (exact[0] == exact[1])).all()
  assert (np.asarray(a >= few) == (exact[0] >= few)).all()
  assert wide_counts.equal(a, x).all()


@pytest.mark.parametrize("bits", [6, 30])
@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=200))
def test_sums_of_large_counts_are_exact(bits, numbers):
  limbs = Limbs(bits)
  if sum(numbers) >= 2 ** (bits + 31):
    numbers = numbers[: 2**bits]
  some = jnp.array(numbers, jnp.int32)
  assert int(wide_counts.total(some, limbs)) == sum(numbers)
  assert int(wide_counts.total(wide(numbers, bits), limbs)) == sum(numbers)


@pytest.mark.parametrize("kept", [(), (0,), (1,), (0, 2)])
@pytest.mark.parametrize("most", [1, 7, 23, 1000])
def test_ones_are_counted_in_parts_that_one_int32_holds(most, kept):
  flags = np.random.default_rng(0).random((4, 5, 6)) < 0.5
  limbs = Limbs(bits=3, most=most)
  apart = wide_counts.partial_axes(flags.shape, kept, most)
  left = [n for d, n in enumerate(flags.shape) if d not in (*kept, *apart)]
  assert np.prod(left, dtype=int) <= most and not set(apart) & set(kept)
  others = tuple(d for d in range(3) if d not in kept)
  found = wide_counts.ones(jnp.asarray(flags), kept, limbs)
  np.testing.assert_array_equal(np.asarray(found), flags.sum(others))
  plain = wide_counts.ones(jnp.asarray(flags), kept, None)
  np.testing.assert_array_equal(np.asarray(plain), flags.sum(others))


def test_a_stack_of_70b_is_counted_by_its_80_layers():
  shape = (80, 8192, 28672)
  assert wide_counts.partial_axes(shape, (), 2**31 - 1) == (0,)
  flags = jax.ShapeDtypeStruct(shape, bool)
  text = str(
    jax.make_jaxpr(lambda x: wide_counts.ones(x, (), Limbs()).high)(flags)
  )
  assert "i32[80]" in text


@pytest.mark.slow
def test_more_ones_than_an_int32_holds_are_counted():
  """They are computed where they are counted, and take no memory."""

  @jax.jit
  def count():
    row = jnp.arange(60_000_000) % 7 != 0
    flags = jnp.broadcast_to(row, (48, 60_000_000))
    return wide_counts.ones(flags, (), Limbs())

  assert int(count()) == 48 * (60_000_000 - 8_571_429) > 2**31


@settings(max_examples=60, deadline=None)
@given(NUMBERS, st.floats(0, 1))
def test_shares_are_exact_beyond_two_billion(number, fraction):
  found = counts.share(
    wide([number], 30),
    lambda step: fraction + 0 * step,
    jnp.int32(3),
    counts.floor,
  )
  assert int(found[0]) == int(np.floor(number * fraction + 1e-6))
  quotient = wide_counts.quotient(wide([number], 30), [1000])
  assert int(quotient[0]) == number // 1000


def test_between_limbs_and_int64_nothing_changes():
  numbers = [0, 1, 2**30 - 1, 2**30, 3 * 2**31 + 5]
  with jax.enable_x64(True):
    whole = wide_counts.as_int64(wide(numbers, 30))
    back = wide_counts.from_int64(whole, wide([0], 30))
  assert whole.tolist() == numbers == np.asarray(back).tolist()
  assert int(wide_counts.on_device(wide(7, 2), None)) == 7
