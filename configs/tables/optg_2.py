"""OptG, Table 2: ResNet-50 on ImageNet.

    python -m sparsejax.study.reproduce optg_2 --list

FLOPs are multiply-adds per image; the dense network has 4,089 million.
"""

from sparsejax.study import papers

_IMAGENET = "imagenet"
_COLUMNS = ("accuracy", "million_macs")
_STR = "quoted from STR"
_GRANET = "quoted from GraNet"


def _at(*sparsities: float) -> tuple[papers.Cell, ...]:
  return papers.across(("resnet50",), [f"sparsity={s}" for s in sparsities])


TABLE = papers.Table(
  title="ResNet-50 on ImageNet, by sparsity",
  reference="Zhang et al. (2022), OptG, Table 2",
  columns=_COLUMNS,
  rows=(
    *papers.line(
      "dense",
      f"{_IMAGENET}:dense,recipe=dnw",
      papers.across(("resnet50",)),
      "77.01/4090",
      columns=_COLUMNS,
      source=_STR,
    ),
    *papers.line(
      "gmp",
      f"{_IMAGENET}:gmp,recipe=rigl,storage=kept,scope=uniform",
      _at(0.9, 0.95, 0.98, 0.99),
      "73.91/- 70.59/- 57.90/- 44.78/-",
      columns=_COLUMNS,
      changes=("--config.dense=('stem/*',)",),
      source="quoted from Gale et al. (2019)",
      note="the classifier is as sparse as the other layers; the paper's is"
      " 80 % sparse at 90 %",
    ),
    *papers.line(
      "dnw",
      f"{_IMAGENET}:dnw",
      _at(0.9, 0.95, 0.98),
      "74.00/- 68.30/- 58.20/-",
      columns=_COLUMNS,
      source=_STR,
    ),
    *papers.line(
      "str",
      f"{_IMAGENET}:str",
      papers.without("sparsity", _at(0.9055, 0.9805)),
      "74.01/341 61.46/-",
      columns=_COLUMNS,
      source=_STR,
      note="has no sparsity argument: this weight decay gives the 90.23 % of"
      " STR's code; the paper's appendix has the decay for others",
    ),
    *papers.line(
      "granet-0",
      f"{_IMAGENET}:granet",
      _at(0.9),
      "74.2/650",
      columns=_COLUMNS,
      source=_GRANET,
    ),
    *papers.line(
      "granet-0.5",
      f"{_IMAGENET}:granet,initial_sparsity=0.5",
      _at(0.95, 0.965),
      "72.3/- 70.5/-",
      columns=_COLUMNS,
      source=_GRANET,
    ),
    *papers.line(
      "optg",
      f"{_IMAGENET}:optg",
      _at(0.9, 0.95, 0.965, 0.98, 0.99),
      "74.28/342 72.38/221 70.85/179 67.20/126 62.10/83",
      columns=_COLUMNS,
      note="the README of OptG's code has 74.55 at 90 % and 72.45 at 95 %",
    ),
  ),
)
