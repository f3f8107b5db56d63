"""Sparse networks on scikit-learn's digits, on any laptop.

    python -m sparsejax.train --config=digits

trains the MLP 64-256-256-10 with GraNet to 90 % sparsity, in about half a
minute on two CPU cores. Options follow a colon, in any number: the method
first, then `sparsity=` and other arguments of the method, `model=` (mlp, cnn),
`seed=`, and `runlocal` for a test run of an epoch or two:

    --config=digits:rigl,sparsity=0.95,model=cnn,seed=3
    --config=digits:granet,model=cnn,granularity=filters,sparsity=0.5

Methods that follow an accuracy hold out a tenth of the images for it.
"""

from typing import Any

from ml_collections import ConfigDict, FieldReference

from sparsejax.training.config import keys, options, sections

# Of 1,438 training images, for methods that follow an accuracy.
_VALIDATION = {"accset": 144}
# They start from the trained weights of another run.
_AFTER_TRAINING = ("wanda", "ria", "sparsegpt")


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the config of an option string."""
  chosen = options.parse(
    arg,
    names=sections.names("method"),
    words=("runlocal",),
    defaults={
      "name": "granet",
      "model": "mlp",
      "seed": 0,
      **options.METHOD_OPTIONS,
    },
  )
  name, runlocal = chosen["name"], chosen["runlocal"]
  # A method that acts between epochs needs two of them.
  short = 2.0 if sections.takes("method", name, "steps_per_epoch") else 1.0
  epochs = FieldReference(short if runlocal else 200.0)
  return ConfigDict(
    {
      "seed": chosen["seed"],
      "epochs": epochs,
      "batch_size": 64,
      "dispatch_steps": 11 if runlocal else 220,
      "log_every_steps": 1 if runlocal else 22,
      "eval_every_epochs": epochs / (2 if runlocal else 20),
      "checkpoint_every_epochs": epochs / (2 if runlocal else 4),
      "forbid_warnings": False,
      "label_smoothing": 0.0,
      "ema_decay": 0.0,
      **keys.defaults(),
      "init_mode": "lr_rewind" if name in _AFTER_TRAINING else "rewind",
      "data": sections.section(
        "data", "digits", validation=_VALIDATION.get(name, 0)
      ),
      "model": sections.section("model", chosen["model"]),
      "optimizer": sections.section(
        "optimizer", "sgd", learning_rate=0.1, weight_decay=5e-4
      ),
      "method": _method(chosen, epochs),
      # Globs of parameter names: sparse layers (none: every kernel), and the
      # exceptions that stay dense.
      "select": (),
      "dense": (),
    }
  )


def _method(chosen: dict[str, Any], epochs: FieldReference) -> dict[str, Any]:
  """Returns the method's section.

  Pruning ends at half of the run, as in GraNet's paper, with 50 mask updates in
  a whole run. Where all layers compete, each keeps a weight, so that nothing
  cuts the small last layer off.
  """
  name = chosen["name"]
  sparsity = 0.9 if chosen["sparsity"] is None else chosen["sparsity"]
  own: dict[str, Any] = {}
  if sections.takes("method", name, "scope"):
    own["scope"] = "global_keep_alive"
  own |= _arguments(epochs, sparsity).get(name, {})
  return sections.section(
    "method",
    name,
    fill={
      "sparsity": 0.9,
      "at_epochs": epochs / 2,
      "end_epochs": epochs / 2,
      "every_epochs": epochs / 50,
    },
    **options.update(own, chosen),
  )


def _arguments(
  epochs: FieldReference, sparsity: float
) -> dict[str, dict[str, Any]]:
  """Returns what single methods need besides the common schedule."""
  return {
    # As in its paper.
    "rigl": {"end_epochs": epochs * 0.75, "every_epochs": epochs / 50},
    # ITOP updates masks less often, so that new weights can grow.
    "rigl_itop": {"every_epochs": epochs / 20},
    "set_itop": {"every_epochs": epochs / 20},
    # An eighth of the active weights, as for the paper's residual networks.
    "dsr": {"end_epochs": epochs * 0.9, "prune_count": 1000},
    # Twice as many weights learn as are used.
    "top_kast": {"backward_sparsity": round(max(0.0, 2 * sparsity - 1), 6)},
    "str": {"initial_threshold": -6.0},
    # The same sparsity in every layer, as in its paper.
    "supermask": {"scope": "uniform"},
    # The last layer has too few weights for a minimum per input.
    "weight_sparse": {"min_per_neuron": 0},
    # By default it keeps the masks of the earlier run.
    "retrain": {"sparsity": None},
  }
