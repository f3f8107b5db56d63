"""GraNet, Table 9: the same sparsity in every layer.

    python -m sparsejax.study.reproduce granet_9 --seeds=3

Its caption says ResNet-32; the rows are of ResNet-50.
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

# A line has VGG-19 (CIFAR-10 | CIFAR-100), then ResNet-50.
TABLE = papers.Table(
  title="Test accuracy in % of uniform pruning, by model, data and sparsity",
  reference="Liu et al. (2021), GraNet, Table 9",
  columns=("accuracy",),
  rows=(
    *papers.line(
      "gmp-uniform",
      f"{_CIFAR}:gmp,scope=uniform",
      _CELLS,
      """
      93.28 92.76 91.64 | 71.88 71.02 66.16
      94.08 94.20 93.66 | 77.30 76.77 75.38
      """,
    ),
    *papers.line(
      "granet-0-uniform",
      f"{_CIFAR}:granet,scope=uniform",
      _CELLS,
      """
      93.12 92.88 91.87 | 72.37 71.48 70.14
      94.19 94.16 93.64 | 77.57 77.15 76.17
      """,
    ),
  ),
)
