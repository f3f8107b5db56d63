"""The papers' networks on ImageNet.

    python -m sparsejax.train --config=configs/imagenet.py:resnet50,granet

The option string names a row of a paper's table, such as

    resnet50,granet,sparsity=0.9,initial_sparsity=0.5

Model and method stand in any order; the keys are `seed`, `epochs` and
`batch_size` of the run, `sparsity`, `initial_sparsity`, `regrow_fraction`,
`every_steps`, `every_epochs`, `end_epochs`, `distribution`, `scope`, `storage`,
`curve` and `regrow_by` of the method, and
`recipe`: how it is trained. `runlocal` is for 20 steps of a narrow network on
made-up images, which stream as those of ImageNet do.

Recipes: `granet` (100 epochs, batches of 128, drops at epochs 30, 60 and 90),
`rigl` (32,000 steps of 4,096, drops at 30, 70 and 90), `optg` (a cosine,
batches of 256), `str` and `dnw` (a cosine from a higher rate, batches of 256).
Methods of the last three names have theirs unless another is named, all others
GraNet's.

The data is read from a folder that TensorFlow Datasets has prepared in the
format array_record, where $TFDS_DATA_DIR points or `--config.data.path` says.
"""

from typing import Any

from ml_collections import ConfigDict, FieldReference

from sparsejax.training.config import build, options

_MODELS = ("resnet50", "mobilenet_v1")
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
# Methods with the recipe of their papers; all others have GraNet's.
_OWN_RECIPES = {"optg": "optg", "str": "str", "dnw": "dnw"}
_HIGHER = {"learning_rate": 0.256, "momentum": 0.875}
_RUNLOCAL_SIZE = 32
# What `runlocal` spares the methods that score the network first.
_FEWER = {"synflow": {"rounds": 3}, "grasp": {"samples_per_class": 2}}


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the config that an option string asks for."""
  chosen = options.parse(
    arg,
    words=("runlocal",),
    groups={
      "model": _MODELS,
      "method": tuple(build.KINDS["method"].factories),
      "recipe": ("granet", "rigl", "optg", "str", "dnw"),
    },
    defaults={
      "model": "resnet50",
      "method": "granet",
      "recipe": str,
      "seed": 0,
      "epochs": float,
      "batch_size": int,
      **_METHOD_KEYS,
    },
  )
  recipes = _recipes(chosen["model"])
  usual = _OWN_RECIPES.get(chosen["method"], "granet")
  recipe = recipes[chosen["recipe"] or usual]
  runlocal = chosen["runlocal"]
  epochs = FieldReference(
    chosen["epochs"] or (2.0 if runlocal else recipe["epochs"])
  )
  batch_size = chosen["batch_size"] or (
    16 if runlocal else recipe["batch_size"]
  )
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
      **build.usual(),
      "data": _data(runlocal, 10 * batch_size),
      "model": build.section(
        "model", chosen["model"], width=0.125 if runlocal else 1.0
      ),
      "optimizer": _optimizer(chosen, recipe, epochs),
      "method": _method(chosen, recipe, epochs),
      # Globs of parameter names: what is sparse (nothing: every kernel), and
      # what of it stays dense.
      "select": (),
      "dense": (),
    }
  )


def _recipes(model: str) -> dict[str, dict[str, Any]]:
  """Returns how the papers train.

  `exchange` is the interval between two mask updates, `end` the share of the
  run at which pruning ends, `begin` that at which it begins, if not at once.
  """
  return {
    # Liu et al. (2021), Table 7 and code: no decay on what it calls `bn*`,
    # which leaves the norms of the shortcuts in; MobileNet has none.
    "granet": {
      "epochs": 100.0,
      "batch_size": 128,
      "optimizer": {
        "learning_rate": 0.1,
        "weight_decay": 1e-4,
        "undecayed": ("*_norm/*",)
        if model == "mobilenet_v1"
        else ("stem_norm/*", "*/norm[0-9]/*"),
        "schedule": "drops",
        "drop_at": (0.3, 0.6, 0.9),
      },
      "exchange": {"every_steps": 4000},
      "end": 0.3,
    },
    # Evci et al. (2020): a rate of 0.1 for 256 examples; the exchange ends at
    # step 25,000.
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
      "exchange": {"every_steps": 100},
      "end": 25_000 / 32_000,
      # Its gradual pruning begins at step 10,000.
      "begin": 10_000 / 32_000,
      "gradual": {"every_steps": 1000},
    },
    # Zhang et al. (2022): rate and decay as in the paper, the rest as in its
    # code.
    "optg": {
      "epochs": 180.0 if model == "mobilenet_v1" else 100.0,
      "batch_size": 256,
      "optimizer": {
        "learning_rate": 0.1,
        "weight_decay": 5e-4,
        "schedule": "epoch_cosine",
      },
      "exchange": {"every_steps": 4000},
      "end": 0.3,
    },
    # Kusupati et al. (2020) and code: the decay moves the thresholds as well,
    # and sets the sparsity. With these it is 90.23 % of ResNet-50 and 89.01 %
    # of MobileNet; the appendix has those of others.
    "str": {
      "epochs": 100.0,
      "batch_size": 256,
      "optimizer": {
        **_HIGHER,
        "weight_decay": 3.751757813e-5
        if model == "mobilenet_v1"
        else 2.251757813e-5,
      },
      "exchange": {"every_steps": 4000},
      "end": 0.3,
      "threshold": -12800.0 if model == "mobilenet_v1" else -3200.0,
    },
    # What STR's code has for DNW, GMP and the dense network.
    "dnw": {
      "epochs": 100.0,
      "batch_size": 256,
      "optimizer": {**_HIGHER, "weight_decay": 2**-15},
      "exchange": {"every_steps": 4000},
      "end": 0.79,
    },
  }


def _data(runlocal: bool, examples: int) -> dict[str, Any]:
  """Returns the data's section; made-up images for `runlocal`."""
  if not runlocal:
    return build.section("data", "imagenet")
  return build.section(
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
  """Returns the optimizer's section; a warm-up of five epochs is in all."""
  given = {
    "nesterov": False,
    "warmup_epochs": epochs * (5 / recipe["epochs"]),
    **recipe["optimizer"],
  }
  if chosen["runlocal"]:  # Too short a warm-up, for so small a network.
    given["learning_rate"] = 0.01
  return build.section("optimizer", "sgd", **given)


def _method(
  chosen: dict[str, Any], recipe: dict[str, Any], epochs: FieldReference
) -> dict[str, Any]:
  """Returns the method's section; every sparse method is requested 90 %."""
  name = chosen["method"]
  exchange = {"every_steps": 4} if chosen["runlocal"] else recipe["exchange"]
  # OptG's equation 16 rises over the whole run.
  whole = chosen["curve"] == "sigmoid"
  end = {"end_epochs": epochs * (1.0 if whole else recipe["end"])}
  gradual = {**exchange, **end}
  if "begin" in recipe:
    gradual |= {"begin_epochs": epochs * recipe["begin"]}
    gradual |= {} if chosen["runlocal"] else recipe["gradual"]
  given = {
    "one_shot": {"at_epochs": epochs / 2},
    "gmp": gradual,
    "dpf": end,
    "granet": {**end, **exchange},
    "rigl": {
      "end_epochs": epochs * (1.0 if whole else max(recipe["end"], 0.75)),
      **exchange,
    },
    "rigl_itop": exchange,
    # Others than its authors remove the smallest whatever their sign.
    "set": {"by_sign": False, **exchange},
    "set_itop": exchange,
    "snfs": exchange,
    # As many as DSR's paper exchanges in ResNet-50.
    "dsr": {"end_epochs": epochs, "prune_count": 400_000, **exchange},
    "optg": {},
    "str": {
      "initial_threshold": recipe.get("threshold", -3200.0),
      "threshold_momentum": recipe["optimizer"].get("momentum", 0.9),
      "threshold_weight_decay": recipe["optimizer"]["weight_decay"],
    },
    "top_kast": {"backward_sparsity": 0.8},
  }.get(name, {})
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
