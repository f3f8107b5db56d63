"""No part of an option string is ignored."""

import pytest

from sparsejax import command_line
from sparsejax.training.config import options

DEFAULTS = {"name": "granet", "sparsity": None, "model": "mlp", "seed": 0}


def parse(text):
  return options.parse(
    text,
    names=("granet", "rigl"),
    words=("runlocal",),
    defaults=DEFAULTS,
  )


def test_no_options_give_the_defaults():
  assert parse(None) == parse("") == {**DEFAULTS, "runlocal": False}


@pytest.mark.parametrize(
  ("text", "changed"),
  [
    ("rigl", {"name": "rigl"}),
    ("runlocal", {"runlocal": True}),
    ("rigl,runlocal,seed=3", {"name": "rigl", "runlocal": True, "seed": 3}),
    ("sparsity=0.8,model=cnn", {"sparsity": 0.8, "model": "cnn"}),
  ],
)
def test_options_set_their_keys(text, changed):
  assert parse(text) == {**DEFAULTS, "runlocal": False, **changed}


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("rigl,granet", "The option string got 'granet'. Valid: runlocal"),
    ("runlocals", "Did you mean 'runlocal'"),
    ("rigl,", "The option string got ''"),
    ("rigl,sparsity", "The option string got 'sparsity'"),
    ("rigl,sparsty=0.9", "Did you mean 'sparsity'"),
    ("name=rigl", "The option string got 'name'"),
    ("seed=1.5", "'seed=1.5' needs a value of type int"),
    ("seed=1,seed=2", "'seed=2' gives 'seed' twice"),
  ],
)
def test_anything_else_raises(text, message):
  with pytest.raises(command_line.InputError, match=message):
    parse(text)


GROUPS = {"model": ("mlp", "cnn"), "method": ("granet", "rigl")}


def parse_row(text):
  return options.parse(
    text,
    words=("runlocal",),
    groups=GROUPS,
    defaults={"model": "mlp", "method": "granet", "steps": int, "rate": float},
  )


def test_values_of_a_group_need_no_key():
  rest = {"steps": None, "rate": None}
  wanted = {"model": "cnn", "method": "rigl", "runlocal": False, **rest}
  assert parse_row("cnn,rigl") == wanted
  assert parse_row("rigl,model=cnn") == wanted
  given = parse_row("steps=3,runlocal,rate=1")
  assert (given["steps"], given["rate"]) == (3, 1.0)
  assert isinstance(given["rate"], float) and given["model"] == "mlp"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("cnn,mlp", "'mlp' gives 'model' twice"),
    ("model=vgg", "The option 'model' got 'vgg'. Valid: "),
    ("rigle", "Did you mean 'rigl'"),
    ("steps=1.5", "needs a value of type int"),
  ],
)
def test_invalid_values_of_groups_raise(text, message):
  with pytest.raises(command_line.InputError, match=message):
    parse_row(text)


def test_method_options_in_epochs_replace_arguments_in_steps():
  chosen = dict.fromkeys(options.METHOD_OPTIONS) | {"every_epochs": 2.0}
  arguments = {"every_steps": 4, "end_epochs": 9.0}
  expected = {"end_epochs": 9.0, "every_epochs": 2.0}
  assert options.update(arguments, chosen) == expected
