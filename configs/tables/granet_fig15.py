"""GraNet, Figure 15: FLOPs over the time of training.

    python -m sparsejax.study.reproduce granet_fig15

Inference FLOPs of the network at every moment, and training FLOPs up to there,
as fractions of the dense network's, of ResNet-50 on ImageNet at 90 %. The
source material says no more of the figure than that it shows FLOPs over time;
the methods are those of Table 3 whose sparsity or masks change, and the static
network for comparison.
"""

from sparsejax.study import papers

_CELLS = papers.across(("resnet50",), ("sparsity=0.9",))
_LINES = {
  "static": "imagenet:static",
  "gmp": "imagenet:gmp",
  "rigl": "imagenet:rigl,recipe=rigl",
  "granet-0.5": "imagenet:granet,initial_sparsity=0.5",
  "granet-0": "imagenet:granet",
}

TABLE = papers.Table(
  title="FLOPs of ResNet-50 on ImageNet at 90 %, over time",
  reference="Liu et al. (2021), GraNet, Figure 15",
  columns=("training", "inference"),
  rows=tuple(
    row
    for name, config in _LINES.items()
    for row in papers.ours(name, config, _CELLS)
  ),
  plot=papers.Plot(y=("inference_flops_ratio", "training_flops_ratio")),
)
