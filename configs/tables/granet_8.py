"""GraNet, Table 8: two implementations of GMP, ResNet-50 on ImageNet.

    python -m sparsejax.study.reproduce granet_8 --list

Gale et al. (2019) keep the values of pruned weights and prune all layers alike,
except the first and the last; GraNet's authors prune with a global scope and
pruned weights never return.
"""

from sparsejax.study import papers

_IMAGENET = "imagenet"
_COLUMNS = ("accuracy", "training", "inference")
_CELLS = papers.across(("resnet50",), ("sparsity=0.8", "sparsity=0.9"))
_RIGL = "quoted from RigL"
_DENSE_STEM = "--config.dense=('stem/*',)"

TABLE = papers.Table(
  title="GMP of ResNet-50 on ImageNet, by sparsity",
  reference="Liu et al. (2021), GraNet, Table 8",
  columns=_COLUMNS,
  rows=(
    *papers.line(
      "dense",
      f"{_IMAGENET}:dense,recipe=rigl",
      papers.across(("resnet50",)),
      "76.8±.09/1/1",
      columns=_COLUMNS,
      source=_RIGL,
    ),
    *papers.line(
      "gmp-kept",
      f"{_IMAGENET}:gmp,recipe=rigl,storage=kept,scope=uniform",
      _CELLS,
      "75.6/.56/.23 73.9/.51/.10",
      columns=_COLUMNS,
      changes=(_DENSE_STEM, "--config.sparsities=('classifier/*=0.8',)"),
      source="quoted from Gale et al. (2019)",
      note="stem dense, classifier at 80 %, pruned from step 10,000 to 25,000,"
      " as RigL counts the FLOPs; .10 at 90 % is that of a sparse stem",
    ),
    *papers.line(
      "gmp",
      f"{_IMAGENET}:gmp",
      _CELLS,
      "74.6/.34/.28 73.3/.23/.16",
      columns=_COLUMNS,
    ),
  ),
)
