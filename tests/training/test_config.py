"""Every config in the repository resolves to the text that is kept here.

`python tests/test_config.py` writes the texts anew.
"""

import json
import pathlib

import pytest
from helpers import goldens, tables

from sparsejax import methods
from sparsejax.training import recipes
from sparsejax.training.config import build, command, keys

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
CONFIG = CONFIGS / "digits.py"
NAMES = {**methods.METHODS, **recipes.RECIPES}
OPTIONS = {
  **{f"digits_{name}": name for name in NAMES},
  "digits_cnn_runlocal": "rigl,sparsity=0.8,model=cnn,seed=3,runlocal",
}


# Of the papers' configs the first row is kept in full, of the others what
# differs from it.
PAPERS = {
  "cifar": (
    "granet",
    *sorted(NAMES.keys() - {"granet"}),
    *(f"{model},dense" for model in ("vgg19", "resnet50_cifar", "vgg_c")),
    "vgg19,cifar100,granet,sparsity=0.98,initial_sparsity=0.5",
    "gmp,curve=sigmoid,every_epochs=1,storage=kept,scope=uniform",
    "rigl,recipe=rigl,regrow_by=momentum",
    "rigl_itop,recipe=itop",
    "set_itop,recipe=itop",
    "granet,runlocal",
    "vgg19,cifar100,optg,runlocal",
  ),
  "imagenet": (
    "granet",
    *sorted(NAMES.keys() - {"granet"}),
    *(f"mobilenet_v1,{name}" for name in ("granet", "optg", "str")),
    *(f"{name},recipe=rigl" for name in ("rigl", "gmp", "set", "dense")),
    "gmp,recipe=dnw",
    "rigl,recipe=optg,curve=sigmoid,every_epochs=1",
    "granet,runlocal",
    "mobilenet_v1,gmp,recipe=rigl,runlocal",
  ),
  "set_mlp": (
    "set",
    "accset",
    "lset",
    "dynset",
    "dynset2",
    "dynset3",
    "set_paused",
    "set_more",
    "set_near",
    "set_most",
    "digits,dynset2,activation=srelu,epochs=7,seed=3",
    "set,runlocal",
  ),
}


def parse(options, *changes, file=CONFIG):
  return command.parse([f"--config={file}:{options}", *changes]).config


def paper_text(name):
  file = CONFIGS / f"{name}.py"
  return goldens.compact(
    {text: keys.resolved(parse(text, file=file)) for text in PAPERS[name]}
  )


def table_text(name):
  """The rows of a table; what they start from is told by its row."""
  runs = tables.plan(name, tables.table(name).rows, pathlib.Path("/runs"))
  return goldens.compact(
    {run.row.name: run.config | {"init_from": run.row.after} for run in runs}
  )


def text(options):
  resolved = keys.resolved(parse(options))
  return json.dumps(resolved, indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_resolved_config_is_the_one_that_is_kept(name):
  assert text(OPTIONS[name]) == (GOLDEN / f"{name}.json").read_text()


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_resolved_configs_of_the_papers_are_those_that_are_kept(name):
  assert paper_text(name) == (GOLDEN / f"{name}.json").read_text()


@pytest.mark.parametrize("name", tables.NAMES)
def test_resolved_rows_of_the_tables_are_those_that_are_kept(name):
  assert table_text(name) == (GOLDEN / f"table_{name}.json").read_text()


def test_what_is_kept_is_all_there_is():
  kept = {path.stem for path in GOLDEN.glob("*.json")}
  assert kept == {*OPTIONS, *PAPERS, *(f"table_{n}" for n in tables.NAMES)}


# Retraining needs a run that is there: tests/test_retraining.py.
@pytest.mark.parametrize("name", sorted(NAMES.keys() - {"retrain"}))
def test_every_method_builds(name):
  experiment = build.build(parse(name))
  assert experiment.steps.total == 200 * (20 if name == "accset" else 22)
  assert experiment.warnings == ()
  no_target = ("dense", "small_dense", "str", "accset", "lset", "dynset")
  assert experiment.target_sparsity == (None if name in no_target else 0.9)


def test_runlocal_is_short():
  assert build.build(parse("runlocal")).steps.total == 22


def test_schedules_follow_the_length_of_the_run():
  config = keys.resolved(parse("granet", "--config.epochs=30"))
  assert config["method"]["end_epochs"] == 15
  assert config["checkpoint_every_epochs"] == 7.5


def test_a_section_that_is_renamed_gets_its_own_arguments():
  config = keys.resolved(
    parse(
      "gmp",
      "--config.model.name=cnn",
      "--config.model.channels=(4, 8)",
      "--config.optimizer.name=adamw",
      "--config.optimizer.learning_rate=1e-3",
    )
  )
  assert config["model"] == {"name": "cnn", "channels": [4, 8], "width": 1.0}
  assert config["optimizer"]["b2"] == 0.999


def test_none_clears_a_value():
  config = parse(
    "set", "--config.method.epsilon=20", "--config.method.sparsity=none"
  )
  assert config.method.sparsity is None
  assert build.build(config).target_sparsity is None


def test_kept_storage_and_scopes_are_named():
  config = parse(
    "gmp", "--config.method.storage=kept", "--config.method.scope=uniform"
  )
  section = keys.resolved(config)["method"]
  assert (section["storage"], section["scope"]) == ("kept", "uniform")
  build.build(config)


def test_a_schedule_that_ends_after_the_run_is_told():
  late = build.build(parse("granet", "--config.method.end_epochs=300"))
  assert late.warnings == (
    "`config.method.end_step` is step 6600, after the last step 4400 of the"
    " run: the schedule does not end.",
  )


if __name__ == "__main__":
  texts = {name: text(chosen) for name, chosen in OPTIONS.items()}
  texts |= {name: paper_text(name) for name in PAPERS}
  texts |= {f"table_{name}": table_text(name) for name in tables.NAMES}
  for golden, content in texts.items():
    (GOLDEN / f"{golden}.json").write_text(content)
