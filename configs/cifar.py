"""The papers' networks on CIFAR-10 and CIFAR-100.

    python -m sparsejax.train --config=configs/cifar.py:vgg19,granet

The option string names a row of a paper's table, such as

    vgg19,cifar100,granet,sparsity=0.98,initial_sparsity=0.5

Model, data set and method stand in any order; the keys are `seed`, `epochs` and
`batch_size` of the run, `sparsity`, `initial_sparsity`, `regrow_fraction`,
`every_steps`, `every_epochs`, `end_epochs`, `distribution`, `scope`, `storage`,
`curve` and `regrow_by` of the method, and
`recipe`: how it is trained. `runlocal` is for 20 steps of a narrow network on
made-up images.

Recipes: `granet` (GraNet's code: 160 epochs, batches of 128, drops at epochs 80
and 120), `itop` (250 epochs), `rigl` (250 epochs, drops to a fifth) and `optg`
(a cosine, batches of 256, all 50,000 images). OptG has the recipe of its paper;
all others have GraNet's, as in its tables, unless another is named. The
perceptron of SET stands in `configs/set_mlp.py`.

Data is prepared by `python -m sparsejax.data.prepare cifar10 --download`.
"""

from typing import Any

from ml_collections import ConfigDict, FieldReference

from sparsejax.training.config import build, options

_MODELS = (
  "resnet20",
  "vgg19",
  "resnet50_cifar",
  "resnet50_6n2",
  "vgg19_optg",
  "vgg_c",
  "vgg_d",
)
_CLASSES = {"cifar10": 10, "cifar100": 100}
# Options that are handed to the method as they are.
_METHOD_KEYS: dict[str, Any] = {
  "sparsity": float,
  "initial_sparsity": float,
  "regrow_fraction": float,
  "every_steps": int,
  "every_epochs": float,
  "end_epochs": float,
  "distribution": str,
  "scope": str,
  "storage": str,
  "curve": str,
  "regrow_by": str,
}
# Methods that take no sparsity, or have one of their own.
_UNASKED = ("dense", "retrain", "str")
# What `runlocal` spares the methods that score the network first.
_FEWER = {"synflow": {"rounds": 3}, "grasp": {"samples_per_class": 2}}
_EVERYTHING = {"train_examples": 50_000}
_STEPPED = {
  "learning_rate": 0.1,
  "schedule": "drops",
  "drop_at": (0.5, 0.75),
  "weight_decay": 5e-4,
}


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the config that an option string asks for."""
  chosen = options.parse(
    arg,
    words=("runlocal",),
    groups={
      "model": _MODELS,
      "data": tuple(_CLASSES),
      "method": tuple(build.KINDS["method"].factories),
      "recipe": tuple(_recipes()),
    },
    defaults={
      "model": "resnet20",
      "data": "cifar10",
      "method": "granet",
      "recipe": str,
      "seed": 0,
      "epochs": float,
      "batch_size": int,
      **_METHOD_KEYS,
    },
  )
  runlocal = chosen["runlocal"]
  usual_recipe = "optg" if chosen["method"] == "optg" else "granet"
  recipe = _recipes()[chosen["recipe"] or usual_recipe]
  usual = 2.0 if runlocal else recipe["epochs"]
  epochs = FieldReference(
    usual if chosen["epochs"] is None else chosen["epochs"]
  )
  # Ten batches hold every class twice.
  small = max(16, _CLASSES[chosen["data"]] // 5)
  batch_size = chosen["batch_size"] or (
    small if runlocal else recipe["batch_size"]
  )
  return ConfigDict(
    {
      "seed": chosen["seed"],
      "epochs": epochs,
      "batch_size": batch_size,
      "dispatch_steps": 5 if runlocal else 100,
      "log_every_steps": 1 if runlocal else 100,
      "eval_every_epochs": epochs / 2 if runlocal else 1.0,
      "checkpoint_every_epochs": epochs / (2 if runlocal else 16),
      "forbid_warnings": False,
      "label_smoothing": 0.0,
      "ema_decay": 0.0,
      **build.usual(),
      "data": _data(chosen, recipe, 10 * batch_size),
      "model": build.section(
        "model", chosen["model"], width=0.125 if runlocal else 1.0
      ),
      "optimizer": _optimizer(chosen, recipe, epochs),
      "method": _method(chosen, recipe, epochs),
      # Globs of parameter names: what is sparse (nothing: every kernel), and
      # what of it stays dense.
      "select": (),
      "dense": recipe.get("dense", ()),
    }
  )


def _recipes() -> dict[str, dict[str, Any]]:
  """Returns how the papers train.

  `exchange` is the interval between two mask updates; `random` that of methods
  that grow at random, where it is another.
  """
  return {
    # Liu et al. (2021), Table 7 and code: Nesterov, decay on all parameters.
    "granet": {
      "epochs": 160.0,
      "batch_size": 128,
      "optimizer": _STEPPED,
      "exchange": {"every_steps": 1000},
    },
    # Liu et al. (2021), "Do we actually need dense over-parameterization?"
    "itop": {
      "epochs": 250.0,
      "batch_size": 128,
      "optimizer": _STEPPED,
      "exchange": {"every_steps": 4000},
      "random": {"every_steps": 1500},
    },
    # Evci et al. (2020): 97,656 steps, drops at 30, 60 and 90 thousand.
    "rigl": {
      "epochs": 250.0,
      "batch_size": 128,
      "optimizer": {
        **_STEPPED,
        "drop_at": (0.3072, 0.6144, 0.9216),
        "drop_factor": 0.2,
      },
      "data": _EVERYTHING,
      "dense": ("*stem*",),
      "exchange": {"every_steps": 100},
    },
    # Zhang et al. (2022): weight decay as in the paper, the rest as in its
    # code.
    "optg": {
      "epochs": 160.0,
      "batch_size": 256,
      "optimizer": {
        "learning_rate": 0.1,
        "nesterov": False,
        "weight_decay": 1e-3,
        "schedule": "epoch_cosine",
      },
      "warmup": 5 / 160,
      "data": {**_EVERYTHING, "padding": "zero"},
      "exchange": {"every_steps": 1000},
    },
  }


def _data(
  chosen: dict[str, Any], recipe: dict[str, Any], examples: int
) -> dict[str, Any]:
  """Returns the data's section; made-up images for `runlocal`."""
  if chosen["runlocal"]:
    classes = _CLASSES[chosen["data"]]
    return build.section(
      "data",
      "synthetic",
      num_classes=classes,
      train_examples=examples,
      validation_examples=classes,
      test_examples=max(classes, 40),
    )
  return build.section("data", chosen["data"], **recipe.get("data", {}))


def _optimizer(
  chosen: dict[str, Any], recipe: dict[str, Any], epochs: FieldReference
) -> dict[str, Any]:
  """Returns the optimizer's section."""
  given = dict(recipe["optimizer"])
  if "warmup" in recipe:
    given["warmup_epochs"] = epochs * recipe["warmup"]
  if chosen["runlocal"]:  # Too short a warm-up, for so small a network.
    given["learning_rate"] = 0.01
  return build.section("optimizer", "sgd", **given)


def _method(
  chosen: dict[str, Any], recipe: dict[str, Any], epochs: FieldReference
) -> dict[str, Any]:
  """Returns the method's section; every sparse method is requested 90 %."""
  name = chosen["method"]
  given = _timing(chosen, recipe, epochs).get(name, {})
  if chosen["runlocal"]:
    given = {**given, **_FEWER.get(name, {})}
  if name not in _UNASKED:
    given = {"sparsity": 0.9, **given}
  requested = {
    key: chosen[key] for key in _METHOD_KEYS if chosen[key] is not None
  }
  if "every_epochs" in requested:  # Steps would win.
    given.pop("every_steps", None)
  return build.section("method", name, **{**given, **requested})


def _timing(
  chosen: dict[str, Any], recipe: dict[str, Any], epochs: FieldReference
) -> dict[str, dict[str, Any]]:
  """Returns when each method acts, as GraNet's code has it for 160 epochs.

  From a dense start it prunes until epoch 110, from a sparse one until 80.
  """
  exchange = recipe["exchange"]
  at_random = recipe.get("random", exchange)
  if chosen["runlocal"]:
    exchange = at_random = {"every_steps": 4}
  end = epochs * ((80 if chosen["initial_sparsity"] else 110) / 160)
  if chosen["curve"] == "sigmoid":  # OptG's rises over the whole run.
    end = epochs * 1.0
  return {
    "one_shot": {"at_epochs": epochs / 2},
    "gmp": {"end_epochs": end, **exchange},
    "dpf": {"end_epochs": end},
    "granet": {"end_epochs": end, **exchange},
    "rigl": {"end_epochs": epochs * 0.75, **exchange},
    "rigl_itop": exchange,
    # Others than its authors remove the smallest whatever their sign.
    "set": {"by_sign": False, **at_random},
    "set_itop": at_random,
    "snfs": exchange,
    # As many as DSR's paper exchanges in its wide ResNet.
    "dsr": {"end_epochs": epochs, "prune_count": 20_000, **exchange},
    "optg": {},
    # The decay moves the thresholds, and so sets the sparsity.
    "str": {"threshold_weight_decay": recipe["optimizer"]["weight_decay"]},
    "top_kast": {"backward_sparsity": 0.8},
  }
