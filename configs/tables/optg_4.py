"""OptG, Table 4: other methods on OptG's schedule, ResNet-50 on ImageNet.

    python -m sparsejax.study.reproduce optg_4 --list

All start dense; a mask update after every epoch raises the sparsity to 90 %
along equation 16, over the whole run.
"""

from sparsejax.study import papers

_IMAGENET = "imagenet"
_CELLS = papers.across(("resnet50",), ("sparsity=0.9",))
_EQUATION_16 = "recipe=optg,curve=sigmoid,every_epochs=1"

TABLE = papers.Table(
  title="Test accuracy in % of ResNet-50 on ImageNet at 90 %, by equation 16",
  reference="Zhang et al. (2022), OptG, Table 4",
  columns=("accuracy",),
  rows=(
    *papers.line(
      "set",
      f"{_IMAGENET}:set,{_EQUATION_16},distribution=erk",
      _CELLS,
      "67.19",
      note="with the budgets of ERK; those of the paper are not published",
    ),
    *papers.line(
      "rigl",
      f"{_IMAGENET}:rigl,{_EQUATION_16}",
      _CELLS,
      "72.02",
      note="with the budgets of ERK; those of the paper are not published",
    ),
    *papers.line(
      "gmp",
      f"{_IMAGENET}:gmp,{_EQUATION_16},storage=kept",
      _CELLS,
      "73.80",
      note="pruned weights keep their values; the scope is global",
    ),
    *papers.line("optg", f"{_IMAGENET}:optg", _CELLS, "74.28"),
  ),
)
