"""Scholte (2022), Figure 4: loss over epochs.

    python -m sparsejax.study.reproduce scholte_fig4

The source material has no figures of the thesis. This is our reading: test loss
of the rows of Table 2 over their 1000 epochs.
"""

import pathlib

from sparsejax.study import papers
from sparsejax.training.config import files

_TABLE = files.load(pathlib.Path(__file__).with_name("scholte_2.py")).TABLE

TABLE = _TABLE._replace(
  reference="Scholte (2022), Figure 4",
  plot=papers.Plot(y=("test_loss",)),
)
