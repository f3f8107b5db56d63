"""OptG, Table 3: MobileNet-V1 on ImageNet.

    python -m sparsejax.study.reproduce optg_3 --list

Parameters are the active weights of the kernels; the dense network has 4.21
million, while the paper has 4.12 and counts OptG's from there. FLOPs are
multiply-adds per image; the dense network has 569 million.
"""

from sparsejax.study import papers

_IMAGENET = "imagenet"
_COLUMNS = ("accuracy", "million_parameters", "million_macs")
_STR = "quoted from STR"


def _at(*sparsities: float) -> tuple[papers.Cell, ...]:
  return papers.across(("mobilenet_v1",), [f"sparsity={s}" for s in sparsities])


TABLE = papers.Table(
  title="MobileNet-V1 on ImageNet, by sparsity",
  reference="Zhang et al. (2022), OptG, Table 3",
  columns=_COLUMNS,
  rows=(
    *papers.line(
      "dense",
      f"{_IMAGENET}:dense,recipe=optg",
      papers.across(("mobilenet_v1",)),
      "71.95/4.12/569",
      columns=_COLUMNS,
    ),
    *papers.line(
      "gmp",
      f"{_IMAGENET}:gmp,recipe=dnw,storage=kept,scope=uniform",
      (
        papers.Cell("mobilenet_v1/0.7411", "mobilenet_v1,sparsity=0.75"),
        papers.Cell("mobilenet_v1/0.8903", "mobilenet_v1,sparsity=0.9"),
      ),
      "67.70/1.09/163 61.80/0.46/82",
      columns=_COLUMNS,
      changes=("--config.dense=('stem/*','*_depthwise/*')",),
      source="quoted from Zhu & Gupta (2017)",
      note="trained as STR's code trains GMP; stem and depthwise layers stay"
      " dense, the others end at 75 and 90 %",
    ),
    *papers.line(
      "str",
      f"{_IMAGENET}:str",
      papers.sought(_at(0.7528, 0.7907, 0.8580, 0.8901, 0.8962)),
      """
      68.35/1.04/101 66.52/0.88/81 64.83/0.60/55 62.10/0.46/42 61.51/0.44/40
      """,
      columns=_COLUMNS,
      source=_STR,
      note="has no sparsity argument: this weight decay gives the 89.01 % of"
      " STR's code; the paper's appendix has those of the others",
    ),
    *papers.line(
      "optg",
      f"{_IMAGENET}:optg",
      _at(0.8, 0.9),
      "70.27/0.82/124 66.80/0.41/80",
      columns=_COLUMNS,
      note="70.27 is at 80 %, which the table's text calls 89 %",
    ),
  ),
)
