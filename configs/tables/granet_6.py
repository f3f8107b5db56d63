"""GraNet, Table 6: retrained masks, and training twice as long.

    python -m sparsejax.study.reproduce granet_6 --seeds=3

The masks of GraNet from a dense start are retrained from the initial weights
(lth) or with learning rate rewinding (lrr). GraNet is trained first.
"""

from sparsejax.study import papers

_CIFAR = "cifar"
_CELLS = papers.across(
  (
    "vgg19,cifar10",
    "vgg19,cifar100",
    "resnet50_cifar,cifar10",
    "resnet50_cifar,cifar100",
  ),
  ("sparsity=0.9", "sparsity=0.95", "sparsity=0.98"),
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
      93.63 93.29 92.46 | 72.97 71.76 69.28
      93.96 93.70 92.94 | 75.74 74.31 71.99
      """,
      changes=("--config.init_mode=rewind",),
      after="granet-0",
    ),
    *papers.line(
      "lrr",
      f"{_CIFAR}:retrain",
      _MASKS,
      """
      93.84 93.72 93.53 | 73.71 73.24 72.50
      94.55 94.39 94.20 | 77.40 76.90 75.75
      """,
      changes=("--config.init_mode=lr_rewind",),
      after="granet-0",
    ),
    *papers.line(
      "granet-0-2x",
      f"{_CIFAR}:granet",
      _CELLS,
      """
      94.17 93.98 93.94 | 74.80 73.65 73.63
      95.09 94.84 94.69 | 78.18 78.17 77.15
      """,
      changes=("--config.epochs_multiplier=2.0",),
    ),
  ),
)
