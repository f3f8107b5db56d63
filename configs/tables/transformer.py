"""Our own: a transformer of a million parameters on Python's source code.

    python -m sparsejax.study.reproduce transformer --seeds=3

All rows train `configs/lm.py`, 512 steps of 16 windows of 128 bytes, two to
three minutes each on two CPU cores. All matrices are equally sparse, but those
of 2:4 have two weights of every four along the inputs.
"""

from sparsejax.study import papers

_CELLS = papers.across(("sparsity=0.5", "sparsity=0.8", "sparsity=0.9"))

TABLE = papers.Table(
  title="A transformer of a million parameters on Python's source code",
  reference="sparsejax",
  columns=("bits_per_byte", "perplexity", "inference", "training"),
  rows=(
    papers.Row("dense", "lm:dense", {}),
    *papers.ours("static", "lm:static", _CELLS),
    *papers.ours("rigl", "lm:rigl", _CELLS),
    *papers.ours("gmp", "lm:gmp", _CELLS),
    *papers.ours("granet", "lm:granet", _CELLS),
    papers.Row("sr_ste/2:4", "lm:sr_ste", {}),
  ),
)
