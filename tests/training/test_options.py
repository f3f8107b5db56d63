"""Nothing in an option string is ever ignored."""

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


def test_nothing_gives_the_defaults():
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
def test_options_change_their_keys(text, changed):
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
def test_anything_else_is_refused(text, message):
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


def test_a_value_of_a_group_needs_no_key():
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
def test_groups_refuse_what_is_not_theirs(text, message):
  with pytest.raises(command_line.InputError, match=message):
    parse_row(text)
