"""The rows of the papers' tables have the papers' hyperparameters."""

import pathlib

import pytest
from helpers import tiers

from sparsejax import command_line
from sparsejax.training.config import build, command, keys, sections

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def resolved(config, options, *changes):
  argv = [f"--config={CONFIGS / config}.py:{options}", *changes]
  return keys.resolved(command.parse(argv).config)


def parts(config, options):
  """The config of a row, and its optimizer, method and data."""
  row = resolved(config, options)
  return row, row["optimizer"], row["method"], row["data"]


# Values from the papers' tables of hyperparameters.
def test_granet_on_cifar():
  row, optimizer, method, data = parts(
    "cifar", "vgg19,cifar100,granet,sparsity=0.98,initial_sparsity=0.5"
  )
  assert (row["epochs"], row["batch_size"]) == (160, 128)
  assert row["model"]["name"] == "vgg19" and row["model"]["width"] == 1.0
  assert optimizer["learning_rate"] == 0.1 and optimizer["nesterov"] is True
  assert optimizer["momentum"] == 0.9 and optimizer["weight_decay"] == 5e-4
  assert [160 * share for share in optimizer["drop_at"]] == [80, 120]
  assert optimizer["drop_factor"] == 0.1 and not optimizer["undecayed"]
  assert (method["sparsity"], method["initial_sparsity"]) == (0.98, 0.5)
  assert (method["end_epochs"], method["every_steps"]) == (80, 1000)
  assert method["regrow_fraction"] == 0.5
  assert data["name"] == "cifar100" and data["padding"] == "zero"
  assert data["train_examples"] == 50_000


def test_granet_from_a_dense_start_prunes_until_epoch_110():
  row, _, method, data = parts("cifar", "resnet50_cifar,granet,sparsity=0.95")
  assert row["data"]["name"] == "cifar10" and method["initial_sparsity"] == 0
  assert method["end_epochs"] == 110 and method["sparsity"] == 0.95
  assert (data["train_examples"], data["padding"]) == (45_000, "reflect")


def test_baselines_of_granet_are_trained_alike():
  _, wanted, _, _ = parts("cifar", "vgg19,granet")
  for name in ("gmp", "rigl_itop", "static", "dense", "snip"):
    row, optimizer, _, _ = parts("cifar", f"vgg19,{name}")
    assert row["epochs"] == 160 and optimizer == wanted


def test_itop_updates_masks_less_often():
  row, optimizer, method, _ = parts("cifar", "vgg_c,rigl_itop,recipe=itop")
  assert row["epochs"] == 250 and method["every_steps"] == 4000
  assert [250 * share for share in optimizer["drop_at"]] == [125, 187.5]
  _, _, method, _ = parts("cifar", "vgg_c,set_itop,recipe=itop")
  assert method["every_steps"] == 1500


def test_optg_on_cifar():
  row, optimizer, method, data = parts("cifar", "resnet50_6n2,optg")
  assert (row["epochs"], row["batch_size"]) == (160, 256)
  assert optimizer["schedule"] == "epoch_cosine"
  assert optimizer["warmup_epochs"] == 5 and optimizer["nesterov"] is False
  assert optimizer["weight_decay"] == 1e-3 and method["alpha"] == 0.5
  assert (data["train_examples"], data["padding"]) == (50_000, "zero")


def test_granet_on_imagenet():
  row, optimizer, method, data = parts(
    "imagenet", "resnet50,granet,sparsity=0.9,initial_sparsity=0.5"
  )
  assert (row["epochs"], row["batch_size"]) == (100, 128)
  assert optimizer["learning_rate"] == 0.1 and optimizer["nesterov"] is False
  assert optimizer["weight_decay"] == 1e-4 and optimizer["warmup_epochs"] == 5
  assert [100 * share for share in optimizer["drop_at"]] == [30, 60, 90]
  assert (method["end_epochs"], method["every_steps"]) == (30, 4000)
  assert row["label_smoothing"] == 0.1
  assert (data["name"], data["image_size"], data["resize"]) == (
    "imagenet",
    224,
    256,
  )


def test_rigl_on_imagenet():
  row, optimizer, method, _ = parts("imagenet", "resnet50,rigl,recipe=rigl")
  per_epoch = 1_281_167 // 4096
  assert row["batch_size"] == 4096
  assert row["epochs"] * per_epoch == pytest.approx(32_000)
  assert method["end_epochs"] * per_epoch == pytest.approx(25_000)
  assert (method["every_steps"], method["regrow_fraction"]) == (100, 0.3)
  drops = [share * row["epochs"] for share in optimizer["drop_at"]]
  assert drops == pytest.approx([30, 70, 90])
  assert optimizer["learning_rate"] == 1.6


@pytest.mark.parametrize(
  ("model", "epochs", "decay"),
  [("resnet50", 100, 5e-4), ("mobilenet_v1", 180, 4e-5)],
)
@pytest.mark.parametrize("method", ["optg,sparsity=0.8", "dense,recipe=optg"])
def test_optg_on_imagenet(model, epochs, decay, method):
  row, optimizer, _, _ = parts("imagenet", f"{model},{method}")
  assert (row["epochs"], row["batch_size"]) == (epochs, 256)
  assert optimizer["weight_decay"] == decay and optimizer["warmup_epochs"] == 5
  assert optimizer["learning_rate"] == 0.1 and row["label_smoothing"] == 0.1


@pytest.mark.parametrize("config", ["cifar", "imagenet"])
@pytest.mark.parametrize("name", sorted(sections.KINDS["method"].factories))
def test_every_method_has_a_row(config, name):
  for options in (name, f"{name},runlocal"):
    assert resolved(config, options)["method"]["name"] == name


@pytest.mark.parametrize(
  ("config", "options"),
  tiers.every(
    2,
    [
      ("cifar", "vgg19,cifar100,granet,sparsity=0.98,initial_sparsity=0.5"),
      ("cifar", "resnet20,accset"),
      ("imagenet", "mobilenet_v1,optg,sparsity=0.8"),
      ("imagenet", "resnet50,granet"),
    ],
  ),
)
def test_runlocal_is_twenty_steps_on_synthetic_images(config, options):
  argv = [f"--config={CONFIGS / config}.py:{options},runlocal"]
  experiment = build.build(command.parse(argv).config)
  assert experiment.steps.total == 20
  assert experiment.config["data"]["name"] == "synthetic"
  assert experiment.warnings == ()


def test_schedules_follow_the_length_of_the_run():
  row = resolved("cifar", "granet,epochs=16")
  assert row["epochs"] == 16 and row["method"]["end_epochs"] == 11
  row = resolved("cifar", "granet", "--config.epochs=32")
  assert row["method"]["end_epochs"] == 22
  row = resolved("imagenet", "optg", "--config.epochs=50")
  assert row["optimizer"]["warmup_epochs"] == 2.5


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ("vgg16", "Did you mean 'vgg19'"),
    ("static,initial_sparsity=0.5", "initial_sparsity"),
    ("recipe=granett", "Did you mean 'granet'"),
    ("cifar10,cifar100", "gives 'data' twice"),
  ],
)
def test_invalid_rows_raise(options, message):
  with pytest.raises(command_line.InputError, match=message):
    resolved("cifar", options)


@pytest.mark.parametrize("config", ["cifar", "imagenet"])
def test_missing_data_raises_before_compilation(config, tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  monkeypatch.setenv("HOME", str(tmp_path))
  argv = [f"--config={CONFIGS / config}.py:granet"]
  with pytest.raises(command_line.InputError, match="is not on disk") as caught:
    build.build(command.parse(argv).config)
  assert str(tmp_path) in str(caught.value)
