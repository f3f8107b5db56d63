"""Our own: weight-sparse training against static masks, at one weight in 64.

    python -m sparsejax.study.reproduce weight_sparse --seeds=3

All matrices of `configs/lm.py` are sparse, embedding and output head included,
and both methods have as many active weights in each of them. The number falls
over the first half of training, along a line as in the paper, or along the
cubic of gradual pruning, which leaves more steps to the last weights. The
paper's minimum of 4 per neuron would need more weights than one in 64 in
matrices of 128 rows; it is 1. Choose each method's learning rate by the
validation files, which neither trains on. Runs of both lengths see as many
bytes.
"""

from sparsejax.study import papers

_CELLS = papers.across(
  ("learning_rate=0.003", "learning_rate=0.01", "learning_rate=0.03"),
  ("steps=384", "steps=1536,batch_size=4"),
)
_EVERYWHERE = (
  "--config.select=('*kernel', '*embedding')",
  "--config.data.validation=0.05",
)
_FIRST_HALF = (
  "--config.method.min_per_neuron=1",
  "--config.method.end_epochs=0.5",
)

TABLE = papers.Table(
  title="One weight in 64 of a transformer on Python's source code",
  reference="sparsejax, after Gao et al. (2025)",
  columns=("validation", "bits_per_byte", "connections"),
  rows=(
    *papers.ours(
      "static",
      "lm:static,sparsity=0.984375",
      _CELLS,
      changes=_EVERYWHERE,
    ),
    *papers.ours(
      "weight_sparse",
      "lm:weight_sparse,sparsity=0.984375",
      _CELLS,
      changes=(*_EVERYWHERE, *_FIRST_HALF),
    ),
    *papers.ours(
      "weight_sparse-cubic",
      "lm:weight_sparse,sparsity=0.984375,curve=cubic",
      _CELLS,
      changes=(*_EVERYWHERE, *_FIRST_HALF),
    ),
  ),
)
