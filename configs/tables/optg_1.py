"""OptG, Table 1: VGG-19 and ResNet-50 on CIFAR-10 and CIFAR-100.

    python -m sparsejax.study.reproduce optg_1 --list

The table's other lines are those of GraNet's Table 2 (`granet_2`), some shifted
by a column. OptG's code has another ResNet-50 (`resnet50_6n2`, a seventh of the
size); the table's dense accuracies are those of the bottleneck network, which
is trained here.
"""

from sparsejax.study import papers

_CIFAR = "cifar"
_SPARSITIES = ("sparsity=0.9", "sparsity=0.95")


def _networks(vgg: str) -> tuple[str, ...]:
  return (
    f"{vgg},cifar10",
    f"{vgg},cifar100",
    "resnet50_cifar,cifar10",
    "resnet50_cifar,cifar100",
  )


# A line has VGG-19 (CIFAR-10 | CIFAR-100), then ResNet-50.
TABLE = papers.Table(
  title="Test accuracy in %, by model, data and sparsity",
  reference="Zhang et al. (2022), OptG, Table 1",
  columns=("accuracy",),
  rows=(
    *papers.line(
      "granet-0",
      f"{_CIFAR}:granet",
      papers.across(_networks("vgg19"), _SPARSITIES),
      "93.80 93.72 | 73.74 73.10 | 94.49 94.44 | 77.29 76.71",
      source="quoted from GraNet",
    ),
    *papers.line(
      "optg",
      f"{_CIFAR}:optg",
      papers.across(_networks("vgg19_optg"), _SPARSITIES),
      "93.84 93.72 | 73.80 73.24 | 94.55 94.56 | 77.41 77.02",
      note="alpha 0.5 and weight decay as in the paper; its code has alpha 1"
      " and half the decay",
    ),
  ),
)
