"""GraNet, Table 6: retrained masks, and training twice as long.

    python -m sparsejax.study.reproduce granet_6 --seeds=3

The masks of GraNet from a dense start are retrained from the initial weights
(lth) or with learning rate rewinding (lrr). GraNet is trained first.
"""

from sparsejax.study import papers

_CIFAR = "cifar"
_NETWORKS = (
  "vgg19,cifar10",
  "vgg19,cifar100",
  "resnet50_cifar,cifar10",
  "resnet50_cifar,cifar100",
)
_CELLS = papers.across(
  _NETWORKS, ("sparsity=0.9", "sparsity=0.95", "sparsity=0.98")
)
# The sparsity is that of the masks.
_MASKS = papers.without("sparsity", _CELLS)

# A line has VGG-19 (CIFAR-10 | CIFAR-100), then ResNet-50.
TABLE = papers.Table(
  title="Test accuracy in %, by model, data and sparsity",
  reference="Liu et al. (2021), GraNet, Table 6",
  columns=("accuracy",),
  rows=(
    *papers.line(
      "dense",
      f"{_CIFAR}:dense",
      papers.across(_NETWORKS),
      """
      93.85±.05 | 73.43±.08
      94.75±.01 | 78.23±.18
      """,
    ),
    *papers.line(
      "granet-0",
      f"{_CIFAR}:granet",
      _CELLS,
      """
      93.80±.10 93.72±.11 93.63±.08 | 73.74±.30 73.10±.04 72.35±.26
      94.49±.08 94.44±.01 94.34±.17 | 77.29±.45 76.71±.26 76.10±.20
      """,
      note="as in Table 2",
    ),
    *papers.line(
      "lth",
      f"{_CIFAR}:retrain",
      _MASKS,
      """
      93.63±.04 93.29±.05 92.46±.08 | 72.97±.25 71.76±.22 69.28±.36
      93.96±.10 93.70±.15 92.94±.14 | 75.74±.19 74.31±.10 71.99±.08
      """,
      changes=("--config.init_mode=rewind",),
      after="granet-0",
    ),
    *papers.line(
      "lrr",
      f"{_CIFAR}:retrain",
      _MASKS,
      """
      93.84±.14 93.72±.06 93.53±.04 | 73.71±.08 73.24±.24 72.50±.26
      94.55±.13 94.39±.13 94.20±.25 | 77.40±.14 76.90±.19 75.75±.25
      """,
      changes=("--config.init_mode=lr_rewind",),
      after="granet-0",
    ),
    *papers.line(
      "granet-0-2x",
      f"{_CIFAR}:granet",
      _CELLS,
      """
      94.17±.03 93.98±.07 93.94±.11 | 74.80±.29 73.65±.32 73.63±.05
      95.09±.15 94.84±.11 94.69±.24 | 78.18±.20 78.17±.20 77.15±.29
      """,
      changes=("--config.epochs_multiplier=2.0",),
    ),
  ),
)
