"""GraNet, Table 8: longer training, ResNet-50 on ImageNet.

    python -m sparsejax.study.reproduce granet_8 --list

Training FLOPs are ratios to the dense run of the usual length. GraNet's are
printed as 2.5 times the final inference ratio, which leaves out the denser
network of the first epochs; ours include it.
"""

from sparsejax.study import papers

_IMAGENET = "imagenet"
_COLUMNS = ("accuracy", "training", "inference")
_CELLS = papers.across(("resnet50",), ("sparsity=0.8", "sparsity=0.9"))
_RIGL = "quoted from RigL"

TABLE = papers.Table(
  title="ResNet-50 on ImageNet, trained longer, by sparsity",
  reference="Liu et al. (2021), GraNet, Table 8",
  columns=_COLUMNS,
  rows=(
    *papers.line(
      "small_dense-5x",
      f"{_IMAGENET}:small_dense,recipe=rigl",
      _CELLS,
      "73.9/1.01/.20 71.3/.60/.12",
      columns=_COLUMNS,
      changes=("--config.epochs_multiplier=5.0",),
      source=_RIGL,
    ),
    *papers.line(
      "rigl_itop",
      f"{_IMAGENET}:rigl_itop",
      _CELLS,
      "75.8/.42/.42 73.8/.25/.24",
      columns=_COLUMNS,
      source="of the usual length, from the README of ITOP",
    ),
    *papers.line(
      "rigl_itop-2x",
      f"{_IMAGENET}:rigl_itop",
      _CELLS,
      "76.9/.84/.42 75.5/.50/.24",
      columns=_COLUMNS,
      changes=("--config.epochs_multiplier=2.0",),
      source="quoted from ITOP",
    ),
    *papers.line(
      "rigl-5x",
      f"{_IMAGENET}:rigl,recipe=rigl",
      _CELLS,
      "77.1/2.09/.42 76.4/1.23/.24",
      columns=_COLUMNS,
      changes=("--config.epochs_multiplier=5.0",),
      source=_RIGL,
    ),
    *papers.line(
      "granet-0.5-2.5x",
      f"{_IMAGENET}:granet,initial_sparsity=0.5",
      _CELLS,
      "77.1/.85/.34 76.4/.49/.20",
      columns=_COLUMNS,
      changes=("--config.epochs_multiplier=2.5",),
      note="pruning also ends 2.5 times later, unlike in GraNet's code for"
      " ImageNet",
    ),
  ),
)
