"""Laws of the distributions, and the oracle's own solution of ERK."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from oracles import distributions as oracle

import sparsejax
from sparsejax.components import distributions, leaves as leaves_lib

kernels = st.one_of(
  st.tuples(st.integers(2, 300), st.integers(2, 300)),
  st.tuples(
    st.sampled_from([1, 3, 5, 7]),
    st.sampled_from([1, 3, 5, 7]),
    st.integers(1, 128),
    st.integers(2, 128),
  ),
)
networks = st.lists(kernels, min_size=1, max_size=12).map(
  lambda shapes: {f"layer{i}": shape for i, shape in enumerate(shapes)}
)
sparsities = st.floats(0.0, 0.999)


def total(shapes):
  return sum(math.prod(shape) for shape in shapes.values())


def zeros(shapes, layer_sparsities):
  return sum(math.prod(shapes[n]) * s for n, s in layer_sparsities.items())


@pytest.mark.parametrize("kernel_dims", [True, False])
@given(shapes=networks, sparsity=sparsities)
@settings(max_examples=150, deadline=None)
def test_erdos_renyi_equals_the_oracle(kernel_dims, shapes, sparsity):
  solve = distributions.erk if kernel_dims else distributions.er
  expected = oracle.erk_densities(
    list(shapes.values()), 1 - sparsity, kernel_dims=kernel_dims
  )
  found = solve(shapes, sparsity)
  assert list(found) == list(shapes)
  np.testing.assert_allclose(
    1 - np.array(list(found.values())), expected, rtol=1e-9, atol=1e-12
  )


@pytest.mark.parametrize("solve", [distributions.er, distributions.erk])
@given(shapes=networks, sparsity=sparsities, power=st.floats(0.0, 2.0))
@settings(max_examples=100, deadline=None)
def test_erdos_renyi_reaches_the_sparsity(solve, shapes, sparsity, power):
  found = solve(shapes, sparsity, power=power)
  assert all(0 <= s <= 1 for s in found.values())
  assert zeros(shapes, found) == pytest.approx(
    total(shapes) * sparsity, rel=1e-9, abs=1e-9 * total(shapes)
  )


@given(shapes=networks, sparsity=sparsities)
@settings(max_examples=100, deadline=None)
def test_erk_orders_layers_by_their_raw_density(shapes, sparsity):
  found = distributions.erk(shapes, sparsity)
  raw = {n: sum(shape) / math.prod(shape) for n, shape in shapes.items()}
  by_raw = sorted(shapes, key=raw.__getitem__, reverse=True)
  ordered = [found[name] for name in by_raw]
  assert all(a <= b + 1e-12 for a, b in itertools.pairwise(ordered))


@given(shapes=networks, sparsity=st.floats(0.0, 0.9))
@settings(max_examples=50, deadline=None)
def test_power_zero_is_uniform(shapes, sparsity):
  found = distributions.erk(shapes, sparsity, power=0.0)
  uniform = distributions.uniform(shapes, sparsity)
  assert set(uniform.values()) == {sparsity}
  assert found == pytest.approx(uniform, abs=1e-9)


def test_nothing_is_sparse_at_sparsity_zero():
  shapes = {"a": (3, 3, 2, 4), "b": (8, 10)}
  for solve in [distributions.erk, distributions.er, distributions.uniform]:
    assert solve(shapes, 0.0) == {"a": 0.0, "b": 0.0}


def test_erk_keeps_a_named_layer_dense_within_the_budget():
  shapes = {"stem": (3, 3, 3, 64), "body": (3, 3, 64, 64), "fc": (64, 10)}
  found = distributions.erk(shapes, 0.8, dense="stem")
  assert found["stem"] == 0
  assert zeros(shapes, found) == pytest.approx(0.8 * total(shapes))
  with pytest.raises(ValueError, match="dense"):
    distributions.erk(shapes, 0.8, dense="stam")


def test_a_dense_layer_above_the_budget_is_refused():
  shapes = {"large": (300, 300), "small": (10, 10)}
  with pytest.raises(ValueError, match="sparsity"):
    distributions.erk(shapes, 0.9, dense="large")


def test_other_layers_do_not_compensate_for_a_dense_stem():
  shapes = {"stem": (3, 3, 3, 64), "body": (3, 3, 64, 64), "fc": (64, 10)}
  found = distributions.uniform(shapes, 0.9, stem="stem")
  assert found == {"stem": 0.0, "body": 0.9, "fc": 0.9}


@pytest.mark.parametrize("sparsity", [0.8, 0.9, 0.98])
def test_other_layers_compensate_for_a_capped_classifier(sparsity):
  shapes = {"body": (3, 3, 64, 64), "fc": (64, 10)}
  found = distributions.uniform(shapes, sparsity, classifier="fc")
  assert found["fc"] == pytest.approx(0.8)
  assert found["body"] >= sparsity
  assert zeros(shapes, found) == pytest.approx(sparsity * total(shapes))


def test_the_classifier_is_not_capped_below_its_cap():
  shapes = {"body": (3, 3, 64, 64), "fc": (64, 10)}
  found = distributions.uniform(shapes, 0.79, classifier="fc")
  assert found == {"body": 0.79, "fc": 0.79}


def test_a_selector_that_matches_nothing_names_the_layers():
  shapes = {"body": (3, 3, 64, 64), "fc": (64, 10)}
  for argument in ["stem", "classifier"]:
    with pytest.raises(ValueError, match=rf"`{argument}`.*body, fc"):
      distributions.uniform(shapes, 0.9, **{argument: "head"})


@given(shapes=networks, epsilon=st.floats(0.1, 50.0))
@settings(max_examples=50, deadline=None)
def test_epsilon_equals_the_oracle_at_any_sparsity(shapes, epsilon):
  expected = oracle.epsilon_densities(list(shapes.values()), epsilon)
  for sparsity in [0.0, 0.9]:
    found = distributions.er_epsilon(shapes, sparsity, epsilon=epsilon)
    np.testing.assert_allclose(1 - np.array(list(found.values())), expected)


def test_global_magnitude_budgets_are_the_counts_of_global_pruning():
  rng = np.random.default_rng(0)
  params = {
    "a": {"kernel": rng.normal(size=(6, 7)).astype(np.float32)},
    "b": {"kernel": rng.normal(size=(9, 5)).astype(np.float32) * 3},
  }
  scope = sparsejax.layerwise(sparsejax.global_magnitude(params))
  layout = leaves_lib.layout(params, [True, True])
  for sparsity in (0.0, 0.3, 0.9):
    values = np.abs(
      np.concatenate([x["kernel"].ravel() for x in params.values()])
    )
    threshold = np.sort(values)[::-1][: int(87 * (1 - sparsity) + 1e-6)][-1]
    expected = [
      int((np.abs(x["kernel"]) >= threshold).sum()) for x in params.values()
    ]
    counts = scope.budgets(layout, sparsity, 1.0, None)
    assert counts.tolist() == expected
  with pytest.raises(ValueError, match="must have 'a/kernel' of shape"):
    sparsejax.layerwise(sparsejax.global_magnitude({"b": params["b"]})).budgets(
      layout, 0.5, 1.0, None
    )
