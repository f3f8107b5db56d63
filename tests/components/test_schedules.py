"""Laws of the schedules, against Python's own arithmetic."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from oracles import pruning, ranking

from sparsejax.components import counts as counting, schedules

times = st.tuples(
  st.integers(0, 60), st.integers(1, 60), st.integers(1, 25)
).map(
  lambda t: {
    "begin_step": t[0],
    "end_step": t[0] + t[1],
    "every_steps": t[2],
  }
)
ramps = [
  schedules.ramp,
  functools.partial(schedules.ramp, curve=schedules.sigmoid_curve(0.5)),
]


def at_steps(function, count):
  return np.asarray(jax.vmap(function)(jnp.arange(count, dtype=jnp.int32)))


def gradual(initial, final, times):
  return pruning.Gradual(
    initial,
    final,
    begin_step=times["begin_step"],
    end_step=times["end_step"],
    every=times["every_steps"],
  )


@pytest.mark.parametrize("ramp", ramps)
@given(
  times=times,
  ends=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).map(sorted),
)
@settings(max_examples=60, deadline=None)
def test_ramps_rise_from_the_initial_to_the_final_sparsity(ramp, times, ends):
  initial, final = ends
  sparsities = ramp(initial, final, **times).sparsities
  assert sparsities[0] == initial
  assert sparsities[-1] == final
  assert all(a <= b for a, b in itertools.pairwise(sparsities))
  assert len(sparsities) == max(gradual(*ends, times).n, 1) + 1


@given(times=times)
@settings(max_examples=40, deadline=None)
def test_ramps_change_at_the_updates_of_the_oracle(times):
  ramp = schedules.ramp(0.3, 0.9, **times)
  expected = gradual(0.3, 0.9, times)
  steps = 150
  in_force = [ramp.sparsities[i] for i in at_steps(ramp.index, steps)]
  latest = at_steps(ramp.when, steps)
  requested, due = 0.3, -1
  for t in range(steps):
    if expected.prunes_at(t):
      requested, due = expected.sparsity(t), t
    assert in_force[t] == pytest.approx(requested, abs=1e-12)
    assert latest[t] == due


@given(
  every=st.integers(1, 20),
  begin=st.integers(0, 40),
  until=st.integers(0, 120),
  at_zero=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_returns_the_latest_multiple(every, begin, until, at_zero):
  if at_zero:
    begin = 0
  when = schedules.Every(every, until, begin, at_zero)
  latest = at_steps(when, 130)
  due = -1
  for t in range(130):
    if t % every == 0 and (begin < t <= until or (at_zero and t == 0)):
      due = t
    assert latest[t] == due


def test_one_interval_is_one_update():
  jump = schedules.ramp(0.0, 0.7, end_step=9, every_steps=9)
  assert jump.sparsities == (0.0, 0.7)
  assert at_steps(jump.index, 12).tolist() == [0] * 9 + [1] * 3
  assert at_steps(jump.when, 12).tolist() == [-1] * 9 + [9] * 3


def test_a_constant_sparsity_is_selected_again_at_an_interval():
  constant = schedules.constant_sparsity(0.7, every_steps=4)
  assert constant.sparsities == (0.7,)
  assert set(at_steps(constant.index, 50)) == {0}
  assert at_steps(constant.when, 9).tolist() == [-1] * 4 + [4] * 4 + [8]


def fraction_at(fraction, t):
  with jax.enable_x64(True):
    return float(fraction(jnp.float64(t)))


FRACTIONS = {
  "constant": (schedules.constant(0.3), lambda t, T: 0.3),
  "cosine": (
    schedules.cosine(0.5, 1000, 0.005),
    lambda t, T: 0.005 + 0.495 * (1 + math.cos(math.pi * t / T)) / 2,
  ),
}


@pytest.mark.parametrize("name", FRACTIONS)
def test_fractions_are_computed_in_float64(name):
  fraction, expected = FRACTIONS[name]
  for t in [0, 1, 333, 500, 999, 1000]:
    assert fraction_at(fraction, t) == pytest.approx(
      expected(t, 1000), rel=1e-14, abs=1e-15
    )


@pytest.mark.parametrize("name", FRACTIONS)
def test_fractions_stay_at_their_end_value(name):
  fraction, expected = FRACTIONS[name]
  assert fraction_at(fraction, 5000) == pytest.approx(
    expected(1000, 1000), abs=1e-15
  )


@pytest.mark.parametrize("rounding", ["ceil", "floor"])
def test_shares_of_counts_are_exact_up_to_31_bits(rounding):
  rng = np.random.default_rng(0)
  counts = np.concatenate([
      np.arange(200), rng.integers(0, 2**31, 300), [2**24 + 1, 2**31 - 1]
  ])  # fmt: skip
  round_on_device = getattr(counting, rounding)
  round_on_host = getattr(ranking, f"{rounding}_tol")
  fraction = schedules.cosine(0.5, 200, 0.005)
  compiled = jax.jit(
    lambda c, t: counting.share(c, fraction, t, round_on_device)
  )
  for t in [0, 7, 100, 150, 200]:
    share = 0.005 + 0.495 * (1 + math.cos(math.pi * t / 200)) / 2
    found = compiled(jnp.asarray(counts, jnp.int32), jnp.int32(t))
    assert found.dtype == jnp.int32
    assert found.tolist() == [round_on_host(share * int(c)) for c in counts]


@pytest.mark.parametrize(
  "fraction, count", [(0.3, 10), (0.1, 1000), (0.7, 10), (0.55, 100)]
)
def test_a_product_that_is_whole_is_not_rounded_away(fraction, count):
  for rounding in [counting.ceil, counting.floor]:
    share = counting.share(
      jnp.array([count], jnp.int32),
      schedules.constant(fraction),
      jnp.int32(0),
      rounding,
    )
    assert share.tolist() == [round(fraction * count)]


@pytest.mark.parametrize("ramp", ramps)
def test_ramps_refuse_impossible_arguments(ramp):
  with pytest.raises(ValueError, match="initial_sparsity"):
    ramp(0.9, 0.5, end_step=100, every_steps=10)
  with pytest.raises(ValueError, match="begin_step"):
    ramp(0.0, 0.5, begin_step=100, end_step=100, every_steps=10)


def test_a_schedule_of_too_many_updates_is_refused():
  with pytest.raises(ValueError, match="makes 2147483647 updates"):
    schedules.ramp(0.0, 0.9, end_step=2**31 - 1, every_steps=1)


def test_schedules_of_endless_length_are_refused_at_once():
  with pytest.raises(
    ValueError, match="`every_steps` of 100 makes 9999999 upd"
  ):
    schedules.ramp(0.0, 0.9, end_step=999_999_999, every_steps=100)
