"""Every granularity against a numpy transcription of its rule.

As in `test_oracles.py`, masks, weights and momentum equal the oracle's in every
bit at every step.
"""

import jax
import numpy as np
import pytest
from helpers import tiers
from helpers.side_by_side import (
  Case,
  LibraryRun,
  oracle_run,
  random_tree,
  run_side_by_side,
)
from oracles import (
  distributions,
  network,
  prune_and_regrow,
  pruning,
  ranking,
  schedules,
  structured,
  training,
)

import sparsejax

TIMES = {"end_step": 40, "every": 5}
UNIFORM = sparsejax.layerwise(sparsejax.uniform)


def library_times():
  return {"end_step": TIMES["end_step"], "every_steps": TIMES["every"]}


def first_units(leaves, units, density, key):
  """Random first masks of units, at the density of ERK over their shapes."""
  of = [units(leaf) for leaf in network.sparse_leaves(leaves)]
  shapes = [each.shape for each in of]
  densities = distributions.erk_densities(shapes, density)
  counts = distributions.budgets(densities, [each.size for each in of])
  for each, count in zip(of, counts, strict=True):
    bits = ranking.random_bits(
      key, 0, each.index, ranking.FIRST_MASKS, each.shape
    )
    each.mask = ranking.keep_top_in(bits, count, np.ones(each.shape, bool))


def unit_case(name, method, units, events, *, density=None, order=None, **more):
  """A case in units: the plain oracle's events, which see units."""

  def oracle(leaves, sgd, key):
    if density is not None:
      first_units(leaves, units, density, key)
    events_ = structured.in_units(units, events(key))
    return (order or training.StepThenUpdate)(leaves, sgd, events_)

  return Case(name, method, oracle, **more)


def granet_events(prune):
  return lambda key: prune_and_regrow.granet(
    pruning.Gradual(0.0, 0.5, **TIMES),
    total_steps=65,
    first_fraction=0.5,
    last_fraction=0.005,
    key=key,
    prune=prune,
  )


def unit_cases(name, granularity, units):
  """One granularity with methods of every kind."""
  yield unit_case(
    f"{name} static",
    sparsejax.static(0.6, granularity=granularity),
    units,
    lambda key: [],
    density=0.4,
    changes=0,
  )
  yield unit_case(
    f"{name} one_shot",
    sparsejax.one_shot(0.6, at_step=31, scope=UNIFORM, granularity=granularity),
    units,
    lambda key: pruning.one_shot(0.6, at_step=31, prune=pruning.prune_uniform),
    changes=1,
  )
  yield unit_case(
    f"{name} gmp kept",
    sparsejax.gmp(
      0.6, storage=sparsejax.kept, granularity=granularity, **library_times()
    ),
    units,
    lambda key: pruning.gmp_kept(pruning.Gradual(0.0, 0.6, **TIMES)),
    order=training.StepThenUpdateKept,
    changes=3,
  )
  yield unit_case(
    f"{name} granet",
    sparsejax.granet(
      0.5,
      total_steps=65,
      scope=UNIFORM,
      granularity=granularity,
      **library_times(),
    ),
    units,
    granet_events(pruning.prune_uniform),
    changes=3,
  )
  yield unit_case(
    f"{name} rigl",
    sparsejax.rigl(0.5, end_step=53, every_steps=6, granularity=granularity),
    units,
    lambda key: prune_and_regrow.rigl(
      every=6, end_step=53, fraction=0.3, key=key, at_step_zero=True
    ),
    density=0.5,
    order=training.UpdateSpendsStep,
    changes=2,
  )
  yield unit_case(
    f"{name} set",
    sparsejax.sparse_evolution(
      sparsity=0.5,
      every_steps=6,
      total_steps=66,
      distribution=sparsejax.erk,
      granularity=granularity,
    ),
    units,
    lambda key: prune_and_regrow.sparse_evolution(
      every=6, total_steps=66, fraction=0.3, by_sign=False, key=key
    ),
    density=0.5,
    changes=3,
  )


def swap_events(gradual, prune, swap, key, total_steps=65):
  """GraNet's events with another prune and swap."""

  def due(t):
    return t % gradual.every == 0 and 0 < t <= total_steps

  return [*pruning.gmp(gradual, prune=prune), (due, swap)]


def cosine(t):
  return schedules.cosine_with_floor(0.5, 0.005, t, 65)


def cell_cases(n, m):
  """N:M with methods of every kind."""
  granularity, sparsity = sparsejax.n_of_m(n, m), 1 - n / m
  name = f"{n}:{m}"

  def first(leaves, key):
    structured.first_cells(leaves, n, m, key)

  def static(leaves, sgd, key):
    first(leaves, key)
    return training.StepThenUpdate(leaves, sgd, [])

  def gmp(leaves, sgd, key):
    del key
    events = pruning.gmp(
      pruning.Gradual(0.0, sparsity, **TIMES),
      prune=structured.prune_cells(n, m),
    )
    return training.StepThenUpdate(leaves, sgd, events)

  def gmp_kept(leaves, sgd, key):
    del key
    events = pruning.gmp_kept(
      pruning.Gradual(0.0, sparsity, **TIMES),
      prune=structured.prune_cells(n, m, kept=True),
    )
    return training.StepThenUpdateKept(leaves, sgd, events)

  def granet(leaves, sgd, key):
    events = swap_events(
      pruning.Gradual(0.0, sparsity, **TIMES),
      structured.prune_cells(n, m),
      structured.swap_in_cells(cosine, ranking.ceil_tol, m, key),
      key,
    )
    return training.StepThenUpdate(leaves, sgd, events)

  def rigl(leaves, sgd, key):
    first(leaves, key)

    def fraction(t):
      return schedules.cosine_to_zero(0.3, t, 53)

    swap = structured.swap_in_cells(fraction, ranking.floor_tol, m, key)
    events = [(lambda t: t % 6 == 0 and t < 53, swap)]
    return training.UpdateSpendsStep(leaves, sgd, events)

  given = {"granularity": granularity}
  yield Case(
    f"{name} static", sparsejax.static(sparsity, **given), static, changes=0
  )
  yield Case(
    f"{name} gmp",
    sparsejax.gmp(sparsity, **given, **library_times()),
    gmp,
    changes=1,
  )
  yield Case(
    f"{name} gmp kept",
    sparsejax.gmp(sparsity, storage=sparsejax.kept, **given, **library_times()),
    gmp_kept,
    changes=1,  # All cells change at once, from m to n.
  )
  yield Case(
    f"{name} granet",
    sparsejax.granet(sparsity, total_steps=65, **given, **library_times()),
    granet,
  )
  yield Case(
    f"{name} rigl",
    sparsejax.rigl(sparsity, end_step=53, every_steps=6, **given),
    rigl,
  )


def line_cases(rows, columns):
  """Minima of rows and columns with methods of every kind."""
  granularity = sparsejax.at_least(rows=rows, columns=columns)
  given = {"granularity": granularity}

  def static(leaves, sgd, key):
    first(leaves, key)
    return training.StepThenUpdate(leaves, sgd, [])

  def first(leaves, key):
    sparse = network.sparse_leaves(leaves)
    densities = distributions.erk_densities(
      [leaf.weights.shape for leaf in sparse], 0.4
    )
    counts = distributions.budgets(densities, [leaf.size for leaf in sparse])
    for leaf, count in zip(sparse, counts, strict=True):
      bits = ranking.random_bits(
        key, 0, leaf.index, ranking.FIRST_MASKS, leaf.weights.shape
      )
      leaf.mask = structured.keep_with_minima(
        bits, count, np.ones(bits.shape, bool), rows, columns
      )

  def granet(leaves, sgd, key):
    events = swap_events(
      pruning.Gradual(0.0, 0.6, **TIMES),
      structured.prune_global_with_minima(rows, columns),
      structured.swap_with_minima(cosine, ranking.ceil_tol, rows, columns, key),
      key,
    )
    return training.StepThenUpdate(leaves, sgd, events)

  def itop(leaves, sgd, key):
    first(leaves, key)
    swap = structured.swap_with_minima(
      cosine, ranking.ceil_tol, rows, columns, key
    )
    events = [(lambda t: t % 6 == 0 and 0 < t <= 65, swap)]
    return training.StepThenUpdate(leaves, sgd, events)

  name = f"{rows} per row and {columns} per column"
  yield Case(
    f"{name} static", sparsejax.static(0.6, **given), static, changes=0
  )
  yield Case(
    f"{name} granet",
    sparsejax.granet(0.6, total_steps=65, **given, **library_times()),
    granet,
  )
  yield Case(
    f"{name} itop",
    sparsejax.rigl_itop(0.6, every_steps=6, total_steps=65, **given),
    itop,
  )


CASES = [
  *unit_cases("filters", sparsejax.filters(), structured.filters),
  *unit_cases("blocks", sparsejax.blocks(2, 3), structured.blocks(2, 3)),
  *cell_cases(1, 2),
  *cell_cases(2, 3),
  *line_cases(1, 2),
  *line_cases(0, 3),
]
ALWAYS = ("filters granet", "1:2 granet")


@pytest.mark.parametrize(
  "case",
  tiers.some(CASES, lambda case: case.name in ALWAYS),
  ids=[case.name for case in CASES],
)
def test_masks_weights_and_momentum_equal_the_oracle(case):
  seed = CASES.index(case)
  tree, key = random_tree(seed), jax.random.key(seed)
  changed = run_side_by_side(
    oracle_run(case, tree, key), LibraryRun(case, tree, key), seed
  )
  assert len(changed) >= case.changes
