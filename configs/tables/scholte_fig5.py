"""Scholte (2022), Figure 5: connections over epochs.

    python -m sparsejax.study.reproduce scholte_fig5

The source material has no figures of the thesis. This is our reading:
connections of the rows of Table 2 over their 1000 epochs.
"""

import pathlib

from sparsejax.study import papers
from sparsejax.training.config import files

_TABLE = files.load(pathlib.Path(__file__).with_name("scholte_2.py")).TABLE

TABLE = _TABLE._replace(
  reference="Scholte (2022), Figure 5",
  plot=papers.Plot(y=("active",)),
)
