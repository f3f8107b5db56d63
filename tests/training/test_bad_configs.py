"""A config file that cannot be used is refused in one line, before any data."""

import pathlib

import pytest

from sparsejax import command_line, train

_HEAD = """
import numpy as np
from ml_collections import ConfigDict
from sparsejax.training.config import files

def get_config(arg=None):
  path = files.find("`--config`", "digits")
  values = files.load(path).get_config("granet,runlocal").to_dict()
"""


def refused(capsys, folder: pathlib.Path, text: str, *arguments) -> str:
  """Returns the error message of a run with a config file."""
  file, workdir = folder / "mine.py", folder / "run"
  file.write_text(text)
  argv = [f"--config={file}", f"--workdir={workdir}", *arguments]
  assert train.main(argv) == command_line.BAD_INPUT
  captured = capsys.readouterr()
  assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
  assert captured.out == "" and not workdir.exists()
  return captured.err


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("def get_config(arg=None:", "mine.py, line 1, cannot be run: SyntaxError"),
    ("def get_config():\nreturn 1", "line 2, cannot be run: IndentationError"),
    ("x = '\0'", "mine.py cannot be run: SyntaxError"),
    ("\nraise RuntimeError('no')", "line 2, cannot be run: RuntimeError: no."),
    ("x = 1 / 0", "ZeroDivisionError: division by zero. Correct the file."),
    ("import absent_module", "No module named 'absent_module'"),
    ("import sparsejax.absent", "No module named 'sparsejax.absent'"),
    ("from sparsejax import absent", "line 1, cannot be run: ImportError"),
    ("open('/absent/file')", "FileNotFoundError"),
    ("import sys\nsys.exit(3)", "line 2, cannot be run: SystemExit: 3"),
    ("raise SystemExit", "cannot be run: SystemExit"),
    ("", "must define a function `get_config(arg=None)`"),
    ("get_config = 3", "must define a function `get_config(arg=None)`"),
    ("def get_config(): pass", "must define a function `get_config(arg=None)`"),
    ("def get_config(a, b): pass", "which takes the option string"),
    (
      "def get_config(arg): pass",
      "return an `ml_collections.ConfigDict`, got N",
    ),
    ("def get_config(arg): return {'seed': 1}", "got {'seed': 1}"),
    ("def get_config(arg): return 3", "`ml_collections.ConfigDict`, got 3"),
    ("def get_config(arg): return dict", "got <class 'dict'>"),
    ("def get_config(arg): yield 1", "got <generator object"),
    ("def get_config(arg): return get_config(arg)", "RecursionError"),
    (
      "def get_config(arg):\n  raise KeyError(3)",
      "line 2, cannot be run: KeyEr",
    ),
    ("def get_config(arg):\n  assert False", "cannot be run: AssertionError"),
    ("import sys\ndef get_config(arg):\n  sys.exit()", "line 3, cannot be run"),
    (_HEAD + "  return ConfigDict()", "`config.seed` is missing"),
    (
      _HEAD + "  values[3] = 1\n  return ConfigDict(values)",
      "`config` has keys of several types. Keys must be text.",
    ),
    (
      _HEAD + "  values['model'] = {3: 1}\n  return ConfigDict(values)",
      "`config.model` has the key 3. Keys must be text.",
    ),
    (
      _HEAD + "  values['model']['hidden'] = (10**9, 10**9)\n"
      "  return ConfigDict(values)",
      "`config.model` has 64000000000 weights in Dense_0/kernel, but counts",
    ),
  ],
)
def test_files(capsys, tmp_path, text, message):
  assert message in refused(capsys, tmp_path, text)


_INT, _FLOAT = "must be of type int, got", "must be of type float, got"
_BOOL, _STR = "must be of type bool, got", "must be of type str, got"
_RANGE, _SIZE = "must be an int32, at most 2147483647", "must be a finite float"
_GLOBS = "must be of type tuple[str, ...], got"
_INTS = "must be of type tuple[int, ...], got"
_FLOATS = "must be of type tuple[float, ...], got"
_LONG = "must be at most 97612893, because steps are int32 and an epoch has 22"
# Key: values and their messages.
_VALUES = {
  "seed": {
    "'a'": f"{_INT} 'a'",
    "'1'": f"{_INT} '1'",
    "1.5": f"{_INT} 1.5",
    "True": f"{_INT} True",
    "[1]": f"{_INT} [1]",
    "float('nan')": f"{_INT} nan",
    "np.int64(3)": f"{_INT} np.int64(3)",
    "np.arange(99).reshape(3, 33)": f"{_INT} array([[ 0, 1,",
    "2**70": _RANGE,
    "2**32": f"{_RANGE}, got 4294967296",  # As good as 0 for jax.
    "-1": "must be at least 0, got -1",
    "None": "is missing",
  },
  "epochs": {
    "'x'": f"{_FLOAT} 'x'",
    "True": f"{_FLOAT} True",
    "[1]": f"{_FLOAT} [1]",
    "1e300": f"{_SIZE}32, 0 or of a size from 1.2e-38 to 3.4e+38, got 1e+300",
    "1e-300": f"{_SIZE}32, 0 or of a size from 1.2e-38 to 3.4e+38, got 1e-300",
    "5e-324": _SIZE,
    "10**400": _SIZE,
    "float('nan')": _SIZE,
    "float('inf')": _SIZE,
    "1e9": _LONG,
    "0": "must be above 0, got 0",
    "-1": "must be above 0, got -1",
  },
  "epochs_multiplier": {
    "'x'": _FLOAT,
    "True": _FLOAT,
    "1e300": _SIZE,
    "float('nan')": _SIZE,
    "0": "must be above 0",
  },
  "batch_size": {"'x'": _INT, "2.0": _INT, "True": _INT, "2**40": _RANGE},
  "microbatches": {"1.0": _INT, "2**70": _RANGE, "0": "at least 1, got 0"},
  "dispatch_steps": {"1.5": _INT, "2**40": _RANGE, "0": "at least 1, got 0"},
  "log_every_steps": {"True": _INT, "2**40": _RANGE, "None": "is missing"},
  "eval_every_epochs": {"True": _FLOAT, "1e300": _SIZE, "1e9": _LONG},
  "checkpoint_every_epochs": {"'x'": _FLOAT, "1e-300": _SIZE, "1e9": _LONG},
  "forbid_warnings": {"3": f"{_BOOL} 3", "'no'": _BOOL, "0": _BOOL},
  "label_smoothing": {"True": _FLOAT, "2**2000": _SIZE, "1.0": "in [0, 1)"},
  "ema_decay": {"'a'": _FLOAT, "True": _FLOAT, "1e-300": _SIZE},
  "select": {
    "'*'": f"{_GLOBS} '*'. Give a tuple: ('*',)",
    "(1,)": f"{_GLOBS} [1]",
    "(None,)": f"{_GLOBS} [None]",
    "[['*']]": f"{_GLOBS} [['*']]",
    "3": f"{_GLOBS} 3",
    "None": "is missing",
  },
  "dense": {
    "('*',)": "`config.dense` leaves no sparse layer",
    "'*'": f"{_GLOBS} '*'. Give a tuple: ('*',)",
    "(1,)": f"{_GLOBS} [1]",
  },
  "sparsities": {
    "'a=0.5'": f"{_GLOBS} 'a=0.5'",
    "(1,)": f"{_GLOBS} [1]",
    "('*',)": "must hold items like 'classifier/*=0.8', got '*'",
  },
  "keep_steps": {
    "3": f"{_INTS} 3. Give a tuple: (3,)",
    "'a'": f"{_INTS} 'a'",
    "(1.5,)": f"{_INTS} [1.5]",
    "(True,)": f"{_INTS} [True]",
    "(2**70,)": _RANGE,
    "(3,)": "must hold multiples of 11",
  },
  "metric": {
    "3": f"{_STR} 3",
    "True": _STR,
    "('train_loss',)": _STR,
    "'bogus'": "got 'bogus'. Valid: train_accuracy",
  },
  "init_from": {"3": f"{_STR} 3", "True": _STR, "('a',)": _STR},
  "init_mode": {"3": f"{_STR} 3", "None": "is missing"},
  "init_step": {"True": _INT, "2**70": _RANGE, "-1": "at least 0, got -1"},
  "select_checkpoint": {"3": _STR, "['last']": _STR, "'bogus'": "Valid: best"},
  "method": {
    "'granet'": "must be a section, got 'granet'. Write one with",
    "3": "must be a section, got 3",
    "[('name', 'granet')]": "must be a section",
    "None": "is missing",
    "{}": f"`config.method.name` {_STR} None",
    "{'name': ['granet']}": f"`config.method.name` {_STR} ['granet']",
    "{'name': 'granit'}": "Did you mean 'granet'",
    "{'name': 'granet'}": "`config.method.sparsity` is missing",
  },
  "model": {"'mlp'": "must be a section", "{'name': 3}": _STR},
  "method.sparsity": {
    "'a'": f"{_FLOAT} 'a'",
    "True": _FLOAT,
    "(0.5,)": _FLOAT,
    "float('nan')": _SIZE,
    "1e-300": _SIZE,
    "90": "must be in [0, 1), got 90.0. Give a fraction: 0.9",
    "None": "is missing: 'granet' needs it",
  },
  "method.every_steps": {
    "2**40": f"{_RANGE}, got 1099511627776",
    "1.5": f"{_INT} 1.5",
    "'a'": _INT,
    "True": _INT,
    "(1,)": _INT,
    "float('nan')": _INT,
    "0": "must be a whole number of optimizer steps, at least 1, got 0",
  },
  "method.every_epochs": {
    "'a'": _FLOAT,
    "True": _FLOAT,
    "1e300": _SIZE,
    "float('inf')": _SIZE,
    "1e9": _LONG,
    "-1.0": "must not be negative",
  },
  "method.end_step": {"2**40": _RANGE, "1.5": _INT, "True": _INT},
  "method.end_epochs": {"'a'": _FLOAT, "1e300": _SIZE, "float('nan')": _SIZE},
  "method.begin_step": {"2**40": _RANGE, "1.5": _INT, "'a'": _INT},
  "method.regrow_fraction": {"True": _FLOAT, "1.5": "in [0, 1], got 1.5"},
  "method.scope": {
    "3": f"{_STR} 3",
    "['global']": f"{_STR} ['global']",
    "{}": f"{_STR} {{}}",
    "'globl'": "Did you mean 'global'",
  },
  "model.hidden": {
    "'abc'": f"{_INTS} 'abc'",
    "(1.5,)": f"{_INTS} [1.5]",
    "(True,)": f"{_INTS} [True]",
    "('a',)": f"{_INTS} ['a']",
    "[[1]]": f"{_INTS} [[1]]",
    "5": f"{_INTS} 5. Give a tuple: (5,)",
    "(2**70,)": _RANGE,
    "()": "must be positive widths, got ()",
  },
  "model.width": {"'a'": _FLOAT, "True": _FLOAT, "1e-300": _SIZE},
  "optimizer.learning_rate": {
    "'a'": _FLOAT,
    "True": _FLOAT,
    "(0.1,)": _FLOAT,
    "1e300": _SIZE,
    "1e-300": _SIZE,
    "None": "is missing: 'sgd' needs it",
  },
  "optimizer.momentum": {"True": _FLOAT, "2**2000": _SIZE, "1.0": "[0.0, 1.0)"},
  "optimizer.nesterov": {"3": f"{_BOOL} 3", "'no'": _BOOL, "0": _BOOL},
  "optimizer.undecayed": {"'*'": _GLOBS, "(1,)": _GLOBS, "3": _GLOBS},
  "optimizer.schedule": {"3": _STR, "['cosine']": _STR},
  "optimizer.warmup_steps": {"1.5": _INT, "True": _INT, "2**40": _RANGE},
  "optimizer.drop_at": {
    "0.5": f"{_FLOATS} 0.5. Give a tuple: (0.5,)",
    "'ab'": f"{_FLOATS} 'ab'",
    "(True,)": _FLOATS,
    "(None,)": _FLOATS,
    "(float('nan'),)": _SIZE,
  },
  "optimizer.bogus": {"1": "An argument of `config.optimizer` of 'sgd' got"},
  "data.validation": {"True": _INT, "1.5": _INT, "2**40": _RANGE},
  "data.max_shift": {"'a'": _INT, "1.5": _INT, "True": _INT},
  "bogus": {"1": "The config got 'bogus'. Valid: "},
}
_CASES = [
  (key, value, message)
  for key, messages in _VALUES.items()
  for value, message in messages.items()
]


@pytest.mark.parametrize(("key", "value", "message"), _CASES)
def test_values(capsys, tmp_path, key, value, message):
  item = "".join(f"[{part!r}]" for part in key.split("."))
  text = _HEAD + f"  values{item} = {value}\n  return ConfigDict(values)\n"
  error = refused(capsys, tmp_path, text)
  assert message in error
  assert key.rpartition(".")[2] in error and len(error) < 600


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("select=3", f"`config.select` {_GLOBS} [3]"),
    ("dense=('*',)", "`config.dense` leaves no sparse layer"),
    ("keep_steps=(1.5,)", f"`config.keep_steps` {_INTS} [1.5]"),
    ("model.hidden=abc", f"`config.model.hidden` {_INTS} ['abc']"),
    ("model.hidden=(1.5,)", f"`config.model.hidden` {_INTS} [1.5]"),
    (
      "model.hidden=(1000000000,1000000000)",
      "weights in Dense_0/kernel, but counts",
    ),
    ("optimizer.drop_at=('a',)", f"`config.optimizer.drop_at` {_FLOATS} ['a']"),
    ("seed=True", f"`config.seed` {_INT} 'True'"),
    (f"seed={2**70}", f"`config.seed` {_RANGE}"),
    ("epochs=1e300", f"`config.epochs` {_SIZE}"),
    ("epochs=1e-300", f"`config.epochs` {_SIZE}"),
    ("epochs=1e9", f"`config.epochs` {_LONG}"),
    ("forbid_warnings=3", f"`config.forbid_warnings` {_BOOL} '3'"),
    ("method.every_epochs=1e9", f"`config.method.every_epochs` {_LONG}"),
    (f"optimizer.warmup_steps={2**40}", f"warmup_steps` {_RANGE}"),
    ("metric=train_loss", "`config.metric` is None in the config file"),
  ],
)
def test_values_of_flags(capsys, tmp_path, argument, message):
  text = _HEAD + "  values['optimizer']['warmup_steps'] = 0\n"
  text += "  return ConfigDict(values)\n"
  assert message in refused(capsys, tmp_path, text, f"--config.{argument}")


def test_extended_training_that_is_too_long_is_refused(capsys, tmp_path):
  text = _HEAD + "  values['epochs_multiplier'] = 1e6\n"
  text += "  values['epochs'] = 1e-3\n"
  text += "  values['method']['end_step'] = 5_000\n"
  text += "  return ConfigDict(values)\n"
  error = refused(capsys, tmp_path, text)
  assert f"`config.method.end_step` {_RANGE}, got 5000000000" in error


def test_values_are_checked_before_data_is_loaded(capsys, tmp_path):
  argv = ["--config=cifar:granet", f"--config.data.path={tmp_path}"]
  assert train.main([*argv, "--config.method.every_steps=0"]) == 2
  assert str(tmp_path) in capsys.readouterr().err  # There is no data.
  argv.append(f"--config.optimizer.warmup_steps={2**31}")
  assert train.main(argv) == 2
  assert _RANGE in capsys.readouterr().err
