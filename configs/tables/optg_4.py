"""OptG, Table 4: other methods on OptG's schedule, ResNet-50 on ImageNet.

    python -m sparsejax.study.reproduce optg_4 --list

All start dense; a mask update after every epoch raises the sparsity to 90 %
along equation 16, over the whole run. The printed FLOPs tell the budgets: a
tenth is the same sparsity in all layers, 960 million is ERK. The printed
parameters are twice those that Table 2 has for the same network and sparsity
(2.56 million).
"""

from sparsejax.study import papers

_IMAGENET = "imagenet"
_COLUMNS = ("accuracy", "million_parameters", "million_macs")
_CELLS = papers.across(("resnet50",), ("sparsity=0.9",))
_EQUATION_16 = "recipe=optg,curve=sigmoid,every_epochs=1"

TABLE = papers.Table(
  title="ResNet-50 on ImageNet at 90 %, by equation 16",
  reference="Zhang et al. (2022), OptG, Table 4",
  columns=_COLUMNS,
  rows=(
    *papers.line(
      "set",
      f"{_IMAGENET}:set,{_EQUATION_16},distribution=uniform",
      _CELLS,
      "67.19/5.12/409",
      columns=_COLUMNS,
    ),
    *papers.line(
      "rigl",
      f"{_IMAGENET}:rigl,{_EQUATION_16}",
      _CELLS,
      "72.02/5.12/960",
      columns=_COLUMNS,
      note="ERK has 989 million FLOPs",
    ),
    *papers.line(
      "gmp",
      f"{_IMAGENET}:gmp,{_EQUATION_16},storage=kept,scope=uniform",
      _CELLS,
      "73.80/5.12/409",
      columns=_COLUMNS,
      note="pruned weights keep their values",
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
