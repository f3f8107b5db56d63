"""What processes compare before they train together."""

import json
import pathlib

import numpy as np

from sparsejax.data import Split, labeled_images
from sparsejax.data.augment import identity
from sparsejax.training import agreement

CONFIG = {"seed": 3, "method": {"name": "set", "sparsity": 0.9}}


def test_facts_name_each_value_of_the_config():
  found = agreement.facts(CONFIG, pathlib.Path("/runs/1"))
  assert found["config.seed"] == 3
  assert found["config.method.sparsity"] == 0.9
  assert found["--workdir"] == "/runs/1"
  assert {"jax", "jaxlib", "flax", "optax", "numpy", "python"} <= set(found)
  assert found == json.loads(json.dumps(found))


def test_facts_follow_the_environment_and_the_source(monkeypatch, tmp_path):
  before = agreement.facts(CONFIG, None)
  monkeypatch.setenv("XLA_FLAGS", "--xla_test=1")
  package = tmp_path / "__init__.py"
  package.write_text("x = 1\n")
  monkeypatch.setattr(agreement.sparsejax, "__file__", str(package))
  one = agreement.facts(CONFIG, None)
  package.write_text("x = 2\n")
  two = agreement.facts(CONFIG, None)
  assert one["XLA_FLAGS"] == "--xla_test=1"
  differ = {name for name in one if one[name] != two[name]}
  assert differ == {"source of sparsejax"}
  assert {name for name in one if one[name] != before[name]} == {
    "XLA_FLAGS",
    "source of sparsejax",
  }


def test_one_pixel_changes_the_facts_of_the_data():
  images = np.zeros((5, 2, 2, 1), np.uint8)
  changed = images.copy()
  changed[4, 1, 1, 0] = 1
  labels = np.zeros(5, np.int32)
  one, two = (
    agreement.data_facts(
      labeled_images(
        Split(pixels[:4], labels[:4]),
        Split(pixels, labels),
        classes=2,
        mean=0.0,
        std=1.0,
        augment=identity,
      )
    )
    for pixels in (images, changed)
  )
  assert one["train split"] == two["train split"]
  assert one["test split"] != two["test split"]
  assert one["train split"]["examples"] == 4


def test_a_process_alone_agrees():
  agreement.check("alone", {"a": 1}, seconds=1.0)
