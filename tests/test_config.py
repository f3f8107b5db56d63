"""Every config in the repository resolves to the text that is kept here.

`python tests/test_config.py` writes the texts anew.
"""

import json
import pathlib

import pytest

from sparsejax import methods
from sparsejax.training import build, command, plans

GOLDEN = pathlib.Path(__file__).parent / "golden"
CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "digits.py"
NAMES = {**methods.METHODS, **plans.METHODS}
OPTIONS = {
  **{f"digits_{name}": name for name in NAMES},
  "digits_cnn_runlocal": "rigl,sparsity=0.8,model=cnn,seed=3,runlocal",
}


def parse(options, *changes):
  return command.parse([f"--config={CONFIG}:{options}", *changes]).config


def text(options):
  resolved = build.resolved(parse(options))
  return json.dumps(resolved, indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_resolved_config_is_the_one_that_is_kept(name):
  assert text(OPTIONS[name]) == (GOLDEN / f"{name}.json").read_text()


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
  config = build.resolved(parse("granet", "--config.epochs=30"))
  assert config["method"]["end_epochs"] == 15
  assert config["checkpoint_every_epochs"] == 7.5


def test_a_section_that_is_renamed_gets_its_own_arguments():
  config = build.resolved(
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
  section = build.resolved(config)["method"]
  assert (section["storage"], section["scope"]) == ("kept", "uniform")
  build.build(config)


def test_a_schedule_that_ends_after_the_run_is_told():
  late = build.build(parse("granet", "--config.method.end_epochs=300"))
  assert late.warnings == (
    "`config.method.end_step` is step 6600, after the last step 4400 of the"
    " run: the schedule does not end.",
  )


if __name__ == "__main__":
  for golden, chosen in OPTIONS.items():
    (GOLDEN / f"{golden}.json").write_text(text(chosen))
