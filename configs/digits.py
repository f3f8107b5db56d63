"""Sparse networks on scikit-learn's digits, on any laptop.

    python -m sparsejax.train --config=configs/digits.py

trains the MLP 64-256-256-10 with GraNet to 90 % sparsity. Behind a colon stand
options, in any number: the method's name first, `sparsity=`, `model=` (mlp,
cnn), `seed=`, and `runlocal` for a run of 22 steps that only shows that all
works:

    --config=configs/digits.py:rigl,sparsity=0.95,model=cnn,seed=3
"""

from ml_collections import ConfigDict, FieldReference

from sparsejax.training import build, options


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the config that an option string asks for."""
  methods = (
    "dense",
    "static",
    "one_shot",
    "gmp",
    "granet",
    "rigl",
    "rigl_itop",
    "set",
  )
  chosen = options.parse(
    arg,
    names=methods,
    words=("runlocal",),
    defaults={"name": "granet", "sparsity": None, "model": "mlp", "seed": 0},
  )
  epochs = FieldReference(1.0 if chosen["runlocal"] else 60.0)
  return ConfigDict(
    {
      "seed": chosen["seed"],
      "epochs": epochs,
      "batch_size": 64,
      "dispatch_steps": 11 if chosen["runlocal"] else 110,
      "log_every_steps": 1 if chosen["runlocal"] else 10,
      "eval_every_epochs": 0.5 if chosen["runlocal"] else 5.0,
      "checkpoint_every_epochs": 0.5 if chosen["runlocal"] else 15.0,
      "forbid_warnings": False,
      "data": build.section("data", "digits"),
      "model": build.section("model", chosen["model"]),
      "optimizer": build.section(
        "optimizer", "sgd", learning_rate=0.1, weight_decay=5e-4
      ),
      "method": _method(chosen["name"], chosen["sparsity"], epochs),
    }
  )


def _method(
  name: str, sparsity: float | None, epochs: FieldReference
) -> dict[str, object]:
  """Returns a method's section: schedules as shares of the run.

  Masks change until half of the run or three quarters of it, as in the papers
  of GraNet and RigL, about once in an epoch.
  """
  given = {
    "dense": {},
    "static": {},
    "one_shot": {"at_epochs": epochs * 0.5},
    "gmp": {"end_epochs": epochs * 0.5, "every_epochs": epochs / 60},
    "granet": {"end_epochs": epochs * 0.5, "every_epochs": epochs / 60},
    "rigl": {"end_epochs": epochs * 0.75, "every_epochs": epochs / 60},
    "rigl_itop": {"every_epochs": epochs / 20},
    "set": {"every_epochs": epochs / 60},
  }[name]
  if sparsity is not None or name != "dense":
    given["sparsity"] = 0.9 if sparsity is None else sparsity
  return build.section("method", name, **given)
