"""Grids of pruning plasticity: GraNet's Figures 2, 3 and 5 to 14.

    python -m sparsejax.study.plasticity --config=plasticity:digits

trains the MLP 64-128-128-10 on digits, dense and at sparsities of 0.5, 0.9 and
0.98, prunes each run at 15 moments and 4 rates, with and without regrowth, and
trains all of these 960 branches on, in a few minutes on two CPU cores. Options,
in any order:

    digits                     or a network and its data:
    resnet20 vgg19 resnet50_cifar, cifar10 cifar100
    uniform                    prune every layer at the same rate, not globally
    structured                 prune filters, and neurons of the MLP
    seed= epochs= runlocal

    --config=plasticity:resnet20,cifar10                     Figures 2 and 3
    --config=plasticity:resnet20,cifar10,structured,uniform  Figures 5 and 6
    --config=plasticity:vgg19,cifar10,structured,uniform     Figures 7 and 8
    --config=plasticity:resnet20,cifar10,uniform             Figures 9 and 10
    --config=plasticity:vgg19,cifar10                        Figures 11 and 12
    --config=plasticity:vgg19,cifar10,uniform                Figures 13 and 14

Filters have the paper's sparsities of 0, 0.1, 0.5 and 0.7; their rates are not
said there, ours are 0.1, 0.3, 0.5 and 0.7. As in the paper's code, each filter
is pruned by itself, no matter which other layers write to its channel, biases
and normalization stay, and counts are rounded down; unlike there, the
classifier stays dense.

`runlocal` ends within a minute: two moments, two rates, a small network.
"""

from typing import Any

from ml_collections import ConfigDict

from sparsejax.study.plasticity import protocol
from sparsejax.training.config import files, options, sections

_MODELS = ("resnet20", "vgg19", "resnet50_cifar")
_DATA = ("digits", "cifar10", "cifar100")
# Of the run; the paper's 10 and 30 of 160 epochs.
_EVERY, _CONTINUE = 1 / 16, 3 / 16


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the config of an option string."""
  chosen = options.parse(
    arg,
    words=("uniform", "structured", "runlocal"),
    groups={"data": _DATA, "model": _MODELS},
    defaults={"data": "digits", "model": str, "seed": 0, "epochs": float},
  )
  make = _digits if chosen["data"] == "digits" else _cifar
  config = make(chosen)
  config.method = ConfigDict(
    sections.section("method", "static", sparsity=0.0, **_granularity(chosen))
  )
  config.plasticity = ConfigDict(_protocol(chosen, config))
  return config


def _granularity(chosen: dict[str, Any]) -> dict[str, Any]:
  """Returns how weights of a run are active together, and their number."""
  if not chosen["structured"]:
    return {"distribution": "uniform"}
  return {
    "distribution": "uniform_whole",
    "granularity": {"name": "filters", "coupled": False},
  }


def _digits(chosen: dict[str, Any]) -> ConfigDict:
  """Returns the config of a run on digits, with the paper's schedule."""
  runlocal = ",runlocal" if chosen["runlocal"] else ""
  config = _load("digits", f"static,seed={chosen['seed']}{runlocal}")
  config.epochs = chosen["epochs"] or (8.0 if chosen["runlocal"] else 80.0)
  config.dispatch_steps = 11 if chosen["runlocal"] else 110
  config.log_every_steps = config.dispatch_steps
  config.eval_every_epochs = config.epochs / 16
  config.checkpoint_every_epochs = config.epochs / 16
  config.model.hidden = (16,) if chosen["runlocal"] else (128, 128)
  config.optimizer.schedule = "drops"
  return config


def _cifar(chosen: dict[str, Any]) -> ConfigDict:
  """Returns the config of a run of the paper."""
  words = [chosen["model"] or "resnet20", chosen["data"], "static"]
  words.append(f"seed={chosen['seed']}")
  if chosen["epochs"] is not None:
    words.append(f"epochs={chosen['epochs']!r}")
  if chosen["runlocal"]:
    words.append("runlocal")
  return _load("cifar", ",".join(words))


def _load(name: str, arg: str) -> Any:
  config = files.load(files.find("`--config`", name)).get_config(arg)
  return config.copy_and_resolve_references()


def _protocol(chosen: dict[str, Any], config: Any) -> dict[str, Any]:
  """Returns the section of the protocol, at the paper's share of the run."""
  given: dict[str, Any] = {
    "every_epochs": config.epochs * _EVERY,
    "continue_epochs": config.epochs * _CONTINUE,
    "scope": "uniform" if chosen["uniform"] else "global",
  }
  if chosen["structured"]:
    given |= {
      "sparsities": (0.0, 0.1, 0.5, 0.7),
      "rates": (0.1, 0.3, 0.5, 0.7),
      "round_up": False,
    }
  if chosen["runlocal"]:
    given |= {
      "every_epochs": config.epochs / 4,
      "continue_epochs": config.epochs / 4,
      "sparsities": (0.0, 0.5),
      "rates": (0.5, 0.9),
      "gradient_batches": 2,
    }
  return protocol.section(**given)
