"""Scholte (2022), Table 2: SET with connectivity that follows a metric.

    python -m sparsejax.study.reproduce scholte_2

The MLP of SET on CIFAR-10 for 1000 epochs; connections are the active weights
of the three sparse layers. In the paper the methods follow a metric of the test
split; ours hold out a tenth of the training images.
"""

from sparsejax.study import papers

_COLUMNS = ("accuracy", "loss", "connections", "alpha", "beta")
_LINES = {
  "set": "66.82/.9411/342493/1.95/322320.16",
  "accset": "64.94/.9810/218730/2.97/214574.13",
  "lset": "66.11/.9524/254087/2.60/241992.46",
  "dynset": "66.53/.9475/253916/2.62/240585.41",
  "dynset2": "65.82/.9640/242430/2.72/233702.52",
  "dynset3": "65.22/.9802/218322/2.99/213999.22",
}

TABLE = papers.Table(
  title="SET, AccSET, LSET and DynSET on CIFAR-10",
  reference="Scholte (2022), Table 2",
  columns=_COLUMNS,
  rows=tuple(
    row
    for name, published in _LINES.items()
    for row in papers.line(
      name,
      f"set_mlp:{name}",
      papers.across(("cifar10",)),
      published,
      columns=_COLUMNS,
    )
  ),
)
