"""GraNet, Table 5: sparsities from 80 to 96.5 %, ResNet-50 on ImageNet.

python -m sparsejax.study.reproduce granet_5 --list
"""

from sparsejax.study import papers

_IMAGENET = "imagenet"
_COLUMNS = ("accuracy", "training", "inference")
_SPARSITIES = (0.8, 0.9, 0.95, 0.965)
_CELLS = papers.across(("resnet50",), [f"sparsity={s}" for s in _SPARSITIES])
_RIGL = "quoted from RigL"

TABLE = papers.Table(
  title="ResNet-50 on ImageNet at 80 to 96.5 %",
  reference="Liu et al. (2021), GraNet, Table 5",
  columns=_COLUMNS,
  rows=(
    *papers.line(
      "rigl",
      f"{_IMAGENET}:rigl,recipe=rigl",
      _CELLS,
      "75.1/.42/.42 73.0/.25/.24 69.7/.12/.12 -",
      columns=_COLUMNS,
      source=_RIGL,
    ),
    *papers.line(
      "rigl",
      f"{_IMAGENET}:rigl,recipe=rigl",
      _CELLS,
      "- - - 67.2/.11/.11",
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
      "76.0/.37/.35 74.5/.25/.20 72.3/.17/.12 70.5/.15/.09",
      columns=_COLUMNS,
    ),
  ),
)
