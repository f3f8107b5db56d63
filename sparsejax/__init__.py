"""Sparse training in JAX: masks that live in the optax state."""

from sparsejax import at_init
from sparsejax._version import __version__
from sparsejax.at_init import prune_at_init
from sparsejax.base import MaskUpdate, Memory, Regrow, Scope, Storage
from sparsejax.distributions import er, erk, uniform
from sparsejax.methods import (
  dense,
  gmp,
  granet,
  one_shot,
  rigl,
  rigl_itop,
  sparse_evolution,
  static,
  track_ever_active,
)
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
  "Override",
  "Regrow",
  "Scope",
  "SparseState",
  "Storage",
  "Summary",
  "__version__",
  "apply_masks",
  "assert_sparse",
  "at_init",
  "dense",
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
  "prune_at_init",
  "rigl",
  "rigl_itop",
  "sparse_evolution",
  "sparsify",
  "static",
  "stats",
  "summary",
  "track_ever_active",
  "uniform",
  "zeroed",
]
