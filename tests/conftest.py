"""Lets XLA compile quickly: most of the time that the tests take is compiling.

HLO passes, fusion among them, are those of users; LLVM optimizes less, and on
jax 0.10 XLA's older emitters make its input, as one module. Runs of the trainer
in a process of their own, and the tests that say so (`side_by_side.OPTIMIZED`),
compile as users do, and so do all with

    XLA_FLAGS= python -m pytest

All processes share one folder of compiled programs, so that none compiles what
another one has; it is removed at the end. `JAX_ENABLE_COMPILATION_CACHE=false`
compiles everything anew.
"""

import atexit
import os
import shutil
import tempfile
import time

import hypothesis
import jax
import pytest
from helpers import faults

QUICK = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):  # Later there are no other emitters.
  QUICK += " --xla_cpu_use_fusion_emitters=false"
  QUICK += " --xla_cpu_parallel_codegen_split_count=1"

# Read when the first device is used, and by processes that the tests start.
os.environ.setdefault("XLA_FLAGS", QUICK)

# For this process, and for those that it starts: of xdist, and of tests.
CACHE = "JAX_COMPILATION_CACHE_DIR"
if CACHE not in os.environ:
  os.environ[CACHE] = tempfile.mkdtemp(prefix="sparsejax-compiled-")
  atexit.register(shutil.rmtree, os.environ[CACHE], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
jax.config.update("jax_compilation_cache_dir", os.environ[CACHE])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

# What passes today passes tomorrow.
hypothesis.settings.register_profile("same_cases", derandomize=True)
hypothesis.settings.load_profile("same_cases")
hypothesis.settings.register_profile("many", max_examples=1000, deadline=None)


# The seed of random faults, also for the processes of xdist.
os.environ.setdefault(faults.SEED, str(time.time_ns() % 2**32))


def pytest_terminal_summary(terminalreporter, config):
  """Prints the seed."""
  if config.option.markexpr == "faults":
    seed = os.environ[faults.SEED]
    terminalreporter.write_line(f"{faults.SEED}={seed}")


# Files that take longest, though they have few tests: they begin first, so that
# no process is left alone with one.
SLOW = ("test_faults", "test_laws", "test_tables", "test_sharding")


def pytest_collection_modifyitems(items):
  """Puts slow files first."""
  items.sort(key=lambda item: not item.path.stem.startswith(SLOW))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """Keeps a file in one process: its tests share fixtures and compiled code."""
  if config.option.dist != "load":
    return None  # Another way was requested.
  from xdist.scheduler import LoadFileScheduling

  config.option.loadscopereorder = False  # By the number of tests.
  return LoadFileScheduling(config, log)
