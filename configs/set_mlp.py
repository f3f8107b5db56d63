"""The MLP of SET, and connectivity that follows a metric.

    python -m sparsejax.train --config=set_mlp:cifar10,dynset

is a row of Scholte (2022), Table 2: the network 3072-4000-1000-4000-10, its
last layer dense, for 1000 epochs. Options, in any order: the data (`cifar10`,
or `digits` with a network of a tenth of the width), the row, `seed=`,
`epochs=`, `activation=` (leaky_relu, srelu) and `runlocal`: two epochs of a
small network on digits. Rows:

    set accset lset          as in the papers
    dynset dynset2 dynset3   DynSET by training loss, validation loss, accuracy
    set_paused               SET with the gate of DynSET2: it does not shrink
    set_more                 SET that regrows more than it pruned
    accset_more              AccSET that may grow beyond its first connections
    accset_near accset_most  AccSET that regrows next to at least one active
                             neighbor, or next to the most

Momentum restarts at every mask update, as in SET's code. The papers' algorithms
also prune after the last epoch, without regrowth; the connections that they
report are those before, so `--config.method.prune_last` is off. A tenth of the
training images are held out, where the paper uses the test split.

`python -m sparsejax.data.prepare cifar10 --download` prepares CIFAR-10.
"""

from typing import Any

from ml_collections import ConfigDict

from sparsejax.training.config import keys, options, sections

# As in the other rows: evaluated before the mask update.
_EVERY_EPOCH = {
  "every_epochs": 1.0,
  "masks_first": True,
  "reset_optimizer": True,
}
# Row: method, its arguments, the source of `metric=`.
_ROWS: dict[str, tuple[str, dict[str, Any], str | None]] = {
  "set": ("set", _EVERY_EPOCH, None),
  "accset": ("accset", {}, "validation_accuracy"),
  "lset": ("lset", {}, "train_loss"),
  "dynset": ("dynset", {}, "train_loss"),
  "dynset2": ("dynset", {}, "validation_loss"),
  "dynset3": ("dynset", {"drives": "accuracy"}, "validation_accuracy"),
  "set_paused": ("dynset", {"connectivity": 1.0}, "validation_loss"),
  "set_more": ("set", {**_EVERY_EPOCH, "connectivity": 2.0}, None),
  "accset_more": ("accset", {"most": 2.0}, "validation_accuracy"),
  "accset_near": (
    "accset",
    {"regrow_by": "near_active"},
    "validation_accuracy",
  ),
  "accset_most": (
    "accset",
    {"regrow_by": "most_active_neighbors"},
    "validation_accuracy",
  ),
}
_SIZES: dict[str, dict[str, Any]] = {
  "cifar10": {
    "data": {"augment": "affine", "per_pixel": True},
    "hidden": (4000, 1000, 4000),
    "epsilon": 20.0,
    "epochs": 1000.0,
    "batch_size": 100,
    # A constant learning rate.
    "optimizer": {
      "learning_rate": 0.01,
      "schedule": "drops",
      "drop_factor": 1.0,
    },
    "dispatch_steps": 450,
  },
  "digits": {
    "data": {"validation": 144},
    "hidden": (400, 100, 400),
    "epsilon": 5.0,
    "epochs": 100.0,
    "batch_size": 32,
    "optimizer": {"learning_rate": 0.1},  # With the cosine: the run is short.
    "dispatch_steps": 40,
  },
}


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the config of an option string."""
  chosen = options.parse(
    arg,
    words=("runlocal",),
    groups={"data": tuple(_SIZES), "row": tuple(_ROWS)},
    defaults={
      "data": "cifar10",
      "row": "set",
      "seed": 0,
      "epochs": float,
      "activation": "leaky_relu",
    },
  )
  runlocal = chosen["runlocal"]
  name = "digits" if runlocal else chosen["data"]
  size = _SIZES[name]
  method, given, metric = _ROWS[chosen["row"]]
  usual = 2.0 if runlocal else size["epochs"]
  epochs = usual if chosen["epochs"] is None else chosen["epochs"]
  return ConfigDict(
    {
      "seed": chosen["seed"],
      "epochs": epochs,
      "batch_size": size["batch_size"],
      # One dispatch per epoch, of digits and of CIFAR-10.
      "dispatch_steps": size["dispatch_steps"],
      "log_every_steps": size["dispatch_steps"],
      "eval_every_epochs": 1.0,
      "checkpoint_every_epochs": 1.0 if runlocal else 10.0,
      "forbid_warnings": False,
      "label_smoothing": 0.0,
      "ema_decay": 0.0,
      **keys.defaults(),
      "metric": metric,
      "data": sections.section("data", name, **size["data"]),
      "model": sections.section(
        "model",
        "set_mlp",
        hidden=(40, 20) if runlocal else size["hidden"],
        activation=chosen["activation"],
      ),
      "optimizer": sections.section(
        "optimizer", "sgd", nesterov=False, **size["optimizer"]
      ),
      "method": sections.section(
        "method", method, epsilon=size["epsilon"], **given
      ),
      "select": (),
      "dense": ("output/*",),
    }
  )
