"""Every config in the repository resolves to its golden file.

`PYTHONPATH=tests python tests/training/test_config.py` rewrites the files.
"""

import json
import pathlib
from unittest import mock

import pytest
from helpers import goldens, tables

from sparsejax import methods
from sparsejax.study.plasticity import run as plasticity
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


# The golden file of a paper's config has the first row in full, and the
# differences of the others.
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
  "lm": (
    "granet",
    *sorted(NAMES.keys() - {"granet"}),
    "rigl,size=8b,context=4096,dtype=bfloat16,batch_size=64,steps=1000",
    "gmp,tiny_shakespeare,scope=global",
    "granet,runlocal",
  ),
  "vit": (
    "granet",
    *sorted(NAMES.keys() - {"granet"}),
    "imagenet,gmp,dtype=bfloat16",
    "cifar100,rigl,size=s,epochs=10",
    "granet,runlocal",
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
    "accset_more",
    "accset_near",
    "accset_most",
    "digits,dynset2,activation=srelu,epochs=7,seed=3",
    "set,runlocal",
  ),
}


# Of the grids of pruning plasticity.
GRIDS = (
  "digits",
  "digits,uniform,seed=3",
  "digits,runlocal",
  "resnet20,cifar10",
  "vgg19,cifar100,uniform",
  "resnet20,cifar10,runlocal",
)


def parse(options, *changes, file=CONFIG):
  return command.parse([f"--config={file}:{options}", *changes]).config


def paper_text(name):
  file = CONFIGS / f"{name}.py"
  # The digest of the standard library differs between versions of Python.
  with mock.patch("sparsejax.data.stdlib_digest", lambda: "of this Python"):
    return goldens.compact(
      {text: keys.resolved(parse(text, file=file)) for text in PAPERS[name]}
    )


def grids_text():
  file = CONFIGS / "plasticity.py"
  return goldens.compact(
    {text: plasticity.resolved(parse(text, file=file)) for text in GRIDS}
  )


def table_text(name):
  """The rows of a table, `init_from` by row."""
  runs = tables.plan(name, tables.table(name).rows, pathlib.Path("/runs"))
  return goldens.compact(
    {run.row.name: run.config | {"init_from": run.row.after} for run in runs}
  )


def text(options):
  resolved = keys.resolved(parse(options))
  return json.dumps(resolved, indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_digits_configs_equal_their_golden_files(name):
  assert text(OPTIONS[name]) == (GOLDEN / f"{name}.json").read_text()


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_configs_of_the_papers_equal_their_golden_files(name):
  assert paper_text(name) == (GOLDEN / f"{name}.json").read_text()


@pytest.mark.parametrize("name", tables.NAMES)
def test_rows_of_the_tables_equal_their_golden_files(name):
  assert table_text(name) == (GOLDEN / f"table_{name}.json").read_text()


def test_configs_of_grids_equal_their_golden_file():
  assert grids_text() == (GOLDEN / "plasticity.json").read_text()


def test_there_is_no_other_golden_file():
  kept = {path.stem for path in GOLDEN.glob("*.json")}
  of_tables = {f"table_{name}" for name in tables.NAMES}
  assert kept == {*OPTIONS, *PAPERS, "plasticity", *of_tables}


# They need an earlier run: test_retraining.py, test_lm.py, test_calibrated.py.
OF_ANOTHER_RUN = {"retrain", "release", "wanda", "ria", "sparsegpt"}


@pytest.mark.parametrize("name", sorted(NAMES.keys() - OF_ANOTHER_RUN))
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


def test_a_renamed_section_gets_the_arguments_of_its_factory():
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


def test_none_unsets_a_value():
  config = parse(
    "set", "--config.method.epsilon=20", "--config.method.sparsity=none"
  )
  assert config.method.sparsity is None
  assert build.build(config).target_sparsity is None


def test_choices_are_named():
  config = parse(
    "gmp", "--config.method.storage=kept", "--config.method.scope=uniform"
  )
  section = keys.resolved(config)["method"]
  assert (section["storage"], section["scope"]) == ("kept", "uniform")
  build.build(config)


def test_a_schedule_that_ends_after_the_run_is_a_warning():
  late = build.build(parse("granet", "--config.method.end_epochs=300"))
  assert late.warnings == (
    "`config.method.end_step` is step 6600, after the last step 4400 of the"
    " run: the schedule does not end.",
  )


if __name__ == "__main__":
  texts = {name: text(chosen) for name, chosen in OPTIONS.items()}
  texts |= {name: paper_text(name) for name in PAPERS}
  texts["plasticity"] = grids_text()
  texts |= {f"table_{name}": table_text(name) for name in tables.NAMES}
  for golden, content in texts.items():
    (GOLDEN / f"{golden}.json").write_text(content)
