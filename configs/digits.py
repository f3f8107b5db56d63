"""Sparse networks on scikit-learn's digits, on any laptop.

    python -m sparsejax.train --config=configs/digits.py

trains the MLP 64-256-256-10 with GraNet to 90 % sparsity; on two CPU cores it
takes about half a minute. Behind a colon stand options, in any number: the
method's name first, `sparsity=`, `model=` (mlp, cnn), `seed=`, and `runlocal`
for a run of an epoch or two that only shows that all works:

    --config=configs/digits.py:rigl,sparsity=0.95,model=cnn,seed=3

Methods that follow an accuracy hold a tenth of the images out for it.
"""

from ml_collections import ConfigDict, FieldReference

from sparsejax.training import plans
from sparsejax.training.config import build, options

# Methods that take no sparsity, or have one of their own.
_UNASKED = ("dense", "retrain", "str")
# Methods that act between two epochs, so that a run needs two.
_BETWEEN_EPOCHS = ("optg", "accset", "lset", "dynset")


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the config that an option string asks for."""
  chosen = options.parse(
    arg,
    names=tuple(_methods(FieldReference(1.0), 0.0)),
    words=("runlocal",),
    defaults={"name": "granet", "sparsity": None, "model": "mlp", "seed": 0},
  )
  runlocal = chosen["runlocal"]
  few = 2.0 if chosen["name"] in _BETWEEN_EPOCHS else 1.0
  epochs = FieldReference(few if runlocal else 200.0)
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
      **build.usual(),
      "data": build.section(
        "data", "digits", validation=144 if chosen["name"] == "accset" else 0
      ),
      "model": build.section("model", chosen["model"]),
      "optimizer": build.section(
        "optimizer", "sgd", learning_rate=0.1, weight_decay=5e-4
      ),
      "method": _method(chosen["name"], chosen["sparsity"], epochs),
      # Globs of parameter names: what is sparse (nothing: every kernel), and
      # what of it stays dense.
      "select": (),
      "dense": (),
    }
  )


def _method(
  name: str, sparsity: float | None, epochs: FieldReference
) -> dict[str, object]:
  """Returns a method's section; every sparse method is requested 90 %."""
  given = _methods(epochs, 0.9 if sparsity is None else sparsity)[name]
  if sparsity is not None:
    given["sparsity"] = sparsity
  elif name not in _UNASKED:
    given["sparsity"] = 0.9
  return build.section("method", name, **given)


def _methods(
  epochs: FieldReference, sparsity: float
) -> dict[str, dict[str, object]]:
  """Returns the schedules of each method, as shares of the run.

  Pruning ends at half of the run as in GraNet's paper, RigL's exchange at
  three quarters as in its paper; both look at the masks 50 times in a run.
  ITOP looks at them less often, so that new weights can grow.
  """
  often, seldom = epochs / 50, epochs / 20
  return {
    "dense": {},
    "static": {},
    "one_shot": {"at_epochs": epochs / 2},
    "gmp": {"end_epochs": epochs / 2, "every_epochs": often},
    "granet": {"end_epochs": epochs / 2, "every_epochs": often},
    "rigl": {"end_epochs": epochs * 0.75, "every_epochs": often},
    "rigl_itop": {"every_epochs": seldom},
    "set_itop": {"every_epochs": seldom},
    "set": {"every_epochs": often},
    "accset": {},
    "lset": {},
    "dynset": {},
    "snfs": {"every_epochs": often},
    # An eighth of the active weights, as for the paper's residual networks.
    "dsr": {
      "every_epochs": often,
      "end_epochs": epochs * 0.9,
      "prune_count": 1000,
    },
    "deep_r": {},
    "optg": {},
    "dpf": {"end_epochs": epochs / 2},
    "dnw": {},
    # Twice as many weights learn as are used.
    "top_kast": {"backward_sparsity": round(max(0.0, 2 * sparsity - 1), 6)},
    "str": {"initial_threshold": -6.0},
    "sr_ste": {},
    **{name: {} for name in plans.METHODS},
  }
