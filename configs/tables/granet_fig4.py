"""GraNet, Figure 4: masks of GraNet and GMP, trained from other weights.

    python -m sparsejax.study.reproduce granet_fig4 --seeds=3

The masks that GraNet and GMP find are trained again from newly initialized
weights. The figure's numbers are not printed: the text says that this is far
below the original runs, and that GraNet's masks stay above those of GMP. The
numbers of the original runs are those of Table 2.
"""

from sparsejax.study import papers

_CIFAR = "cifar"
_CELLS = papers.across(
  (
    "vgg19,cifar10",
    "vgg19,cifar100",
    "resnet50_cifar,cifar10",
    "resnet50_cifar,cifar100",
  ),
  ("sparsity=0.9", "sparsity=0.95", "sparsity=0.98"),
)
# The sparsity is that of the masks.
_MASKS = papers.without("sparsity", _CELLS)
_COLUMNS = ("accuracy", "overall")
_OTHER_SEED = 1000


def _lines(method: str, published: str) -> tuple[papers.Row, ...]:
  """Returns a method's runs, and those from other weights."""
  sparsities = [cell.name.rpartition("/")[2] for cell in _CELLS]
  figures = " ".join(
    f"{accuracy}/{100 * float(sparsity):g}"
    for accuracy, sparsity in zip(published.split(), sparsities, strict=True)
  )
  original = papers.line(
    method, f"{_CIFAR}:{method}", _CELLS, figures, columns=_COLUMNS
  )
  again = papers.ours(
    f"{method}-reinit",
    f"{_CIFAR}:retrain",
    _MASKS,
    changes=("--config.init_mode=reinit",),
    after=method,
    seed_shift=_OTHER_SEED,
    note="the masks of the same row, from another seed's initial weights",
  )
  return (*original, *again)


TABLE = papers.Table(
  title="Test accuracy in % of masks from other initial weights",
  reference="Liu et al. (2021), GraNet, Figure 4",
  columns=_COLUMNS,
  rows=(
    *_lines(
      "granet",
      """
      93.80±.10 93.72±.11 93.63±.08 73.74±.30 73.10±.04 72.35±.26
      94.49±.08 94.44±.01 94.34±.17 77.29±.45 76.71±.26 76.10±.20
      """,
    ),
    *_lines(
      "gmp",
      """
      93.59±.10 93.58±.07 93.52±.03 73.10±.12 72.30±.15 72.07±.37
      94.34±.09 94.52±.08 94.19±.04 76.91±.23 76.42±.51 75.58±.20
      """,
    ),
  ),
  plot=papers.Plot(x="overall", y=("accuracy",)),
)
