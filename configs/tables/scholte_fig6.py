"""Scholte (2022), Figure 6: pauses of DynSET, accuracy and connections.

    python -m sparsejax.study.reproduce scholte_fig6

The source material has no figures of the thesis. This is our reading: SET, SET
with the gate of DynSET alone, LSET and DynSET, to tell the gate from the fewer
connections.
"""

from sparsejax.study import papers

_ROWS = ("set", "set_paused", "lset", "dynset")

TABLE = papers.Table(
  title="Pauses of DynSET, accuracy and connections",
  reference="Scholte (2022), Figure 6",
  columns=("accuracy", "loss", "connections"),
  rows=tuple(
    row
    for name in _ROWS
    for row in papers.ours(name, f"set_mlp:{name}", papers.across(("cifar10",)))
  ),
  plot=papers.Plot(y=("test_accuracy", "active")),
)
