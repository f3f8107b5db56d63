"""OptG, Figure 3: budgets of OptG on ImageNet, accuracy over FLOPs.

    python -m sparsejax.study.reproduce optg_fig3 --list

The source material says no more of the figure than that it shows accuracy over
FLOPs, so
the runs are those of Table 5, where FLOPs differ at one sparsity.
FLOPs are multiply-adds per image.
"""

import pathlib

from sparsejax.study import papers
from sparsejax.training.config import files

_TABLE = files.load(pathlib.Path(__file__).with_name("optg_5.py")).TABLE

TABLE = _TABLE._replace(
  reference="Zhang et al. (2022), OptG, Figure 3",
  plot=papers.Plot(x="million_macs", y=("accuracy",)),
)
