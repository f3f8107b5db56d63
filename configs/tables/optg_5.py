"""OptG, Table 5: OptG's scores inside other budgets, ResNet-50 on ImageNet.

    python -m sparsejax.study.reproduce optg_5 --list

FLOPs are multiply-adds of one image. The budgets called GS are those of pruning
all layers of a trained network together; ours are the column of Table 10 of
GraNet, where the printed FLOPs need others (596 million).
"""

import pathlib

from sparsejax.study import papers
from sparsejax.training.config import files

_IMAGENET = "imagenet"
_COLUMNS = ("accuracy", "million_macs")
_CELLS = papers.across(("resnet50",), ("sparsity=0.9",))
# It takes what the others leave, so that the sum is the requested one.
_FREE = "stage4_block0/conv2/kernel"


def _budgets(name: str) -> str:
  """Returns the sparsities of a row of GraNet's Table 10, as a change."""
  path = pathlib.Path(__file__).with_name("granet_10.py")
  rows = {row.name: row for row in files.load(path).TABLE.rows}
  shares = tuple(
    f"{layer}={figure.value / 100:.4f}"
    for layer, figure in rows[name].published.items()
    if layer != _FREE
  )
  return f"--config.sparsities={shares}"


TABLE = papers.Table(
  title="OptG with the budgets of others, ResNet-50 on ImageNet at 90 %",
  reference="Zhang et al. (2022), OptG, Table 5",
  columns=_COLUMNS,
  rows=(
    *papers.line(
      "optg-uniform",
      f"{_IMAGENET}:optg,scope=uniform",
      _CELLS,
      "74.12/409",
      columns=_COLUMNS,
    ),
    *papers.line(
      "optg-gs",
      f"{_IMAGENET}:optg,sparsity=0.8967",
      papers.without("sparsity", _CELLS),
      "73.89/697",
      columns=_COLUMNS,
      changes=(_budgets("gs"),),
      note="budgets of the STR repository, 89.67 % in all; theirs have more"
      " FLOPs",
    ),
    *papers.line(
      "optg-erk",
      f"{_IMAGENET}:optg,scope=erk",
      _CELLS,
      "74.39/960",
      columns=_COLUMNS,
    ),
    *papers.line(
      "optg",
      f"{_IMAGENET}:optg",
      _CELLS,
      "74.28/342",
      columns=_COLUMNS,
    ),
  ),
)
