"""GraNet, Table 10: the sparsity of every layer of ResNet-50 on ImageNet.

    python -m sparsejax.study.reproduce granet_10 --list

A column of the paper's table is a row here: the sparsity in % of all kernels,
of all but the classifier, and of each of the 54 kernels, in the order stem,
then per block conv1, conv2, conv3 and (in the first block of a stage) shortcut,
then classifier. The first two rows are sizes.
"""

from sparsejax.study import papers

_IMAGENET = "imagenet"
_TOTALS = ("overall", "backbone")
_STR = "from the STR repository, rounded in the table"


def _layers() -> tuple[str, ...]:
  """Returns the names of the kernels, in the order of the network."""
  names = ["stem"]
  for stage, blocks in enumerate((3, 4, 6, 3), 1):
    for block in range(blocks):
      parts = ["conv1", "conv2", "conv3", *["shortcut"][: block == 0]]
      names += [f"stage{stage}_block{block}/{part}" for part in parts]
  return tuple(f"{name}/kernel" for name in [*names, "classifier"])


_COLUMNS = (*_TOTALS, *_layers())


def _column(
  name: str,
  config: str | None,
  percent: str,
  *,
  source: str = "",
  note: str = "",
) -> papers.Row:
  """Returns the row of a column: the totals, then the layers."""
  published = papers.figures("/".join(percent.split()), _COLUMNS)
  return papers.Row(name, config, published, source=source, note=note)


TABLE = papers.Table(
  title="Sparsity in % of the layers of ResNet-50 on ImageNet, at 90 %",
  reference="Liu et al. (2021), GraNet, Table 10",
  columns=_COLUMNS,
  rows=(
    _column(
      "parameters",
      None,
      """
      25502912 23454912 9408 4096 36864 16384 16384 16384 36864 16384 16384
      36864 16384 32768 147456 65536 131072 65536 147456 65536 65536 147456
      65536 65536 147456 65536 131072 589824 262144 524288 262144 589824 262144
      262144 589824 262144 262144 589824 262144 262144 589824 262144 262144
      589824 262144 524288 2359296 1048576 2097152 1048576 2359296 1048576
      1048576 2359296 1048576 2048000
      """,
      source="of the dense network",
      note="not a sparsity: weights of each layer",
    ),
    _column(
      "flops",
      None,
      """
      8178569216 8174272512 118013952 236027904 231211008 102760448 102760448
      102760448 231211008 102760448 102760448 231211008 102760448 205520896
      231211008 102760448 205520896 102760448 231211008 102760448 102760448
      231211008 102760448 102760448 231211008 102760448 205520896 231211008
      102760448 205520896 102760448 231211008 102760448 102760448 231211008
      102760448 102760448 231211008 102760448 102760448 231211008 102760448
      102760448 231211008 102760448 205520896 231211008 51380224 205520896
      102760448 231211008 102760448 205520896 231211008 102760448 4096000
      """,
      source="of the dense network",
      note="not a sparsity: twice the multiply-adds of each layer, in the total"
      " also those of the pooling; misprinted are stem and stage4_block0/conv3"
      " (half), stage4_block2/conv1 (double) and stage1_block0/conv1 (the"
      " stem's)",
    ),
    _column(
      "granet-0",
      f"{_IMAGENET}:granet,resnet50,sparsity=0.9",
      """
      89.99 89.89
      53.5 54.6 78.8 78.0 79.3 76.6 76.7 74.1 72.2 72.7 73.2 68.3 77.5 71.7 90.3
      85.2 85.3 80.0 82.6 83.2 79.3 81.1 82.1 82.4 72.8 84.6 78.0 95.3 91.3 91.1
      85.1 90.1 90.1 86.7 89.2 90.9 88.5 88.9 92.2 90.3 88.3 92.3 89.2 80.2 89.8
      84.7 99.0 93.1 93.6 90.3 87.3 91.7 85.0 91.3
      """,
    ),
    _column(
      "granet-0.5",
      f"{_IMAGENET}:granet,initial_sparsity=0.5,resnet50,sparsity=0.9",
      """
      89.98 90.65
      40.6 43.4 64.5 67.4 72.9 67.3 62.1 54.5 58.8 58.5 57.3 49.3 69.1 61.1 86.8
      83.0 81.1 68.6 80.7 82.4 76.4 77.1 83.4 77.3 61.0 83.3 69.7 95.2 91.4 93.1
      81.5 89.7 93.4 83.9 91.0 94.2 87.5 89.6 94.7 88.6 87.5 94.9 87.9 72.8 93.6
      82.4 99.2 95.6 97.3 90.8 87.1 96.8 83.4 82.4
      """,
    ),
    _column(
      "uniform",
      f"{_IMAGENET}:gmp,recipe=dnw,storage=kept,scope=uniform,resnet50,sparsity=0.9",
      "90 " * 56,
      source=_STR,
      note="gradual pruning as in STR's code",
    ),
    _column(
      "erk",
      f"{_IMAGENET}:rigl,recipe=rigl,resnet50,sparsity=0.9",
      """
      90.07 89.82
      58 0 82 4 4 4 82 4 4 82 4 43 91 52 71 52 91 52 52 91 52 52 91 52 71 96 76
      86 76 96 76 76 96 76 76 96 76 76 96 76 76 96 76 86 98 88 93 88 98 88 88 98
      88 93
      """,
      note="rounded in print; RigL never changes these budgets",
    ),
    _column(
      "snfs",
      f"{_IMAGENET}:snfs,recipe=rigl,resnet50,sparsity=0.9",
      """
      90.06 89.44
      2.5 2.5 2.5 2.5 2.5 2.5 2.5 2.5 2.5 2.5 2.5 2.5 62.9 11.0 66.1 32.6 61.6
      20.8 29.1 63.9 22.9 27.6 65.3 25.7 48.7 90.2 73.3 93.7 81.1 90.4 78.1 80.4
      90.8 79.3 80.7 90.7 79.0 79.4 91.0 79.0 78.3 91.0 78.2 85.8 97.6 93.2 98.8
      94.1 97.7 94.2 93.6 97.9 94.5 97.1
      """,
      source=_STR,
    ),
    _column(
      "str",
      f"{_IMAGENET}:str,resnet50",
      """
      90.23 92.47
      59.80 83.28 89.48 85.80 83.34 89.89 90.60 91.70 88.07 87.03 90.99 85.95
      93.91 93.13 94.96 95.31 91.50 93.66 94.61 94.86 93.38 93.26 93.21 94.14
      88.85 96.14 93.19 97.20 95.36 95.06 94.84 96.77 95.59 94.99 96.08 96.10
      94.94 95.49 95.66 94.49 95.09 94.92 93.14 90.32 95.66 91.14 96.79 93.69
      93.98 90.48 87.57 84.37 80.29 64.50
      """,
      source=_STR,
      note="has no sparsity argument; this is the run of its code, at 90.23 %",
    ),
    _column(
      "vd",
      None,
      """
      90.27 91.41
      31.39 39.50 67.87 64.87 60.38 61.35 64.38 65.83 68.75 70.86 54.05 57.10
      78.65 85.49 79.96 72.07 84.41 79.19 73.94 78.48 78.09 78.66 84.38 82.07
      66.56 87.92 92.19 88.76 91.79 92.47 88.88 84.86 91.50 81.59 76.64 91.26
      85.46 85.33 91.57 86.19 84.64 91.14 84.09 77.90 96.53 93.52 93.80 94.96
      97.76 94.53 94.19 94.92 89.64 77.17
      """,
      source=_STR,
      note="variational dropout, not in the library",
    ),
    _column(
      "gs",
      None,
      """
      89.54 90.95
      35.11 56.05 75.04 70.31 66.88 75.09 80.42 80.00 75.21 74.95 79.28 70.89
      85.39 83.54 88.36 88.25 85.37 86.53 86.40 88.29 85.87 84.87 87.14 86.84
      78.40 92.93 86.19 94.66 93.60 93.07 90.54 93.44 93.73 91.13 93.18 93.63
      91.63 91.98 94.21 91.63 90.72 93.43 89.56 85.35 95.07 89.21 96.72 92.69
      93.85 89.84 85.91 87.14 80.65 73.43
      """,
      source=_STR,
      note="budgets of pruning with a global scope; the training of that"
      " network is not published",
    ),
  ),
)
