"""Sparse training in JAX: masks that live in the optax state."""

from sparsejax import at_init
from sparsejax._version import __version__
from sparsejax.at_init import prune_at_init
from sparsejax.base import (
  MaskUpdate,
  Memory,
  Order,
  Regrow,
  Scope,
  Seen,
  Storage,
)
from sparsejax.distributions import er, erk, uniform
from sparsejax.methods import (
  dense,
  dnw,
  dpf,
  gmp,
  granet,
  one_shot,
  optg,
  rigl,
  rigl_itop,
  set_itop,
  soft_threshold,
  sparse_evolution,
  sr_ste,
  static,
  top_kast,
  track_ever_active,
)
from sparsejax.schedules import cubic_curve, sigmoid_curve
from sparsejax.scopes import global_scope, keep_alive, layerwise
from sparsejax.state import (
  SparseState,
  apply_masks,
  freeze,
  get_masks,
  masks_from_params,
)
from sparsejax.stats import LayerSummary, Summary, assert_sparse, stats, summary
from sparsejax.storage import kept, zeroed
from sparsejax.transform import sparsify
from sparsejax.trees import Override

__all__ = [
  "LayerSummary",
  "MaskUpdate",
  "Memory",
  "Order",
  "Override",
  "Regrow",
  "Scope",
  "Seen",
  "SparseState",
  "Storage",
  "Summary",
  "__version__",
  "apply_masks",
  "assert_sparse",
  "at_init",
  "cubic_curve",
  "dense",
  "dnw",
  "dpf",
  "er",
  "erk",
  "freeze",
  "get_masks",
  "global_scope",
  "gmp",
  "granet",
  "keep_alive",
  "kept",
  "layerwise",
  "masks_from_params",
  "one_shot",
  "optg",
  "prune_at_init",
  "rigl",
  "rigl_itop",
  "set_itop",
  "sigmoid_curve",
  "soft_threshold",
  "sparse_evolution",
  "sparsify",
  "sr_ste",
  "static",
  "stats",
  "summary",
  "top_kast",
  "track_ever_active",
  "uniform",
  "zeroed",
]
