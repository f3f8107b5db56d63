"""GraNet, Table 2: VGG-19 and ResNet-50 on CIFAR-10 and CIFAR-100.

    python -m sparsejax.study.reproduce granet_2 --seeds=3

Published are best test accuracies of the epochs after the last pruning. Those
with a deviation are means of three seeds by GraNet's authors. The others are
quoted from SIS and GraSP, which train differently; ours are trained as GraNet.
"""

from sparsejax.study import papers

_CIFAR = "cifar"
_NETWORKS = (
  "vgg19,cifar10",
  "vgg19,cifar100",
  "resnet50_cifar,cifar10",
  "resnet50_cifar,cifar100",
)
_DENSE = papers.across(_NETWORKS)
_SPARSE = papers.across(
  _NETWORKS, ("sparsity=0.9", "sparsity=0.95", "sparsity=0.98")
)
_QUOTED = "quoted from SIS and GraSP"

# A line has VGG-19 (CIFAR-10 | CIFAR-100), then ResNet-50.
TABLE = papers.Table(
  title="Test accuracy in %, by model, data and sparsity",
  reference="Liu et al. (2021), GraNet, Table 2",
  columns=("accuracy",),
  rows=(
    *papers.line(
      "dense",
      f"{_CIFAR}:dense",
      _DENSE,
      """
      93.85±.05 | 73.43±.08
      94.75±.01 | 78.23±.18
      """,
    ),
    *papers.line(
      "snip",
      f"{_CIFAR}:snip",
      _SPARSE,
      """
      93.63 93.43 92.05 | 72.84 71.83 58.46
      92.65 90.86 87.21 | 73.14 69.25 58.43
      """,
      source=_QUOTED,
    ),
    *papers.line(
      "grasp",
      f"{_CIFAR}:grasp",
      _SPARSE,
      """
      93.30 93.04 92.19 | 71.95 71.23 68.90
      92.47 91.32 88.77 | 73.28 70.29 62.12
      """,
      source=_QUOTED,
    ),
    *papers.line(
      "synflow",
      f"{_CIFAR}:synflow",
      _SPARSE,
      """
      93.35 93.45 92.24 | 71.77 71.72 70.94
      92.49 91.22 88.82 | 73.37 70.37 62.17
      """,
      source=_QUOTED,
    ),
    *papers.line(
      "str",
      f"{_CIFAR}:str",
      papers.sought(_SPARSE),
      """
      93.73 93.27 92.21 | 71.93 71.14 69.89
      92.59 91.35 88.75 | 73.45 70.45 62.34
      """,
      source=_QUOTED,
      note="has no sparsity argument: the sparsity follows from the weight"
      " decay and --config.method.initial_threshold, not published for CIFAR;"
      " the three sparsities are one run here",
    ),
    *papers.line(
      "sis",
      None,
      _SPARSE,
      """
      93.99 93.31 93.16 | 72.06 71.85 71.17
      92.81 91.69 90.11 | 73.81 70.62 62.75
      """,
      source="of Verma & Pesquet (2021), Sparsifying networks via"
      " subdifferential inclusion",
      note="solves for sparse weights after training, layer by layer",
    ),
    *papers.line(
      "deep_r",
      f"{_CIFAR}:deep_r",
      _SPARSE,
      """
      90.81 89.59 86.77 | 66.83 63.46 59.58
      - - - | - - -
      """,
      changes=("--config.optimizer.momentum=0.0",),
      source=_QUOTED,
      note="without momentum, as in its paper",
    ),
    *papers.line(
      "set",
      f"{_CIFAR}:set",
      _SPARSE,
      """
      92.46 91.73 89.18 | 72.36 69.81 65.94
      - - - | - - -
      """,
      source=_QUOTED,
    ),
    *papers.line(
      "rigl",
      f"{_CIFAR}:rigl_itop",
      _SPARSE,
      """
      93.38±.11 93.06±.09 91.98±.09 | 73.13±.28 72.14±.15 69.82±.09
      94.45±.43 93.86±.25 93.26±.22 | 76.50±.33 76.03±.34 75.06±.27
      """,
      note="mask updates as in ITOP: their interval, and until the last step",
    ),
    *papers.line(
      "granet-0.5",
      f"{_CIFAR}:granet,initial_sparsity=0.5",
      _SPARSE,
      """
      93.73±.08 93.66±.07 93.38±.15 | 73.30±.13 73.18±.31 72.04±.13
      94.64±.27 94.38±.28 94.01±.23 | 77.89±.33 77.16±.52 77.14±.45
      """,
    ),
    *papers.line(
      "gmp",
      f"{_CIFAR}:gmp",
      _SPARSE,
      """
      93.59±.10 93.58±.07 93.52±.03 | 73.10±.12 72.30±.15 72.07±.37
      94.34±.09 94.52±.08 94.19±.04 | 76.91±.23 76.42±.51 75.58±.20
      """,
    ),
    *papers.line(
      "granet-0",
      f"{_CIFAR}:granet",
      _SPARSE,
      """
      93.80±.10 93.72±.11 93.63±.08 | 73.74±.30 73.10±.04 72.35±.26
      94.49±.08 94.44±.01 94.34±.17 | 77.29±.45 76.71±.26 76.10±.20
      """,
    ),
  ),
)
