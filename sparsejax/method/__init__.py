"""What a sparse-training method is: a record of parts.

A method is data. `Method` holds a few frozen records and pure functions; no
other module knows a method by its name. Each part declares what it reads, and
from those declarations follow which accumulators the state holds, whether a
random key is needed, in which steps the dense gradient is needed, and which
scores may be fused into the search.
"""

from sparsejax.method.layout import Layout, SparseLeaf
from sparsejax.method.messages import called, described
from sparsejax.method.parts import (
  Count,
  Criterion,
  Curve,
  Distribution,
  Fraction,
  Gate,
  Granularity,
  Initial,
  InnerStep,
  MaskChange,
  MetricKind,
  Pattern,
  Prune,
  PruneAndRegrow,
  Scope,
  SparsitySchedule,
  Storage,
  When,
  as_pruned,
  single_weights,
)
from sparsejax.method.reads import (
  Accumulator,
  Context,
  Input,
  Key,
  Leaf,
  Masks,
  Reads,
  Scores,
)
from sparsejax.method.record import DenseGradient, Method
from sparsejax.method.units import Quota, Span, Units

__all__ = [
  "Accumulator",
  "Context",
  "Count",
  "Criterion",
  "Curve",
  "DenseGradient",
  "Distribution",
  "Fraction",
  "Gate",
  "Granularity",
  "Initial",
  "InnerStep",
  "Input",
  "Key",
  "Layout",
  "Leaf",
  "MaskChange",
  "Masks",
  "Method",
  "MetricKind",
  "Pattern",
  "Prune",
  "PruneAndRegrow",
  "Quota",
  "Reads",
  "Scope",
  "Scores",
  "Span",
  "SparseLeaf",
  "SparsitySchedule",
  "Storage",
  "Units",
  "When",
  "as_pruned",
  "called",
  "described",
  "single_weights",
]
