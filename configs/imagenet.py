"""The papers' networks on ImageNet.

    python -m sparsejax.train --config=imagenet:resnet50,granet

An option string names a row of a paper's table, such as

    resnet50,granet,sparsity=0.9,initial_sparsity=0.5

with model and method in any order. The keys are `seed`, `epochs` and
`batch_size` of the run, arguments of the method (`options.METHOD_OPTIONS`), and
`recipe`, how to train. `runlocal` runs 20 steps of a narrow network on
synthetic images, which are streamed as ImageNet is.

Recipes: `granet` (100 epochs, batches of 128, drops at epochs 30, 60 and 90),
`rigl` (32,000 steps of 4,096, drops at 30, 70 and 90), `optg` (cosine, batches
of 256), `str` and `dnw` (cosine from a higher rate, batches of 256). The
defaults are `optg`, `str` and `dnw` for the methods of these names, and
`granet` for all others. GraNet's paper prints a batch of 64, which its code has
on each of two GPUs. Epochs of OptG count from 0, as in its code; Algorithm 1
counts from 1.

The data is a folder that TensorFlow Datasets has prepared in the format
array_record, in $TFDS_DATA_DIR or `--config.data.path`.
"""

from typing import Any

from ml_collections import ConfigDict, FieldReference

from sparsejax.training.config import keys, options, sections

_MODELS = ("resnet50", "mobilenet_v1")
# The recipe of a method; GraNet's for all others.
_RECIPE_OF = {"optg": "optg", "str": "str", "dnw": "dnw"}
_HIGHER = {"learning_rate": 0.256, "momentum": 0.875}
_RUNLOCAL_SIZE = 32
# How the papers train ResNet-50. `interval` is that of mask updates, `end` the
# fraction of the run at which pruning ends, `begin` that at which it begins, if
# not at step 0.
_RECIPES: dict[str, dict[str, Any]] = {
  # Liu et al. (2021), Table 7 and code: no decay on what it calls `bn*`, which
  # does not include the norms of the shortcuts.
  "granet": {
    "epochs": 100.0,
    "batch_size": 128,
    "optimizer": {
      "learning_rate": 0.1,
      "weight_decay": 1e-4,
      "undecayed": ("stem_norm/*", "*/norm[0-9]/*"),
      "schedule": "drops",
      "drop_at": (0.3, 0.6, 0.9),
    },
    "interval": {"every_steps": 4000},
    "end": 0.3,
  },
  # Evci et al. (2020): a rate of 0.1 per 256 examples; mask updates end at step
  # 25,000, gradual pruning begins at step 10,000.
  "rigl": {
    "epochs": 32_000 / (1_281_167 // 4096),
    "batch_size": 4096,
    "optimizer": {
      "learning_rate": 1.6,
      "weight_decay": 1e-4,
      "schedule": "drops",
      "drop_at": tuple(
        epoch * (1_281_167 // 4096) / 32_000 for epoch in (30, 70, 90)
      ),
    },
    "interval": {"every_steps": 100},
    "end": 25_000 / 32_000,
    "begin": 10_000 / 32_000,
    "gradual": {"every_steps": 1000},
  },
  # Zhang et al. (2022): rate and decay as in the paper, the rest as in the
  # code.
  "optg": {
    "epochs": 100.0,
    "batch_size": 256,
    "optimizer": {
      "learning_rate": 0.1,
      "weight_decay": 5e-4,
      "schedule": "epoch_cosine",
    },
    "interval": {"every_steps": 4000},
    "end": 0.3,
  },
  # Kusupati et al. (2020) and code: the decay also moves the thresholds, and so
  # sets the sparsity: 90.23 % of ResNet-50, 89.01 % of MobileNet. The paper's
  # appendix has the decay for others.
  "str": {
    "epochs": 100.0,
    "batch_size": 256,
    "optimizer": {**_HIGHER, "weight_decay": 2.251757813e-5},
    "interval": {"every_steps": 4000},
    "end": 0.3,
    "threshold": -3200.0,
  },
  # STR's code for DNW, GMP and the dense network.
  "dnw": {
    "epochs": 100.0,
    "batch_size": 256,
    "optimizer": {**_HIGHER, "weight_decay": 2**-15},
    "interval": {"every_steps": 4000},
    "end": 0.79,
  },
}
# What differs for MobileNet, which has no shortcuts.
_MOBILENET: dict[str, dict[str, Any]] = {
  "granet": {"optimizer": {"undecayed": ("*_norm/*",)}},
  "rigl": {},
  "optg": {"epochs": 180.0, "optimizer": {"weight_decay": 4e-5}},
  "str": {"threshold": -12800.0, "optimizer": {"weight_decay": 3.751757813e-5}},
  "dnw": {},
}
# Less work before the first step, for `runlocal`.
_FEWER = {"synflow": {"rounds": 3}, "grasp": {"samples_per_class": 2}}


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the config of an option string."""
  chosen = _parse(arg)
  name = chosen["recipe"] or _RECIPE_OF.get(chosen["method"], "granet")
  recipe = _RECIPES[name]
  if chosen["model"] == "mobilenet_v1":
    recipe = _for_mobilenet(recipe, _MOBILENET[name])
  runlocal = chosen["runlocal"]
  usual = 2.0 if runlocal else recipe["epochs"]
  epochs = FieldReference(
    usual if chosen["epochs"] is None else chosen["epochs"]
  )
  batch_size = 16 if runlocal else recipe["batch_size"]
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
      "checkpoint_every_epochs": epochs / 2 if runlocal else 1.0,
      "forbid_warnings": False,
      "label_smoothing": 0.1,
      "ema_decay": 0.0,
      **keys.defaults(),
      "data": _data(runlocal, 10 * batch_size),
      "model": sections.section(
        "model", chosen["model"], width=0.125 if runlocal else 1.0
      ),
      "optimizer": _optimizer(chosen, recipe, epochs),
      "method": _method(chosen, recipe, epochs),
      # Globs of parameter names: sparse layers (none: every kernel), and the
      # exceptions that stay dense.
      "select": (),
      "dense": (),
    }
  )


def _parse(arg: str | None) -> dict[str, Any]:
  return options.parse(
    arg,
    words=("runlocal",),
    groups={
      "model": _MODELS,
      "method": sections.names("method"),
      "recipe": tuple(_RECIPES),
    },
    defaults={
      "model": "resnet50",
      "method": "granet",
      "recipe": str,
      "seed": 0,
      "epochs": float,
      "batch_size": int,
      **options.METHOD_OPTIONS,
    },
  )


def _for_mobilenet(
  recipe: dict[str, Any], changes: dict[str, Any]
) -> dict[str, Any]:
  optimizer = recipe["optimizer"] | changes.get("optimizer", {})
  return {**recipe, **changes, "optimizer": optimizer}


def _data(runlocal: bool, examples: int) -> dict[str, Any]:
  """Returns the data section; synthetic images for `runlocal`."""
  if not runlocal:
    return sections.section("data", "imagenet")
  return sections.section(
    "data",
    "synthetic",
    streamed=True,
    size=_RUNLOCAL_SIZE,
    train_examples=examples,
    test_examples=40,
  )


def _optimizer(
  chosen: dict[str, Any], recipe: dict[str, Any], epochs: FieldReference
) -> dict[str, Any]:
  """Returns the optimizer section, with a warmup of five epochs."""
  given = {
    "nesterov": False,
    "warmup_epochs": epochs * (5 / recipe["epochs"]),
    **recipe["optimizer"],
  }
  if chosen["runlocal"]:  # The network is small and the warmup short.
    given["learning_rate"] = 0.01
  return sections.section("optimizer", "sgd", **given)


def _method(
  chosen: dict[str, Any], recipe: dict[str, Any], epochs: FieldReference
) -> dict[str, Any]:
  """Returns the method section."""
  name, runlocal = chosen["method"], chosen["runlocal"]
  interval = {"every_steps": 4} if runlocal else recipe["interval"]
  # OptG's curve, its equation 16, rises over the whole run.
  whole = chosen["curve"] == "sigmoid"
  own = _arguments(recipe, epochs, interval, whole=whole).get(name, {})
  if runlocal:
    own = {**own, **interval} if name == "gmp" else own
    own = {**own, **_FEWER.get(name, {})}
  return sections.section(
    "method",
    name,
    fill={
      "sparsity": 0.9,
      "at_epochs": epochs / 2,
      "end_epochs": epochs * (1.0 if whole else recipe["end"]),
      **interval,
    },
    **options.update(own, chosen),
  )


def _arguments(
  recipe: dict[str, Any],
  epochs: FieldReference,
  interval: dict[str, int],
  *,
  whole: bool,
) -> dict[str, dict[str, Any]]:
  """Returns what single methods need besides the common schedule."""
  begin = {}
  if "begin" in recipe:
    begin = {"begin_epochs": epochs * recipe["begin"], **recipe["gradual"]}
  end = 1.0 if whole else max(recipe["end"], 0.75)
  return {
    "gmp": begin,
    "rigl": {"end_epochs": epochs * end, **interval},
    # Only SET's authors prune each sign separately; others prune by magnitude.
    "set": {"by_sign": False},
    # As many as DSR's paper prunes in ResNet-50.
    "dsr": {"end_epochs": epochs, "prune_count": 400_000},
    "str": {
      "initial_threshold": recipe.get("threshold", -3200.0),
      "threshold_momentum": recipe["optimizer"].get("momentum", 0.9),
      "threshold_weight_decay": recipe["optimizer"]["weight_decay"],
    },
    "top_kast": {"backward_sparsity": 0.8},
    # By default it keeps the masks of the earlier run.
    "retrain": {"sparsity": None},
  }
