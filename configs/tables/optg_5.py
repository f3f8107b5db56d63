"""OptG, Table 5: OptG with the budgets of others, ResNet-50 on ImageNet.

    python -m sparsejax.study.reproduce optg_5 --list

FLOPs are multiply-adds per image. The printed parameters are twice those that
Table 2 has for the same network and sparsity (2.56 million). The GS budgets
come from pruning a trained network with a global scope; ours are those of
GraNet's Table 10, while the printed FLOPs need others (596 million).
"""

import pathlib

from sparsejax.study import papers
from sparsejax.training.config import files

_IMAGENET = "imagenet"
_COLUMNS = ("accuracy", "million_parameters", "million_macs")
_CELLS = papers.across(("resnet50",), ("sparsity=0.9",))
# It makes up for the others, so that the total is the requested one.
_FREE = "stage4_block0/conv2/kernel"


def _budgets(name: str) -> str:
  """Returns a row of GraNet's Table 10 as an argument of the trainer."""
  path = pathlib.Path(__file__).with_name("granet_10.py")
  rows = {row.name: row for row in files.load(path).TABLE.rows}
  shares = tuple(
    f"{layer}={figure.value / 100:.4f}"
    for layer, figure in rows[name].published.items()
    if layer.endswith("/kernel") and layer != _FREE
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
      "74.12/5.12/409",
      columns=_COLUMNS,
    ),
    *papers.line(
      "optg-gs",
      f"{_IMAGENET}:optg,sparsity=0.8967",
      papers.without("sparsity", _CELLS),
      "73.89/5.12/697",
      columns=_COLUMNS,
      changes=(_budgets("gs"),),
      note="budgets of the STR repository, 89.67 % in total; those of the"
      " paper have more FLOPs",
    ),
    *papers.line(
      "optg-erk",
      f"{_IMAGENET}:optg,scope=erk",
      _CELLS,
      "74.39/5.12/960",
      columns=_COLUMNS,
      note="ERK has 989 million FLOPs",
    ),
    *papers.line(
      "optg",
      f"{_IMAGENET}:optg",
      _CELLS,
      "74.28/5.12/342",
      columns=_COLUMNS,
    ),
  ),
)
