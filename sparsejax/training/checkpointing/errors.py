"""Errors of checkpoints, and one-line descriptions of their causes."""

_DISK_FULL_TEXTS = ("no space left", "quota exceeded", "file too large")


class CheckpointError(Exception):
  """A checkpoint could not be saved, or does not belong to this run."""


class DamagedError(Exception):
  """What was read differs from what was written."""


def cause(error: BaseException) -> str:
  """Returns one line; names a full disk, however deeply it is wrapped."""
  link: BaseException | None = error
  while link is not None:
    if any(text in str(link).lower() for text in _DISK_FULL_TEXTS):
      return "the disk is full or a quota is reached"
    link = link.__cause__ or link.__context__
  return first_line(error)


def first_line(error: BaseException) -> str:
  """Returns the type and the first line of an error, at most 160 characters."""
  lines = str(error).splitlines() or [""]
  return f"{type(error).__name__}: {lines[0][:160]}"
