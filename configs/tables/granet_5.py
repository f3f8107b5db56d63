"""GraNet, Table 5: extreme sparsities, ResNet-50 on ImageNet.

python -m sparsejax.study.reproduce granet_5 --list
"""

from sparsejax.study import papers

_IMAGENET = "imagenet"
_COLUMNS = ("accuracy", "training", "inference")
_CELLS = papers.across(("resnet50",), ("sparsity=0.95", "sparsity=0.965"))
_RIGL = "quoted from RigL"

TABLE = papers.Table(
  title="ResNet-50 on ImageNet at 95 and 96.5 %",
  reference="Liu et al. (2021), GraNet, Table 5",
  columns=_COLUMNS,
  rows=(
    *papers.line(
      "rigl",
      f"{_IMAGENET}:rigl,recipe=rigl",
      _CELLS,
      "69.7/.12/.12 -",
      columns=_COLUMNS,
      source=_RIGL,
    ),
    *papers.line(
      "rigl",
      f"{_IMAGENET}:rigl,recipe=rigl",
      _CELLS,
      "- 67.2/.11/.11",
      columns=_COLUMNS,
      changes=("--config.sparsities=('stem/*=0.0',)",),
      source=_RIGL,
      note="at 96.5 % with a dense stem inside the budget, which gives the"
      " FLOPs that are printed; RigL's README has .09 for all layers sparse",
    ),
    *papers.line(
      "granet-0.5",
      f"{_IMAGENET}:granet,initial_sparsity=0.5",
      _CELLS,
      "72.3/.17/.12 70.5/.15/.09",
      columns=_COLUMNS,
    ),
  ),
)
