"""What parts declare to read is what they read, and decides the rest."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.interpreters import partial_eval

import sparsejax
from sparsejax import methods
from sparsejax.components import accumulators, criteria
from sparsejax.method import Context, Input, Layout, Leaf, SparseLeaf

EVERY = {"every_steps": 3}
RUN = {**EVERY, "total_steps": 12}
RAMP = {**EVERY, "end_step": 9}

METHODS = {
  "dense": (methods.dense(), "never"),
  "static": (methods.static(0.5), "never"),
  "one_shot": (methods.one_shot(0.5, at_step=2), "never"),
  "gmp": (methods.gmp(0.5, **RAMP), "never"),
  "one_shot rate": (methods.one_shot(rate=0.5, at_step=2), "never"),
  "one_shot regrows": (
    methods.one_shot(
      rate=0.5, at_step=2, regrow_by=criteria.gradient_magnitude
    ),
    "at updates",
  ),
  "gmp kept": (methods.gmp(0.5, **RAMP, storage=sparsejax.kept), "never"),
  "gmp snip": (
    methods.gmp(0.5, **RAMP, criterion=criteria.snip),
    "at updates",
  ),
  "gmp taylor": (
    methods.gmp(0.5, **RAMP, criterion=criteria.taylor),
    "at updates",
  ),
  "gmp gradient flow": (
    methods.gmp(0.5, **RAMP, criterion=criteria.gradient_flow),
    "never",
  ),
  "set": (methods.sparse_evolution(sparsity=0.5, **RUN), "never"),
  "set_itop": (methods.set_itop(0.5, **RUN), "never"),
  "set near": (
    methods.sparse_evolution(
      sparsity=0.5, **RUN, regrow_by=criteria.near_active()
    ),
    "never",
  ),
  "set never active": (
    methods.sparse_evolution(
      sparsity=0.5, **RUN, regrow_by=criteria.never_active_first
    ),
    "never",
  ),
  "accset": (
    methods.accset(sparsity=0.5, steps_per_epoch=3, total_steps=12),
    "never",
  ),
  "lset": (
    methods.lset(sparsity=0.5, steps_per_epoch=3, total_steps=12),
    "never",
  ),
  "dynset": (
    methods.dynset(sparsity=0.5, steps_per_epoch=3, total_steps=12),
    "never",
  ),
  "deep_r": (methods.deep_r(0.5), "never"),
  "dsr": (methods.dsr(0.5, prune_count=4, **RAMP), "never"),
  "str": (methods.soft_threshold(threshold_learning_rate=0.1), "never"),
  "granet": (methods.granet(0.5, end_step=9, **RUN), "at updates"),
  "rigl": (methods.rigl(0.5, **RAMP), "at updates"),
  "rigl_itop": (methods.rigl_itop(0.5, **RUN), "at updates"),
  "snfs": (methods.snfs(0.5, **RUN), "every step"),
  "snfs own": (methods.snfs(0.5, momentum=0.9, **RUN), "every step"),
  "dpf": (methods.dpf(0.5, **RAMP), "every step"),
  "dnw": (methods.dnw(0.5), "every step"),
  "weight_sparse": (
    methods.weight_sparse(0.5, **RAMP, min_per_neuron=1),
    "every step",
  ),
  "sr_ste": (methods.sr_ste(n=2, m=4), "every step"),
  "optg": (
    methods.optg(0.5, steps_per_epoch=2, epochs=4, score_learning_rate=0.1),
    "every step",
  ),
  "supermask": (
    methods.supermask(0.5, score_learning_rate=0.1),
    "every step",
  ),
  "top_kast": (methods.top_kast(0.5, backward_sparsity=0.3), "every step"),
}


SHAPE = (3, 3, 4, 4)  # A convolution, since some criteria look at its planes.
_RNG = np.random.RandomState(0)
WEIGHTS, GRADIENT, OTHER = (
  jnp.asarray(x) for x in _RNG.normal(size=(3, *SHAPE)).astype(np.float32)
)
LAYOUT = Layout(
  (SparseLeaf(0, "kernel", SHAPE),), jax.tree.structure({"kernel": 0})
)


def start(method):
  """What the accumulators of a method hold at step 0, by name."""
  leaf = Leaf(WEIGHTS, None, WEIGHTS > 0, {})
  context = Context(LAYOUT, [leaf], jnp.int32(0), None, None, {})
  return {x.name: x.init(context) for x in method.all_accumulators}


def per_leaf(method, values):
  return {
    x.name: jax.tree.leaves(x.per_leaf(values[x.name]))[0]
    for x in method.all_accumulators
    if x.per_leaf is not None
  }


def inputs(method):
  """Everything that a part could read."""
  return {
    Input.WEIGHTS: WEIGHTS,
    Input.GRADIENT: GRADIENT,
    Input.MASK: jnp.zeros(SHAPE, bool),
    Input.KEY: jax.random.key_data(jax.random.key(0)),
    Input.MOMENTUM: OTHER,
    Input.HESSIAN_GRADIENT: OTHER,
    **{x: start(method)[x.name] for x in method.all_accumulators},
  }


def rebuild(method, read):
  """Returns the context and the leaf that hold some inputs."""
  values = {x.name: read[x] for x in method.all_accumulators}
  leaf = Leaf(
    read[Input.WEIGHTS],
    read[Input.GRADIENT],
    read[Input.MASK],
    per_leaf(method, values),
    jax.random.wrap_key_data(read[Input.KEY]),
    momentum=read[Input.MOMENTUM],
    hessian_gradient=read[Input.HESSIAN_GRADIENT],
  )
  metric = jnp.float32(0.5)
  context = Context(LAYOUT, [leaf], jnp.int32(3), None, metric, values)
  return context, leaf


def found_reads(method, part):
  """Returns the inputs that lead to a result of `part(context, leaf)`."""
  given = inputs(method)
  names = list(given)
  leaves = [jax.tree.leaves(given[name]) for name in names]
  flat = [x for some in leaves for x in some]
  owner = [n for n, some in zip(names, leaves, strict=True) for _ in some]

  def run(*arrays):
    rest = iter(arrays)
    read = {
      name: jax.tree.unflatten(
        jax.tree.structure(given[name]), [next(rest) for _ in some]
      )
      for name, some in zip(names, leaves, strict=True)
    }
    return part(*rebuild(method, read))

  with jax.enable_x64(False):
    jaxpr = jax.make_jaxpr(run)(*flat).jaxpr
  _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  reads = {name for name, use in zip(owner, used, strict=True) if use}
  if Input.GRADIENT in reads and same_without(method, part):
    reads = reads - {Input.GRADIENT} | {Input.ACTIVE_GRADIENT}
  return reads


def same_without(method, part):
  """Whether the gradient of inactive weights makes no difference."""
  results = []
  for gradient in (GRADIENT, OTHER):
    read = {**inputs(method), Input.GRADIENT: gradient}
    read |= {
      x: jax.tree.map(jnp.zeros_like, read[x]) for x in method.all_accumulators
    }
    results.append(jax.tree.leaves(part(*rebuild(method, read))))
  return all(map(np.array_equal, *results))


def parts(method):
  """Yields the functions of a method, and what each declares to read."""
  one = jnp.ones(1, jnp.int32)
  storage, prune, regrow = method.storage, method.prune, method.regrow

  def of_storage(context, leaf):
    return storage.gradient(leaf), storage.update(leaf, jnp.ones(SHAPE))

  yield "storage", of_storage, storage.reads
  for x in method.all_accumulators:

    def of_accumulator(context, leaf, x=x):
      value = x.of(context)
      results = [x.after_step and x.after_step(value, context)]
      if x.after_update is not None:
        results.append(x.after_update(value, context, one))
      return results

    yield x.name, of_accumulator, (*x.reads, x)
  if prune is not None:
    yield "criterion", lambda c, x: prune.criterion(x), prune.criterion.reads
    if prune.pattern is not None:
      pattern = prune.pattern
      yield "pattern", lambda c, x: pattern.keep(WEIGHTS, x), pattern.reads
  if regrow is not None:
    if regrow.by is not None:
      yield "by", lambda c, x: regrow.by(x), regrow.by.reads
    yield "prune_by", lambda c, x: regrow.prune_by(x), regrow.prune_by.reads
    count = regrow.prune_count
    yield "prune_count", lambda c, x: count(c, one), count.reads
    more = regrow.regrow_count
    yield "regrow_count", lambda c, x: more(c, one, one), more.reads
  if method.gate is not None:
    yield "gate", lambda c, x: method.gate.opens(c), method.gate.reads


@pytest.mark.parametrize("name", METHODS)
def test_parts_read_what_they_declare_and_nothing_else(name):
  method, _ = METHODS[name]
  with jax.enable_x64(True):  # As shares and counts are computed.
    method = dataclasses.replace(method)
  for part, function, declared in parts(method):
    found = found_reads(method, function)
    allowed = set(declared) | {Input.POSITION}
    if Input.GRADIENT in allowed:
      allowed.add(Input.ACTIVE_GRADIENT)
    assert found <= allowed, part
    if part in ("criterion", "by", "prune_by"):
      assert found == set(declared) - {Input.POSITION}, part


def test_what_reads_other_positions_is_not_fused():
  assert criteria.magnitude.is_elementwise
  assert not criteria.near_active().is_elementwise
  assert not criteria.random.is_elementwise


def test_an_undeclared_read_is_found():
  secret = sparsejax.Criterion(
    lambda leaf: jnp.abs(leaf.weights * leaf.gradient),
    reads=(Input.WEIGHTS,),
  )
  method = methods.rigl_itop(0.5, **RUN, regrow_by=secret)
  found = found_reads(method, lambda context, leaf: secret(leaf))
  assert found == {Input.WEIGHTS, Input.GRADIENT}


@pytest.mark.parametrize(
  ("method", "needed"),
  [
    (methods.dense(), False),
    (methods.static(0.5), True),
    (methods.gmp(0.5, **RAMP), False),
    (methods.gmp(0.5, initial_sparsity=0.2, **RAMP), True),
    (methods.one_shot(rate=0.5, at_step=2), False),
    (methods.one_shot(rate=0.5, at_step=2, initial_sparsity=0.2), True),
    (methods.rigl(0.5, **RAMP), True),
    (methods.dnw(0.5), False),
    (methods.sr_ste(n=2, m=4), False),
    (methods.soft_threshold(threshold_learning_rate=0.1), False),
    (methods.sparse_evolution(epsilon=2.0, **RUN), True),
    (methods.deep_r(0.5, noise=0.0), True),
  ],
)
def test_a_key_is_needed_where_something_is_random(method, needed):
  assert method.needs_key == needed
  params = {"kernel": WEIGHTS.reshape(12, 12)}
  tx = sparsejax.sparsify(optax.sgd(0.1), method)
  if needed:
    with pytest.raises(ValueError, match="`key` must be given, got None"):
      tx.init(params)
  else:
    tx.init(params)


@pytest.mark.parametrize("name", METHODS)
def test_the_dense_gradient_is_needed_where_the_paper_says(name):
  method, expected = METHODS[name]
  assert method.dense_gradient == expected


@pytest.mark.parametrize(
  "regrow_by, expected",
  [
    (criteria.random, "never"),
    (criteria.gradient_magnitude, "at updates"),
    (criteria.momentum, "every step"),
  ],
)
def test_the_criterion_of_regrowth_decides(regrow_by, expected):
  method = methods.rigl_itop(0.5, **RUN, regrow_by=regrow_by)
  assert method.dense_gradient == expected


def test_an_accumulator_that_no_part_reads_counts_too():
  method = dataclasses.replace(
    methods.static(0.5), accumulators=(accumulators.momentum,)
  )
  assert method.dense_gradient == "every step"
  tracked = methods.track_ever_active(methods.static(0.5))
  assert tracked.dense_gradient == "never"
