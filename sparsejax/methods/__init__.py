"""The methods, each a composition of slots, to be checked beside its paper."""

from sparsejax import distributions, schedules, scopes
from sparsejax import storage as storages
from sparsejax.methods.common import (
  composed,
  exchange,
  remember,
  signs,
  track_ever_active,
)
from sparsejax.methods.latent import (
  dnw,
  dpf,
  optg,
  soft_threshold,
  sr_ste,
  top_kast,
)
from sparsejax.methods.pruning import dense, gmp, granet, one_shot, static
from sparsejax.methods.swapping import (
  rigl,
  rigl_itop,
  set_itop,
  sparse_evolution,
)

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
STORAGES = {"zeroed": storages.zeroed, "kept": storages.kept}
CURVES = {
  "cubic": schedules.cubic_curve,
  "sigmoid": schedules.sigmoid_curve(),
}

__all__ = [
  "CURVES",
  "DISTRIBUTIONS",
  "METHODS",
  "SCOPES",
  "STORAGES",
  "composed",
  "dense",
  "dnw",
  "dpf",
  "exchange",
  "gmp",
  "granet",
  "one_shot",
  "optg",
  "remember",
  "rigl",
  "rigl_itop",
  "set_itop",
  "signs",
  "soft_threshold",
  "sparse_evolution",
  "sr_ste",
  "static",
  "top_kast",
  "track_ever_active",
]
