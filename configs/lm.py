"""Sparse transformers that predict the next byte.

    python -m sparsejax.train --config=lm:granet,sparsity=0.8

trains a transformer of a million parameters on the source code of Python's own
standard library, which is on every machine. Options follow a colon, in any
order: the method, the data (`stdlib`, `tiny_shakespeare` of TensorFlow
Datasets, or `text_folder` with `--config.data.path=DIR`) and

    size=              1m, 10m, 30m, 85m, 300m, 1b, 3b, 8b
    context=           bytes that the model reads at once (128)
    steps=             of the run (384)
    batch_size=        windows per step (16)
    learning_rate=     peak, after a warmup of a tenth of the steps
    dtype=             float32, or bfloat16 for the computation
    seed=

and arguments of the method: `sparsity=`, `regrow_fraction=`, `scope=`, ...
`runlocal` trains a tiny model for 20 steps. Sparse are the matrices of
attention and of the feed-forward layers of each block; embedding, norms and
output head are dense.

Sparse pre-training, then dense fine-tuning:

    --config=lm:granet,sparsity=0.8 --workdir=runs/sparse
    --config=lm:release --config.init_from=runs/sparse

The second command trains the weights of the first at a lower learning rate, and
lets all weights learn from a tenth of its steps on (`config.method.at_epochs`).
"""

from typing import Any

from ml_collections import ConfigDict, FieldReference

from sparsejax.data import stdlib_digest
from sparsejax.training.config import keys, options, sections

_DATA = ("stdlib", "tiny_shakespeare", "text_folder")
_TEST_WINDOWS = 256
# They start from the weights of another run.
_OF_ANOTHER_RUN = ("release", "retrain", "wanda", "ria", "sparsegpt")
# Methods that follow a validation metric hold out files for it.
_VALIDATION = ("accset", "lset", "dynset")


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the config of an option string."""
  chosen = _parse(arg)
  runlocal = chosen["runlocal"]
  steps, batch_size = chosen["steps"], chosen["batch_size"]
  if runlocal:
    steps, batch_size = 20, 4
  context = 32 if runlocal else chosen["context"]
  # One epoch, so that no window is seen twice.
  epochs = FieldReference(2.0 if runlocal else 1.0)
  per_epoch = steps // 2 if runlocal else steps
  retrains = chosen["method"] in _OF_ANOTHER_RUN
  return ConfigDict(
    {
      "seed": chosen["seed"],
      "epochs": epochs,
      "batch_size": batch_size,
      "dispatch_steps": 5 if runlocal else 32,
      "log_every_steps": 1 if runlocal else 16,
      "eval_every_epochs": epochs / (2 if runlocal else 4),
      "checkpoint_every_epochs": epochs / (2 if runlocal else 4),
      "forbid_warnings": False,
      "label_smoothing": 0.0,
      "ema_decay": 0.0,
      **keys.defaults(),
      "init_mode": "lr_rewind" if retrains else "rewind",
      "data": _data(chosen, context, per_epoch * batch_size),
      "model": sections.section(
        "model",
        "transformer",
        size="tiny" if runlocal else chosen["size"],
        dtype=chosen["dtype"],
      ),
      "optimizer": sections.section(
        "optimizer",
        "adamw",
        learning_rate=chosen["learning_rate"] * (0.1 if retrains else 1.0),
        b2=0.95,
        weight_decay=0.1,
        undecayed=("*norm/scale", "embed/*"),
        warmup_epochs=epochs / 10,
      ),
      "method": _method(chosen, epochs),
      # Globs of parameter names: sparse layers (none: the matrices of the
      # blocks), and the exceptions that stay dense.
      "select": (),
      "dense": (),
    }
  )


def _parse(arg: str | None) -> dict[str, Any]:
  return options.parse(
    arg,
    words=("runlocal",),
    groups={"method": sections.names("method"), "data": _DATA},
    defaults={
      "method": "granet",
      "data": "stdlib",
      "size": "1m",
      "context": 128,
      "steps": 384,
      "batch_size": 16,
      "learning_rate": 3e-3,
      "dtype": "float32",
      "seed": 0,
      **options.METHOD_OPTIONS,
    },
  )


def _data(chosen: dict[str, Any], context: int, windows: int) -> dict[str, Any]:
  """Returns the data section: as many windows as an epoch has."""
  given: dict[str, Any] = {}
  if chosen["data"] == "stdlib":
    given["digest"] = stdlib_digest()
  if chosen["data"] != "tiny_shakespeare" and chosen["method"] in _VALIDATION:
    given["validation"] = 0.05
  test = 64 if chosen["runlocal"] else _TEST_WINDOWS
  return sections.section(
    "data",
    chosen["data"],
    context=context,
    train_bytes=(windows + 1) * context,
    test_bytes=test * context + 1,
    **given,
  )


def _method(chosen: dict[str, Any], epochs: FieldReference) -> dict[str, Any]:
  """Returns the method's section: pruning ends at three quarters of the run."""
  name, sparsity = chosen["method"], chosen["sparsity"]
  default = 0.8 if sparsity is None else sparsity
  every = epochs / (4 if chosen["runlocal"] else 32)
  own = sections.equal_sparsities(name)
  own |= _arguments(epochs, every, default).get(name, {})
  if name == "sr_ste" and sparsity is None:
    own |= {"sparsity": None, "n": 2, "m": 4}
  return sections.section(
    "method",
    name,
    fill={
      "sparsity": 0.8,
      "at_epochs": epochs / 2,
      "end_epochs": epochs * 0.75,
      "every_epochs": every,
    },
    **options.update(own, chosen),
  )


def _arguments(
  epochs: FieldReference, every: FieldReference, sparsity: float
) -> dict[str, dict[str, Any]]:
  """Returns what single methods need besides the common schedule."""
  return {
    "dsr": {"end_epochs": epochs * 0.9, "prune_count": 5000},
    # The 100 steps of its paper are a quarter of this run.
    "rigl": {"every_epochs": every},
    # Twice as many weights learn as are used.
    "top_kast": {"backward_sparsity": round(max(0.0, 2 * sparsity - 1), 6)},
    "str": {"initial_threshold": -6.0},
    # By default it keeps the masks of the earlier run.
    "retrain": {"sparsity": None},
    "release": {"at_epochs": epochs / 10},
  }
