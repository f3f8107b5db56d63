"""Every method of kept weights against a numpy transcription of its paper.

Six epochs of twelve steps, with momentum SGD and coupled decay and with AdamW.
Masks agree in every bit, and so do sparse and latent weights where all that
moves them is element by element; norms and sums over a layer (Top-KAST, STR)
and a sigmoid on the device (OptG's scores, STR) differ in the last bits.
"""

import jax
import numpy as np
import optax
import pytest
from helpers import tiers
from helpers.side_by_side import (
  STEPS,
  Case,
  LibraryRun,
  adamw,
  assert_close,
  assert_equal,
  check_first_gradients,
  momentum_sgd,
  named,
  oracle_run,
  random_tree,
  run_side_by_side,
)
from oracles import (
  distributions,
  kept,
  n_of_m,
  network,
  optg,
  pruning,
  soft_threshold,
  training,
)

import sparsejax
from sparsejax.updates import orders

EPOCHS, STEPS_PER_EPOCH = 6, 12
OPTIMIZERS = {"sgd": momentum_sgd(), "adamw": adamw()}
ROUNDED = {"rtol": 1e-5, "atol": 1e-6}


def test_a_run_is_all_epochs():
  assert EPOCHS * STEPS_PER_EPOCH == STEPS


# Cases: the method, and what the paper does


def optg_case(
  name,
  *,
  scope=sparsejax.global_scope,
  choose=optg.over_all_layers,
  rate=0.05,
  changes=5,
  **options,
):
  """OptG to 90 %."""
  length = {"epochs": EPOCHS, "steps_per_epoch": STEPS_PER_EPOCH}
  library = {
    {"momentum": "score_momentum"}.get(key, key): value
    for key, value in options.items()
  }

  def learning_rate(t):
    return float(rate(t)) if callable(rate) else rate

  return Case(
    name,
    sparsejax.optg(
      0.9, score_learning_rate=rate, scope=scope, **length, **library
    ),
    lambda leaves, sgd, key: optg.OptG(
      leaves,
      sgd,
      sparsity=0.9,
      learning_rate=learning_rate,
      choose=choose,
      **length,
      **options,
    ),
    changes=changes,
  )


def dpf_case(name, *, initial=0.0, **times):
  """DPF to 90 %."""
  times = {"end_step": 50, "every": 4, "begin_step": 0} | times
  return Case(
    name,
    sparsejax.dpf(
      0.9,
      initial_sparsity=initial,
      begin_step=times["begin_step"],
      end_step=times["end_step"],
      every_steps=times["every"],
    ),
    lambda leaves, sgd, key: kept.dpf(
      leaves, sgd, pruning.Gradual(initial, 0.9, **times)
    ),
    densities=erk(1 - initial) if initial else None,
    changes=12,
  )


def erk(density):
  return lambda shapes: distributions.erk_densities(shapes, density)


def top_kast_case(name, *, every, penalty):
  return Case(
    name,
    sparsejax.top_kast(
      0.8, backward_sparsity=0.55, every_steps=every, penalty=penalty
    ),
    lambda leaves, sgd, key: kept.TopKAST(
      leaves,
      sgd,
      sparsity=0.8,
      backward_sparsity=0.55,
      penalty=penalty,
      every=every,
    ),
  )


def soft_threshold_case(name, *, first, sgd, **library):
  return Case(
    name,
    sparsejax.soft_threshold(initial_threshold=first, **library),
    lambda leaves, optimizer, key: soft_threshold.SoftThreshold(
      leaves, optimizer, threshold=first, threshold_sgd=sgd
    ),
  )


BOTH = [
  optg_case("optg"),
  dpf_case("dpf"),
  Case(
    "dnw",
    sparsejax.dnw(0.8),
    lambda leaves, sgd, key: kept.dnw(leaves, sgd, 0.8),
  ),
  Case(
    "supermask",
    sparsejax.supermask(0.8, score_learning_rate=0.1),
    lambda leaves, sgd, key: optg.Supermask(
      leaves, sgd, sparsity=0.8, learning_rate=0.1
    ),
  ),
  Case(
    "weight_sparse",
    sparsejax.weight_sparse(0.8, end_step=50, every_steps=7, min_per_neuron=0),
    lambda leaves, sgd, key: kept.WeightSparse(
      leaves, sgd, sparsity=0.8, end_step=50, every=7
    ),
    changes=8,
  ),
  top_kast_case("top_kast", every=1, penalty=0.02),
  soft_threshold_case(
    "soft_threshold",
    first=-3.0,
    sgd=network.MomentumSGD(0.01, 0.9, 0.01, nesterov=False),
    threshold_learning_rate=0.01,
    threshold_momentum=0.9,
    threshold_weight_decay=0.01,
  ),
  Case(
    "sr_ste 2 of 4",
    sparsejax.sr_ste(n=2, m=4, decay=0.05),
    lambda leaves, sgd, key: n_of_m.sr_ste(
      leaves, sgd, n_of_m.by_groups(2, 4), decay=0.05
    ),
  ),
]
SGD_ONLY = [
  optg_case(
    "optg erk",
    scope=sparsejax.layerwise(sparsejax.erk),
    choose=optg.inside_layers(distributions.erk_densities),
  ),
  optg_case(  # Equations 10, 16 and 17 as they are printed.
    "optg by the paper's formulas",
    alpha=1.0,
    momentum=0.0,
    reach_target=False,
    rate=optax.cosine_decay_schedule(0.1, STEPS),
  ),
  dpf_case("dpf from a half between grid points", initial=0.5, begin_step=5),
]
ADAMW_ONLY = [  # GMP with momentum SGD is in test_oracles.py.
  Case(
    "gmp kept",
    sparsejax.gmp(0.9, end_step=50, every_steps=5, storage=sparsejax.kept),
    lambda leaves, sgd, key: training.StepThenUpdateKept(
      leaves,
      sgd,
      pruning.gmp_kept(pruning.Gradual(0, 0.9, end_step=50, every=5)),
    ),
  ),
  Case(
    "sr_ste unstructured",
    sparsejax.sr_ste(sparsity=0.8),
    lambda leaves, sgd, key: n_of_m.sr_ste(
      leaves, sgd, n_of_m.by_layers(0.8), decay=2e-4
    ),
  ),
]
CASES = [*BOTH, *SGD_ONLY, *ADAMW_ONLY]


# Two runs side by side


def compare_scores(oracle, library):
  """All in every bit, but the scores to rounding."""
  assert_equal(oracle, library)
  scores, (trace, *_) = library.state.accumulators["scores"]
  for name, found in named(scores).items():
    where = f"scores of {name} at step {oracle.t}"
    assert_close(found, oracle.scores[name], where, **ROUNDED)
  if np.any(oracle.momentum):
    for name, found in named(trace.trace).items():
      where = f"momentum of the scores of {name} at step {oracle.t}"
      assert_close(found, oracle.buffers[name], where)


def compare_backward(oracle, library):
  assert_equal(oracle, library, **ROUNDED)
  for name, found in named(library.state.accumulators["backward"]).items():
    np.testing.assert_array_equal(found, oracle.backward[name])


def compare_thresholds(oracle, library):
  assert_equal(oracle, library, weights_of=oracle.sparse_weights, **ROUNDED)
  thresholds = named(library.state.accumulators["threshold"].values)
  for name, found in thresholds.items():
    expected = oracle.thresholds[name].weights
    assert_close(found.ravel(), expected.ravel(), name, **ROUNDED)


def comparison(oracle):
  return {
    optg.OptG: compare_scores,
    optg.Supermask: compare_scores,
    kept.TopKAST: compare_backward,
    soft_threshold.SoftThreshold: compare_thresholds,
  }.get(type(oracle), assert_equal)


def pairs(cases, optimizers):
  return [
    pytest.param(
      case,
      OPTIMIZERS[name],
      id=f"{case.name}, {name}",
      marks=tiers.SLOW if i or number % 2 else (),
    )
    for number, case in enumerate(cases)
    for i, name in enumerate(optimizers)
  ]


@pytest.mark.parametrize(
  "case, optimizer",
  [
    *pairs(BOTH, OPTIMIZERS),
    *pairs(SGD_ONLY, ["sgd"]),
    *pairs(ADAMW_ONLY, ["adamw"]),
  ],
)
def test_masks_and_values_equal_the_oracle(case, optimizer):
  seed = CASES.index(case)
  tree, key = random_tree(seed), jax.random.key(seed)
  oracle = oracle_run(case, tree, key, optimizer)
  library = LibraryRun(case, tree, key, optimizer)
  changed = run_side_by_side(oracle, library, seed, compare=comparison(oracle))
  assert len(changed) >= case.changes


@pytest.mark.parametrize(
  "case",
  tiers.every(3, [case for case in CASES if orders.between_steps(case.method)]),
  ids=lambda case: case.name,
)
def test_the_first_gradient_of_an_epoch_is_taken_at_its_masks(case):
  seed = CASES.index(case)
  check_first_gradients(
    case, random_tree(seed), seed, STEPS_PER_EPOCH, comparison
  )


def test_sets_wait_for_the_next_step_with_finite_gradients():
  case = top_kast_case("top_kast every 4", every=4, penalty=1e-4)
  tree, key = random_tree(0), jax.random.key(0)
  oracle, library = oracle_run(case, tree, key), LibraryRun(case, tree, key)

  def spoil(call, gradients, masks):
    # The sets of step 8 are due in call 7. Nothing learns outside them.
    bad = {7: np.nan, 8: np.inf}.get(call)
    if bad is not None:
      name = "conv-1/kernel"
      gradients[name][tuple(np.argwhere(~oracle.backward[name])[0])] = bad

  changed = run_side_by_side(oracle, library, 0, spoil, compare_backward)
  assert changed[:3] == [3, 9, 11]
