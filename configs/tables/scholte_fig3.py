"""Scholte (2022), Figure 3: accuracy over epochs.

    python -m sparsejax.study.reproduce scholte_fig3

The source material has no figures of the thesis. This is our reading: test
accuracy of the rows of Table 2 over their 1000 epochs.
"""

import pathlib

from sparsejax.study import papers
from sparsejax.training.config import files

_TABLE = files.load(pathlib.Path(__file__).with_name("scholte_2.py")).TABLE

TABLE = _TABLE._replace(
  reference="Scholte (2022), Figure 3",
  plot=papers.Plot(y=("test_accuracy",)),
)
