"""The files in `launch/` are valid, and name what the trainer knows."""

import copy
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

import jsonschema
import kubernetes_validate
import pytest
import yaml
from helpers import launch_schemas as schemas
from helpers.trainer import ROOT

from sparsejax import command_line
from sparsejax.training import outcomes
from sparsejax.training.config import command

LAUNCH, PAGE = ROOT / "launch", ROOT / "docs" / "pods.md"
SCRIPTS = sorted(
  path for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch")
)
JOBSETS = list(yaml.safe_load_all((LAUNCH / "jobset.yaml").read_text()))
SKY = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
# Another start with the same arguments would end in the same way.
FINAL = [command_line.BAD_INPUT, outcomes.NOT_FINITE]


def check(tool, *paths):
  program = pathlib.Path(sysconfig.get_path("scripts")) / tool
  found = shutil.which(program) or shutil.which(tool)
  assert found, f"{tool} is missing: pip install -e '.[dev]'"
  done = subprocess.run([found, *paths], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shell_files_pass_shellcheck(path):
  check("shellcheck", path)


def test_the_dockerfile_passes_hadolint():
  check("hadolint", LAUNCH / "Dockerfile")


def job(jobset):
  """Returns the Job that JobSet makes of its only replicated job."""
  (replicated,) = jobset["spec"]["replicatedJobs"]
  return {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": jobset["metadata"]["name"]},
    **replicated["template"],
  }


def container(jobset):
  (found,) = job(jobset)["spec"]["template"]["spec"]["containers"]
  return found


def validate_jobset(jobset):
  jsonschema.validate(jobset, schemas.JOBSET)
  version = kubernetes_validate.latest_version()
  kubernetes_validate.validate(job(jobset), version, strict=True)


@pytest.mark.parametrize("jobset", JOBSETS, ids=lambda x: x["metadata"]["name"])
def test_jobsets_are_valid_and_unknown_keys_are_not(jobset):
  validate_jobset(jobset)
  for path in ((), ("spec",), ("spec", "failurePolicy")):
    changed = copy.deepcopy(jobset)
    place = changed
    for key in path:
      place = place[key]
    place["maxRestart"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
      validate_jobset(changed)
  changed = copy.deepcopy(jobset)
  container(changed)["argument"] = []
  with pytest.raises(kubernetes_validate.ValidationError, match="argument"):
    validate_jobset(changed)


@pytest.mark.parametrize("jobset", JOBSETS, ids=lambda x: x["metadata"]["name"])
def test_jobsets_end_on_final_statuses_and_restart_as_a_whole(jobset):
  spec, policy = job(jobset)["spec"], jobset["spec"]["failurePolicy"]
  assert spec["completionMode"] == "Indexed" and spec["backoffLimit"] == 0
  assert spec["completions"] == spec["parallelism"]
  (rule,) = spec["podFailurePolicy"]["rules"]
  assert rule["action"] == "FailJob"
  assert rule["onExitCodes"] == {
    "containerName": container(jobset)["name"],
    "operator": "In",
    "values": FINAL,
  }
  assert policy["maxRestarts"] == 20
  (rule,) = policy["rules"]  # Everything else restarts the JobSet.
  assert rule["action"] == "FailJobSet"
  assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  pod = spec["template"]["spec"]
  assert pod["restartPolicy"] == "Never"  # What a failure policy needs.
  assert pod["terminationGracePeriodSeconds"] >= 120


def test_gpu_processes_find_the_first_pod():
  (gpu,) = (x for x in JOBSETS if x["metadata"]["name"].endswith("gpu"))
  (replicated,) = gpu["spec"]["replicatedJobs"]
  name = gpu["metadata"]["name"]
  args = dict(arg.split("=", 1) for arg in container(gpu)["args"])
  host = f"{name}-{replicated['name']}-0-0.{name}"
  assert args["--coordinator_address"].split(":")[0] == host
  assert args["--num_processes"] == str(job(gpu)["spec"]["completions"])


def test_the_sky_task_is_valid_and_unknown_keys_are_not():
  jsonschema.validate(SKY, schemas.SKY)
  for changed in (
    SKY | {"num_node": 2},
    SKY | {"resources": SKY["resources"] | {"spot": True}},
  ):
    with pytest.raises(jsonschema.ValidationError, match="unexpected"):
      jsonschema.validate(changed, schemas.SKY)


def test_the_sky_task_recovers_from_all_but_final_statuses():
  codes = SKY["resources"]["job_recovery"]["recover_on_exit_codes"]
  assert {1, command_line.LOST_PEER, outcomes.TERMINATED} <= set(codes)
  assert {128 + 6, 128 + 9, 128 + 11} <= set(codes)  # Abort, kill, fault.
  assert not {command_line.DONE, *FINAL} & set(codes)


# What precedes the trainer's arguments: its module, or a file in an example.
_START = re.compile(
  r"-m \S*sparsejax\.train|docker run sparsejax|^# .*launch/\w+\.\w+"
)


def commands():
  """Yields (where, arguments) of every start of the trainer."""
  for path in (*sorted(LAUNCH.iterdir()), PAGE):
    text = re.sub(r"\\\n#? *", "", path.read_text())
    text = re.sub(r"\$\([^)]*\)|\$\w+", "1", text)  # Values of variables.
    for line in re.sub("[\"'`]", "", text).splitlines():
      line = f"# {line}" if path == PAGE else line
      start = _START.search(line)
      if start and path.name != "jobset.yaml":
        words = re.findall(r"--[\w.]+=\S+", line[start.end() :])
        yield f"{path.name}: {line.strip()[:40]}", words
  for jobset in JOBSETS:
    words = [x.replace("$(PROCESS)", "1") for x in container(jobset)["args"]]
    yield f"jobset.yaml: {jobset['metadata']['name']}", words


COMMANDS = dict(commands())


def test_every_file_shows_a_command():
  shown = {
    where.partition(":")[0]
    for where, words in COMMANDS.items()
    if any(word.startswith("--config=") for word in words)
  }
  paths = {path.name for path in (*LAUNCH.iterdir(), PAGE)}
  assert shown == paths - {"Dockerfile.dockerignore"}


@pytest.mark.parametrize("where", COMMANDS)
def test_every_flag_and_config_parses(where):
  arguments = COMMANDS[where]
  if not any(arg.startswith("--config=") for arg in arguments):
    arguments = ["--config=digits", *arguments]
  command.parse(arguments)


def test_every_xla_flag_is_known():
  text = "".join(path.read_text() for path in LAUNCH.iterdir())
  flags = sorted(set(re.findall(r"--xla_\w+=\w+", text)))
  assert flags
  code = "import jax; jax.jit(lambda: 1)()"  # XLA ends at an unknown flag.
  environment = {**os.environ, "XLA_FLAGS": " ".join(flags)}
  subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.slurm
def test_the_steps_of_the_dockerfile_run_in_a_clean_environment(tmp_path):
  text = re.sub(r"\\\n", " ", (LAUNCH / "Dockerfile").read_text())
  lines = [line.split(" ", 1) for line in text.splitlines() if line[:1] != "#"]
  assert "COPY" in {step for step, _ in lines}
  steps = dict(lines)
  assert steps["STOPSIGNAL"] == "SIGTERM"
  environment, source = tmp_path / "environment", tmp_path / "source"
  subprocess.run(["git", "clone", "-q", ROOT, source], check=True)
  subprocess.run([sys.executable, "-m", "venv", environment], check=True)
  name, value = steps["ARG"].split("=")
  variables = {
    "PATH": f"{environment}/bin:/usr/bin:/bin",
    "HOME": str(tmp_path),
    name: value,
  }
  subprocess.run(
    ["sh", "-ec", steps["RUN"]], cwd=source, env=variables, check=True
  )
  entry = json.loads(steps["ENTRYPOINT"])  # In exec form, so signals arrive.
  subprocess.run(
    [
      *entry,
      "--config=digits:static,runlocal",
      f"--workdir={tmp_path / 'run'}",
    ],
    cwd=tmp_path,
    env=variables | {"JAX_PLATFORMS": "cpu"},
    check=True,
  )
  assert (tmp_path / "run" / "summary.json").exists()
