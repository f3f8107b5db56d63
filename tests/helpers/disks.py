"""Small file systems that tests fill."""

import contextlib
import pathlib
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size_bytes: int, *, inodes: int = 0):
  """Mounts a file system of this size, or skips where that is not allowed.

  Args:
    folder: where to mount it; does not exist.
    size_bytes: space for files.
    inodes: how many files and folders fit, its root included; 0 for any number.
  """
  folder.mkdir()
  options = f"size={size_bytes},nr_inodes={inodes}"
  mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip("mounting a small file system needs root")
  try:
    yield
  finally:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def resize(folder: pathlib.Path, size_bytes: int, *, inodes: int) -> None:
  """Changes the size of a mounted disk."""
  remount(folder, f"size={size_bytes},nr_inodes={inodes}")


def remount(folder: pathlib.Path, options: str) -> None:
  """Mounts a disk again, with other options such as `ro`."""
  mount = ["mount", "-o", f"remount,{options}", str(folder)]
  subprocess.run(mount, check=True)


def fill(file: pathlib.Path) -> None:
  """Writes zeros to a file until the disk is full."""
  with contextlib.suppress(OSError), open(file, "wb", buffering=0) as ballast:
    while ballast.write(bytes(65536)):
      pass
