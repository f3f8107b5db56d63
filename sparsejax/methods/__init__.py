"""The methods: each is a composition of parts, to be checked against its paper.

The tables hold the names that a config knows.
"""

from sparsejax.components import (
  criteria,
  distributions,
  granularity as granularities,
  schedules,
  scopes,
  storage as storages,
)
from sparsejax.method import single_weights
from sparsejax.methods.compositions import (
  UNIFORM,
  track_ever_active,
  with_granularity,
)
from sparsejax.methods.granet import granet
from sparsejax.methods.kept import (
  dnw,
  dpf,
  optg,
  soft_threshold,
  sr_ste,
  supermask,
  top_kast,
)
from sparsejax.methods.pruning import dense, gmp, one_shot, static
from sparsejax.methods.redistribution import deep_r, dsr, snfs
from sparsejax.methods.rigl import rigl, rigl_itop, set_itop
from sparsejax.methods.set_family import accset, dynset, lset, sparse_evolution
from sparsejax.methods.weight_sparse import weight_sparse

METHODS = {
  "dense": dense,
  "static": static,
  "one_shot": one_shot,
  "gmp": gmp,
  "granet": granet,
  "rigl": rigl,
  "rigl_itop": rigl_itop,
  "set": sparse_evolution,  # A word of Python, so no name of a function.
  "set_itop": set_itop,
  "accset": accset,
  "lset": lset,
  "dynset": dynset,
  "snfs": snfs,
  "dsr": dsr,
  "deep_r": deep_r,
  "optg": optg,
  "supermask": supermask,
  "dpf": dpf,
  "dnw": dnw,
  "top_kast": top_kast,
  "str": soft_threshold,
  "sr_ste": sr_ste,
  "weight_sparse": weight_sparse,
}
ALIASES = {"sparse_evolution": "set", "soft_threshold": "str"}
"""Names of functions that a config may use, and its own names."""
DISTRIBUTIONS = {
  "uniform": distributions.uniform,
  "er": distributions.er,
  "erk": distributions.erk,
  "uniform_whole": distributions.uniform_whole,
}
SCOPES = {
  "global": scopes.global_scope,
  "global_keep_alive": scopes.keep_alive(scopes.global_scope, 1),
  **{name: scopes.layerwise(d) for name, d in DISTRIBUTIONS.items()},
  "uniform": UNIFORM,
}
CRITERIA = {
  "magnitude": criteria.magnitude,
  "snip": criteria.snip,
  "taylor": criteria.taylor,
  "gradient_flow": criteria.gradient_flow,
}
GLOBAL_MAGNITUDE = "global_magnitude"
"""Name of budgets that need trained weights; see `scopes.global_magnitude`."""
REGROW_BY = {
  "random": criteria.random,
  "gradient": criteria.gradient_magnitude,
  "momentum": criteria.momentum,
  "optimizer_momentum": criteria.optimizer_momentum,
  "near_active": criteria.near_active(),
  "near_active_hw": criteria.near_active("hw"),
  "near_active_flat": criteria.near_active("flat"),
  "most_active_neighbors": criteria.most_active_neighbors(),
  "most_active_neighbors_hw": criteria.most_active_neighbors("hw"),
  "most_active_neighbors_flat": criteria.most_active_neighbors("flat"),
  "never_active_first": criteria.never_active_first,
}
STORAGES = {"zeroed": storages.zeroed, "kept": storages.kept}
GRANULARITIES = {
  "weights": lambda: single_weights,
  "filters": granularities.filters,
  "blocks": granularities.blocks,
  "n_of_m": granularities.n_of_m,
  "at_least": granularities.at_least,
}
CURVES = {
  "cubic": schedules.cubic_curve,
  "linear": schedules.linear_curve,
  "sigmoid": schedules.sigmoid_curve(),
}

__all__ = [
  "accset",
  "deep_r",
  "dense",
  "dnw",
  "dpf",
  "dsr",
  "dynset",
  "gmp",
  "granet",
  "lset",
  "one_shot",
  "optg",
  "rigl",
  "rigl_itop",
  "set_itop",
  "snfs",
  "soft_threshold",
  "sparse_evolution",
  "sr_ste",
  "static",
  "supermask",
  "top_kast",
  "track_ever_active",
  "weight_sparse",
  "with_granularity",
]
