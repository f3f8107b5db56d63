"""The papers' networks on CIFAR-10 and CIFAR-100.

    python -m sparsejax.train --config=cifar:vgg19,granet

An option string names a row of a paper's table, such as

    vgg19,cifar100,granet,sparsity=0.98,initial_sparsity=0.5

with model, data set and method in any order. The keys are `seed`, `epochs` and
`batch_size` of the run, arguments of the method (`options.METHOD_OPTIONS`), and
`recipe`, how to train. `runlocal` runs 20 steps of a narrow network on
synthetic images.

Recipes: `granet` (GraNet's code: 160 epochs, batches of 128, drops at epochs 80
and 120), `itop` (250 epochs), `rigl` (250 epochs, drops to a fifth) and `optg`
(cosine, batches of 256, all 50,000 images). The default is `optg` for OptG and
`granet`, as in GraNet's tables, for all other methods. Epochs of OptG count
from 0, as in its code; Algorithm 1 counts from 1. The MLP of SET is in
`configs/set_mlp.py`.

`python -m sparsejax.data.prepare cifar10 --download` prepares the data.
"""

from typing import Any

from ml_collections import ConfigDict, FieldReference

from sparsejax.training.config import keys, options, sections

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
# Less work before the first step, for `runlocal`.
_FEWER = {"synflow": {"rounds": 3}, "grasp": {"samples_per_class": 2}}
_EVERYTHING = {"train_examples": 50_000}
_STEPPED = {
  "learning_rate": 0.1,
  "schedule": "drops",
  "drop_at": (0.5, 0.75),
  "weight_decay": 5e-4,
}


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the config of an option string."""
  chosen = _parse(arg)
  runlocal = chosen["runlocal"]
  usual_recipe = "optg" if chosen["method"] == "optg" else "granet"
  recipe = _recipes()[chosen["recipe"] or usual_recipe]
  usual = 2.0 if runlocal else recipe["epochs"]
  epochs = FieldReference(
    usual if chosen["epochs"] is None else chosen["epochs"]
  )
  # Ten batches hold every class twice.
  small = max(16, _CLASSES[chosen["data"]] // 5)
  batch_size = small if runlocal else recipe["batch_size"]
  if chosen["batch_size"] is not None:
    batch_size = chosen["batch_size"]
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
      **keys.defaults(),
      "data": _data(chosen, recipe, 10 * batch_size),
      "model": sections.section(
        "model", chosen["model"], width=0.125 if runlocal else 1.0
      ),
      "optimizer": _optimizer(chosen, recipe, epochs),
      "method": _method(chosen, recipe, epochs),
      # Globs of parameter names: sparse layers (none: every kernel), and the
      # exceptions that stay dense.
      "select": (),
      "dense": recipe.get("dense", ()),
    }
  )


def _parse(arg: str | None) -> dict[str, Any]:
  return options.parse(
    arg,
    words=("runlocal",),
    groups={
      "model": _MODELS,
      "data": tuple(_CLASSES),
      "method": sections.names("method"),
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
      **options.METHOD_OPTIONS,
    },
  )


def _recipes() -> dict[str, dict[str, Any]]:
  """Returns how the papers train.

  `interval` is that of mask updates; `random_interval` that of methods with
  random regrowth, if it differs.
  """
  return {
    # Liu et al. (2021), Table 7 and code: Nesterov, decay on all parameters.
    "granet": {
      "epochs": 160.0,
      "batch_size": 128,
      "optimizer": _STEPPED,
      "interval": {"every_steps": 1000},
    },
    # Liu et al. (2021), "Do we actually need dense over-parameterization?"
    "itop": {
      "epochs": 250.0,
      "batch_size": 128,
      "optimizer": _STEPPED,
      "interval": {"every_steps": 4000},
      "random_interval": {"every_steps": 1500},
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
      "interval": {"every_steps": 100},
    },
    # Zhang et al. (2022): weight decay as in the paper, the rest as in the
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
      "interval": {"every_steps": 1000},
    },
  }


def _data(
  chosen: dict[str, Any], recipe: dict[str, Any], examples: int
) -> dict[str, Any]:
  """Returns the data section; synthetic images for `runlocal`."""
  if chosen["runlocal"]:
    classes = _CLASSES[chosen["data"]]
    return sections.section(
      "data",
      "synthetic",
      num_classes=classes,
      train_examples=examples,
      validation_examples=classes,
      test_examples=max(classes, 40),
    )
  return sections.section("data", chosen["data"], **recipe.get("data", {}))


def _optimizer(
  chosen: dict[str, Any], recipe: dict[str, Any], epochs: FieldReference
) -> dict[str, Any]:
  """Returns the optimizer section."""
  given = dict(recipe["optimizer"])
  if "warmup" in recipe:
    given["warmup_epochs"] = epochs * recipe["warmup"]
  if chosen["runlocal"]:  # The network is small and the warmup short.
    given["learning_rate"] = 0.01
  return sections.section("optimizer", "sgd", **given)


def _method(
  chosen: dict[str, Any], recipe: dict[str, Any], epochs: FieldReference
) -> dict[str, Any]:
  """Returns the method section.

  As in GraNet's code for 160 epochs, pruning ends at epoch 110 after a dense
  start and at epoch 80 after a sparse one.
  """
  name, runlocal = chosen["method"], chosen["runlocal"]
  end = epochs * ((80 if chosen["initial_sparsity"] else 110) / 160)
  if chosen["curve"] == "sigmoid":  # OptG's rises over the whole run.
    end = epochs * 1.0
  interval = {"every_steps": 4} if runlocal else recipe["interval"]
  own = _arguments(recipe, epochs, interval).get(name, {})
  if runlocal:
    own = {**own, **_FEWER.get(name, {})}
  return sections.section(
    "method",
    name,
    fill={
      "sparsity": 0.9,
      "at_epochs": epochs / 2,
      "end_epochs": end,
      **interval,
    },
    **options.update(own, chosen),
  )


def _arguments(
  recipe: dict[str, Any], epochs: FieldReference, interval: dict[str, int]
) -> dict[str, dict[str, Any]]:
  """Returns what single methods need besides the common schedule."""
  at_random = interval
  if interval == recipe["interval"]:
    at_random = recipe.get("random_interval", interval)
  return {
    "rigl": {"end_epochs": epochs * 0.75, **interval},
    # Only SET's authors prune each sign separately; others prune by magnitude.
    "set": {"by_sign": False, **at_random},
    "set_itop": at_random,
    # As many as DSR's paper prunes in its wide ResNet.
    "dsr": {"end_epochs": epochs, "prune_count": 20_000},
    # The decay moves the thresholds, and so sets the sparsity.
    "str": {"threshold_weight_decay": recipe["optimizer"]["weight_decay"]},
    "top_kast": {"backward_sparsity": 0.8},
    # By default it keeps the masks of the earlier run.
    "retrain": {"sparsity": None},
  }
