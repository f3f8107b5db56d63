"""Our own: a transformer of a million parameters on Python's source code.

    python -m sparsejax.study.reproduce transformer --seeds=3

The rows train `configs/lm.py`, 384 steps of 16 windows of 128 bytes. All
matrices are equally sparse; those of 2:4 have two weights of every four along
the inputs. Wanda and SparseGPT prune the dense run of the same seed, and
fine-tune it for 64 steps at a tenth of the learning rate.
"""

from sparsejax.study import papers

_CELLS = papers.across(("sparsity=0.5", "sparsity=0.8", "sparsity=0.9"))
_TWO_OF_FOUR = (
  "--config.method.sparsity=none",
  "--config.method.n=2",
  "--config.method.m=4",
)


def _calibrated(name: str) -> tuple[papers.Row, ...]:
  """Returns the rows of a method that prunes the dense run."""
  rows = papers.ours(name, f"lm:{name},steps=64", _CELLS)
  pattern = papers.Row(f"{name}-2:4", f"lm:{name},steps=64", {}, _TWO_OF_FOUR)
  return tuple(row._replace(after="dense") for row in (*rows, pattern))


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
    *papers.ours("weight_sparse", "lm:weight_sparse", _CELLS),
    *_calibrated("wanda"),
    *_calibrated("sparsegpt"),
    papers.Row("rigl-2:4", "lm:rigl,granularity=n_of_m,sparsity=0.5", {}),
    papers.Row("sr_ste-2:4", "lm:sr_ste", {}),
  ),
  plot=papers.Plot(y=("bits_per_byte",), x="overall", levels=("dense",)),
)
