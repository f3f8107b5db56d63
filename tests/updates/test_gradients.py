"""Which gradients a method reads is found, not declared."""

import pytest

import sparsejax
from sparsejax import methods
from sparsejax.components import accumulators, criteria
from sparsejax.updates import gradients

EVERY = {"every_steps": 3}
RUN = {**EVERY, "total_steps": 12}
RAMP = {**EVERY, "end_step": 9}

METHODS = {
  "dense": (methods.dense(), "never"),
  "static": (methods.static(0.5), "never"),
  "one_shot": (methods.one_shot(0.5, at_step=2), "never"),
  "gmp": (methods.gmp(0.5, **RAMP), "never"),
  "gmp kept": (methods.gmp(0.5, **RAMP, storage=sparsejax.kept), "never"),
  "set": (methods.sparse_evolution(sparsity=0.5, **RUN), "never"),
  "set_itop": (methods.set_itop(0.5, **RUN), "never"),
  "dsr": (methods.dsr(0.5, prune_count=4, **RAMP), "never"),
  "str": (methods.soft_threshold(threshold_learning_rate=0.1), "never"),
  "granet": (methods.granet(0.5, end_step=9, **RUN), "at updates"),
  "rigl": (methods.rigl(0.5, **RAMP), "at updates"),
  "rigl_itop": (methods.rigl_itop(0.5, **RUN), "at updates"),
  "snfs": (methods.snfs(0.5, **RUN), "every step"),
  "dpf": (methods.dpf(0.5, **RAMP), "every step"),
  "dnw": (methods.dnw(0.5), "every step"),
  "sr_ste": (methods.sr_ste(n=2, m=4), "every step"),
  "optg": (
    methods.optg(0.5, steps_per_epoch=2, epochs=4, score_learning_rate=0.1),
    "every step",
  ),
  "top_kast": (methods.top_kast(0.5, backward_sparsity=0.3), "every step"),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_reads_what_its_paper_says(name):
  method, expected = METHODS[name]
  assert gradients.dense_gradient(method) == expected


@pytest.mark.parametrize(
  "regrow_by, expected",
  [
    (criteria.random, "never"),
    (criteria.gradient, "at updates"),
    (methods.momentum, "every step"),
  ],
)
def test_what_regrowth_looks_at_decides(regrow_by, expected):
  method = methods.rigl_itop(0.5, **RUN, regrow_by=regrow_by)
  assert gradients.dense_gradient(method) == expected


def test_a_memory_that_nobody_uses_is_kept_all_the_same():
  method = methods.remember(
    methods.static(0.5), trace=accumulators.gradient_trace(0.9)
  )
  assert gradients.dense_gradient(method) == "every step"
  tracked = methods.track_ever_active(methods.static(0.5))
  assert gradients.dense_gradient(tracked) == "never"
