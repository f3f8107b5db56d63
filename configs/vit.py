"""Sparse vision transformers on CIFAR and ImageNet.

    python -m sparsejax.train --config=vit:cifar10,granet,sparsity=0.8

trains ViT-Ti with patches of 4 pixels; on ImageNet it is ViT-S with patches of
16, as in Beyer et al. (2022): AdamW, 90 epochs, batches of 1,024. Options, in
any order: the data (`cifar10`, `cifar100`, `imagenet`), the method, `size=`
(ti, s, b, l), `epochs=`, `batch_size=`, `dtype=`, `seed=`, and arguments of the
method (`options.METHOD_OPTIONS`). `runlocal` runs 20 steps of a tiny model on
synthetic images. Sparse are the matrices of attention and of the feed-forward
layers of each block.

`python -m sparsejax.data.prepare cifar10 --download` prepares CIFAR-10.
"""

from typing import Any

from ml_collections import ConfigDict, FieldReference

from sparsejax.training.config import keys, options, sections

_DATA: dict[str, dict[str, Any]] = {
  "cifar10": {"size": "ti", "patch": 4, "epochs": 100.0, "batch_size": 128},
  "cifar100": {"size": "ti", "patch": 4, "epochs": 100.0, "batch_size": 128},
  "imagenet": {"size": "s", "patch": 16, "epochs": 90.0, "batch_size": 1024},
}


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the config of an option string."""
  chosen = _parse(arg)
  runlocal, usual = chosen["runlocal"], _DATA[chosen["data"]]
  epochs = FieldReference(
    2.0 if runlocal else chosen["epochs"] or usual["epochs"]
  )
  batch_size = chosen["batch_size"] or (8 if runlocal else usual["batch_size"])
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
      "data": _data(chosen, 10 * batch_size),
      "model": sections.section(
        "model",
        "vit",
        size="tiny" if runlocal else chosen["size"] or usual["size"],
        patch=usual["patch"],
        dtype=chosen["dtype"],
      ),
      "optimizer": sections.section(
        "optimizer",
        "adamw",
        learning_rate=1e-3,
        weight_decay=0.1,
        undecayed=("*norm/*", "*/bias"),
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
    groups={"data": tuple(_DATA), "method": sections.names("method")},
    defaults={
      "data": "cifar10",
      "method": "granet",
      "size": str,
      "epochs": float,
      "batch_size": int,
      "dtype": "float32",
      "seed": 0,
      **options.METHOD_OPTIONS,
    },
  )


def _data(chosen: dict[str, Any], examples: int) -> dict[str, Any]:
  """Returns the data section; synthetic images for `runlocal`."""
  if not chosen["runlocal"]:
    return sections.section("data", chosen["data"])
  return sections.section(
    "data",
    "synthetic",
    train_examples=examples,
    test_examples=40,
    validation_examples=10,
  )


def _method(chosen: dict[str, Any], epochs: FieldReference) -> dict[str, Any]:
  """Returns the method's section: pruning ends at half of the run."""
  name = chosen["method"]
  own = sections.equal_sparsities(name) | {
    "top_kast": {"backward_sparsity": 0.6},
    "str": {"initial_threshold": -6.0},
    "dsr": {"prune_count": 20_000},
    # By default it keeps the masks of the earlier run.
    "retrain": {"sparsity": None},
  }.get(name, {})
  return sections.section(
    "method",
    name,
    fill={
      "sparsity": 0.8,
      "at_epochs": epochs / 2,
      "end_epochs": epochs / 2,
      "every_epochs": epochs / (4 if chosen["runlocal"] else 100),
    },
    **options.update(own, chosen),
  )
