"""Scholte (2022), Figure 2: regrowth next to active weights, over epochs.

    python -m sparsejax.study.reproduce scholte_fig2

The source material has no figures of the thesis. This is our reading: accuracy
of AccSET that regrows at random, next to an active weight and next to the most,
for 100 epochs, as the text describes the test of its regrowth rules.
"""

from sparsejax.study import papers

_ROWS = ("accset", "accset_near", "accset_most")

TABLE = papers.Table(
  title="Regrowth next to active weights, accuracy over epochs",
  reference="Scholte (2022), Figure 2",
  columns=("accuracy", "loss", "connections"),
  rows=tuple(
    row
    for name in _ROWS
    for row in papers.ours(
      name, f"set_mlp:{name},epochs=100", papers.across(("cifar10",))
    )
  ),
  plot=papers.Plot(y=("test_accuracy",)),
)
