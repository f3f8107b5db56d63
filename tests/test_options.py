"""Nothing in an option string is ever ignored."""

import pytest

from sparsejax.training import errors, options

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
  with pytest.raises(errors.InputError, match=message):
    parse(text)
