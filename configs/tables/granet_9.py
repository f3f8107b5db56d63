"""GraNet, Table 9: the same sparsity in every layer.

    python -m sparsejax.study.reproduce granet_9 --seeds=3

As in Gale et al. (2019), the first layer stays dense and the classifier ends at
a sparsity of 80 %; the other layers make up for the classifier. The table's
caption says ResNet-32; the rows are of ResNet-50.
"""

from sparsejax.study import papers

_CIFAR = "cifar"
_SPARSITIES = ("sparsity=0.9", "sparsity=0.95", "sparsity=0.98")


def _network(
  model: str, first: str, dense: str, gmp: str, granet: str
) -> tuple[papers.Row, ...]:
  """Returns the lines of a network, CIFAR-10 | CIFAR-100."""
  data = (f"{model},cifar10", f"{model},cifar100")
  cells = papers.across(data, _SPARSITIES)
  changes = (
    f"--config.dense=('{first}/*',)",
    "--config.sparsities=('classifier/*=0.8',)",
  )
  uniform = "scope=uniform"
  return (
    *papers.line("dense", f"{_CIFAR}:dense", papers.across(data), dense),
    *papers.line(
      "gmp-uniform", f"{_CIFAR}:gmp,{uniform}", cells, gmp, changes=changes
    ),
    *papers.line(
      "granet-0-uniform",
      f"{_CIFAR}:granet,{uniform}",
      cells,
      granet,
      changes=changes,
    ),
  )


TABLE = papers.Table(
  title="Test accuracy in % of uniform pruning, by model, data and sparsity",
  reference="Liu et al. (2021), GraNet, Table 9",
  columns=("accuracy",),
  rows=(
    *_network(
      "vgg19",
      "conv0",
      "93.85±.05 | 73.43±.08",
      "93.28±.04 92.76±.10 91.64±.18 | 71.88±.29 71.02±.27 66.16±.23",
      "93.12±.03 92.88±.08 91.87±.06 | 72.37±.01 71.48±.25 70.14±.18",
    ),
    *_network(
      "resnet50_cifar",
      "stem",
      "94.75±.01 | 78.23±.18",
      "94.08±.14 94.20±.24 93.66±.44 | 77.30±.27 76.77±.02 75.38±.24",
      "94.19±.23 94.16±.26 93.64±.25 | 77.57±.12 77.15±.18 76.17±.15",
    ),
  ),
)
