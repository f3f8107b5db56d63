"""A real Slurm of two nodes on this machine, from Debian's packages."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol")
PACKAGES = "slurmctld slurmd slurm-client"

# Both nodes are this machine. JAX resolves the name of the first one.
_CONF = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SchedulerParameters=batch_sched_delay=0,sched_interval=5
KillWait=30
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP
"""
_NODE = (
  "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2"
  " Boards=1 SocketsPerBoard=1 CoresPerSocket=2 ThreadsPerCore=1"
)


class Cluster:
  """Commands of a running cluster."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

  def call(self, *command: str, **changes) -> str:
    """Returns what a command prints."""
    done = subprocess.run(
      command,
      env=self.env | changes,
      capture_output=True,
      text=True,
      timeout=60,
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout.strip()

  def submit(self, *arguments: str, **changes) -> str:
    """Submits a batch script; returns the job's number."""
    return self.call("sbatch", "--parsable", *arguments, **changes)

  def job(self, number: str) -> dict[str, str]:
    """Returns what Slurm knows of a job, by field."""
    text = self.call("scontrol", "--oneliner", "show", "job", number)
    return dict(field.split("=", 1) for field in text.split() if "=" in field)


def missing() -> str | None:
  """Returns why no cluster can be started here, `None` if one can."""
  absent = [
    name for name in PROGRAMS if shutil.which(name, path=_path()) is None
  ]
  if absent:
    return f"{absent[0]} is missing: apt-get install {PACKAGES}"
  return None


@contextlib.contextmanager
def running(folder: pathlib.Path):
  """Yields a cluster, whose files are in a folder."""
  names, ports = ("n1", "n2"), free_ports(3)
  nodes = [
    _NODE.format(name=name, host=socket.gethostname(), port=port)
    for name, port in zip(names, ports[1:], strict=True)
  ]
  (folder / "state").mkdir()
  (folder / "slurm.conf").write_text(
    _CONF.format(
      folder=folder,
      user=os.environ.get("USER", "root"),
      ports=ports,
      nodes="\n".join(nodes),
    )
  )
  cluster = Cluster(folder)
  daemons = [["slurmctld", "-D"]]
  daemons += [["slurmd", "-D", "-N", name] for name in names]
  started = []
  try:
    for command in daemons:
      program = shutil.which(command[0], path=_path())
      assert program is not None
      started.append(
        subprocess.Popen(
          [program, *command[1:]],
          env=cluster.env,
          stdout=subprocess.DEVNULL,
          stderr=subprocess.DEVNULL,
        )
      )
    _wait_until_idle(cluster)
    yield cluster
  finally:
    for process in reversed(started):
      process.terminate()
      process.wait(60)


def _path() -> str:
  # Debian's daemons are in a folder that only root's PATH has.
  return os.pathsep.join([os.environ["PATH"], "/usr/sbin"])


def free_ports(count: int) -> list[int]:
  with contextlib.ExitStack() as stack:
    servers = [stack.enter_context(socket.socket()) for _ in range(count)]
    for server in servers:
      server.bind(("127.0.0.1", 0))
    return [server.getsockname()[1] for server in servers]


def _wait_until_idle(cluster: Cluster) -> None:
  deadline = time.monotonic() + 60
  states = ""
  while time.monotonic() < deadline:
    with contextlib.suppress(AssertionError):
      states = cluster.call("sinfo", "-h", "-N", "-o", "%T")
      if states.split() == ["idle", "idle"]:
        return
    time.sleep(0.2)
  logs = [path.read_text()[-2000:] for path in cluster.folder.glob("*.log")]
  raise AssertionError(
    f"the nodes are not idle: {states!r}\n" + "\n".join(logs)
  )
