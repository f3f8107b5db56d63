"""The methods, each a composition of slots, to be checked beside its paper."""

from sparsejax.components import criteria, distributions, schedules, scopes
from sparsejax.components import storage as storages
from sparsejax.methods.compositions import (
  composed,
  exchange,
  momentum,
  never_active_first,
  regrowing,
  remember,
  signs,
  track_ever_active,
)
from sparsejax.methods.kept import (
  dnw,
  dpf,
  optg,
  soft_threshold,
  sr_ste,
  top_kast,
)
from sparsejax.methods.prune_and_regrow import (
  rigl,
  rigl_itop,
  set_itop,
  sparse_evolution,
)
from sparsejax.methods.pruning import dense, gmp, granet, one_shot, static
from sparsejax.methods.redistribution import deep_r, dsr, snfs
from sparsejax.methods.set_family import accset, dynset, lset

METHODS = {
  "dense": dense,
  "static": static,
  "one_shot": one_shot,
  "gmp": gmp,
  "granet": granet,
  "rigl": rigl,
  "rigl_itop": rigl_itop,
  "set": sparse_evolution,
  "set_itop": set_itop,
  "accset": accset,
  "lset": lset,
  "dynset": dynset,
  "snfs": snfs,
  "dsr": dsr,
  "deep_r": deep_r,
  "optg": optg,
  "dpf": dpf,
  "dnw": dnw,
  "top_kast": top_kast,
  "str": soft_threshold,
  "sr_ste": sr_ste,
}
"""The names that a config knows."""

DISTRIBUTIONS = {
  "uniform": distributions.uniform,
  "er": distributions.er,
  "erk": distributions.erk,
}
SCOPES = {
  "global": scopes.global_scope,
  **{name: scopes.layerwise(d) for name, d in DISTRIBUTIONS.items()},
}
REGROW_BY = {
  "random": criteria.random,
  "gradient": criteria.gradient,
  "momentum": momentum,
  "near_active": criteria.near_active(),
  "near_active_hw": criteria.near_active("hw"),
  "near_active_flat": criteria.near_active("flat"),
  "most_active_neighbours": criteria.most_active_neighbours(),
  "most_active_neighbours_hw": criteria.most_active_neighbours("hw"),
  "most_active_neighbours_flat": criteria.most_active_neighbours("flat"),
  "never_active_first": never_active_first,
}
STORAGES = {"zeroed": storages.zeroed, "kept": storages.kept}
CURVES = {
  "cubic": schedules.cubic_curve,
  "sigmoid": schedules.sigmoid_curve(),
}

__all__ = [
  "CURVES",
  "DISTRIBUTIONS",
  "METHODS",
  "REGROW_BY",
  "SCOPES",
  "STORAGES",
  "accset",
  "composed",
  "deep_r",
  "dense",
  "dnw",
  "dpf",
  "dsr",
  "dynset",
  "exchange",
  "gmp",
  "granet",
  "lset",
  "momentum",
  "never_active_first",
  "one_shot",
  "optg",
  "regrowing",
  "remember",
  "rigl",
  "rigl_itop",
  "set_itop",
  "signs",
  "snfs",
  "soft_threshold",
  "sparse_evolution",
  "sr_ste",
  "static",
  "top_kast",
  "track_ever_active",
]
