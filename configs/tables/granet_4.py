"""GraNet, Table 4: which sparsity to start from, ResNet-50 on ImageNet.

python -m sparsejax.study.reproduce granet_4 --list
"""

from sparsejax.study import papers

_IMAGENET = "imagenet"
_COLUMNS = ("accuracy", "training", "inference")

TABLE = papers.Table(
  title="ResNet-50 on ImageNet at 90 %, by initial sparsity",
  reference="Liu et al. (2021), GraNet, Table 4",
  columns=_COLUMNS,
  rows=(
    *papers.line(
      "granet",
      f"{_IMAGENET}:granet",
      papers.across(
        ("resnet50",),
        ("sparsity=0.9",),
        (
          "initial_sparsity=0.0",
          "initial_sparsity=0.5",
          "initial_sparsity=0.6",
          "initial_sparsity=0.7",
          "initial_sparsity=0.8",
        ),
      ),
      "74.2/.23/.16 74.5/.25/.20 74.4/.25/.22 74.2/.24/.22 74.1/.25/.24",
      columns=_COLUMNS,
    ),
    *papers.line(
      "rigl",
      f"{_IMAGENET}:rigl,recipe=rigl",
      papers.across(("resnet50",), ("sparsity=0.9",)),
      "73.0/.25/.24",
      columns=_COLUMNS,
      source="quoted from RigL",
    ),
  ),
)
