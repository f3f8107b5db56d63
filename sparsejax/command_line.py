"""What all command lines share: arguments, error messages, exit statuses.

Nothing here needs more than the standard library, so a command can say what to
install when a library is missing.
"""

import argparse
import contextlib
import difflib
import os
import pathlib
import re
import signal
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn

DONE, BAD_INPUT, LOST_PEER, INTERRUPTED, TERMINATED = 0, 2, 75, 130, 143
RESUME = "Saved checkpoints are intact: the same command resumes."
"""What a command that trains says after an interruption or a full disk."""

_OUT_OF_MEMORY = "out of memory"  # What jax says, in its own exceptions.
_MAX_LISTED, _MAX_SUGGESTED = 40, 5
_EXTRAS = {  # Of libraries that are not in the extra `train`.
  "matplotlib": "plots",
  "onnx": "onnx",
  "onnxruntime": "onnx",
  "safetensors": "export",
  "zstandard": "export",
}
_BACKENDS = "xla_bridge.py"  # Where jax finds devices; it may only assert.
_LINK_LOOP = "Symlink loop"  # Of pathlib before Python 3.13, no `OSError`.


class InputError(ValueError):
  """Bad input: the user sees the message alone, and the exit status is 2.

  The message names the argument, the value, the rule and the way out.
  """


class PeerError(RuntimeError):
  """Another process of the run is lost: the exit status is 75, start again.

  The message names the process.
  """


class Parser(argparse.ArgumentParser):
  """An argument parser that raises `InputError` instead of exiting.

  Options cannot be abbreviated. `run` handles `--help`: it prints the
  command's docstring.
  """

  def __init__(self) -> None:
    super().__init__(add_help=False, allow_abbrev=False)

  def error(self, message: str) -> NoReturn:
    """Raises `InputError`."""
    raise InputError(message)


class Progress:
  """Says how far a command is, and how long it still takes.

  A terminal shows one line that changes; a log gets a line from time to time.
  """

  def __init__(
    self, what: str, total: int | float, *, log_every_seconds: float = 30.0
  ):
    """Begins.

    Args:
      what: what is done, such as "Converting train".
      total: how much there is to do; 0 if that is not known.
      log_every_seconds: least time between lines of a log.
    """
    self._what, self._total = what, total
    self._log_every, self._began = log_every_seconds, time.monotonic()
    self._shown = self._began
    self._terminal = sys.stderr.isatty()

  def show(self, done: int | float) -> None:
    """Shows how much is done; most calls do nothing."""
    now = time.monotonic()
    wait = 0.2 if self._terminal else self._log_every
    if now - self._shown < wait or not self._total:
      return
    self._shown = now
    left = time_left(done, self._total, now - self._began)
    text = f"{self._what}: {done / self._total:.0%}{left}"
    end = "\r" if self._terminal else "\n"
    clear = "\x1b[2K" if self._terminal else ""
    print(f"{clear}{text}", end=end, file=sys.stderr, flush=True)

  def end(self) -> None:
    """Clears the line of a terminal."""
    if self._terminal:
      print("\x1b[2K", end="\r", file=sys.stderr, flush=True)


def time_left(done: int | float, total: int | float, seconds: float) -> str:
  """Returns how long the rest takes at the same speed.

  Args:
    done: how much is done.
    total: how much there is to do.
    seconds: that it took.

  Returns:
    Text to append, "" before anything is done.

  Examples:
    >>> time_left(1, 4, 40.0), time_left(3, 4, 5400.0), time_left(0, 4, 1.0)
    (', about 2 min left', ', about 30 min left', '')
  """
  if done <= 0:
    return ""
  left = max(seconds * (total - done) / done, 0.0)
  if left < 100:
    return f", about {left:.0f} s left"
  minutes = round(left / 60)
  if minutes < 100:
    return f", about {minutes} min left"
  return f", about {minutes / 60:.0f} h left"


def join_values(argv: Iterable[str]) -> list[str]:
  """Writes each `--name value` as `--name=value`.

  Examples:
    >>> join_values(["--workdir", "runs/1", "--list", "--config.seed=3"])
    ['--workdir=runs/1', '--list', '--config.seed=3']
  """
  joined: list[str] = []
  for arg in argv:
    follows = joined and re.fullmatch(r"--?[A-Za-z][\w.]*", joined[-1])
    if follows and not re.match(r"--?[A-Za-z]", arg):
      joined[-1] += f"={arg}"
    else:
      joined.append(arg)
  return joined


def path(text: str) -> pathlib.Path:
  """Parse the path of a file or folder, as a type for `Parser`.

  Raises:
    ArgumentTypeError: if it is empty, which would be the current folder, or a
      URL.
  """
  if not text:
    raise argparse.ArgumentTypeError("the path must not be empty")
  try:
    refuse_url("the path", text)
  except InputError as error:
    raise argparse.ArgumentTypeError(str(error)) from error
  return pathlib.Path(text)


def refuse_url(what: str, text: str) -> None:
  """Refuse a URL such as gs://bucket/run where a path is needed.

  Files are locked, appended to and renamed, which buckets do not offer; as a
  path, a URL would be a folder on this machine called `gs:`.

  Args:
    what: what the text is, e.g. "`--workdir`".
    text: a path, or a URL.

  Raises:
    InputError: if it is a URL.
  """
  if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
    raise InputError(
      f"{what} must be on a mounted file system, got the URL {text}. Mount what"
      " it names on every machine, and give the path there."
    )


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
  """Make the error for an unknown name.

  Args:
    what: where the name was given, e.g. "`config.method.name`".
    name: the name that was given.
    known: the valid names.

  Returns:
    An error with the nearest valid name and all valid names, or the nearest
    few if there are too many to list.
  """
  known = sorted(known)
  near = difflib.get_close_matches(name, known, n=_MAX_SUGGESTED, cutoff=0.4)
  guess = f" Did you mean {near[0]!r}?" if near else ""
  if len(known) <= _MAX_LISTED:
    return InputError(
      f"{what} got {name!r}.{guess} Valid: {', '.join(known) or 'none'}."
    )
  nearest = f" Nearest: {', '.join(near)}." if near else ""
  return InputError(
    f"{what} got {name!r}, which is none of the {len(known)} valid"
    f" names.{guess}{nearest}"
  )


def run(
  command: Callable[[list[str]], int],
  argv: Sequence[str] | None = None,
  *,
  name: str,
  doc: str | None,
  hint: str = "",
) -> int:
  """Run a command and turn errors that users cause into one line.

  Args:
    command: arguments -> exit status. It imports what `import sparsejax` does
      not need, so that a missing library is reported as well.
    argv: arguments without the program's name; `sys.argv` by default.
    name: the command's module, as in `python -m NAME`.
    doc: what `--help` prints.
    hint: what to do after an interruption or a full disk.

  Returns:
    The exit status.
  """
  arguments = list(sys.argv[1:] if argv is None else argv)
  if {"--help", "-h", "--helpfull"} & set(arguments):
    print(doc)
    return DONE
  # Who calls a command from Python decides what Ctrl-C does.
  with _interrupts(hint) if argv is None else contextlib.nullcontext():
    try:
      return command(arguments)
    except (Exception, KeyboardInterrupt) as error:
      explained = explain(error, name=name, hint=hint)
      if explained is None:
        raise
      status, line = explained
      with contextlib.suppress(OSError):  # The disk of the log may be full.
        print(line, file=sys.stderr, flush=True)
      return status


def explain(
  error: BaseException, *, name: str, hint: str = ""
) -> tuple[int, str] | None:
  """Explain an error that a user can fix, in one line.

  Args:
    error: what a command raised.
    name: the command's module.
    hint: what to do after an interruption or a full disk.

  Returns:
    The exit status and the line; `None` for a bug.
  """
  if isinstance(error, KeyboardInterrupt):
    return INTERRUPTED, _interrupted(hint)
  if isinstance(error, PeerError):
    return LOST_PEER, f"error: {error} {hint}".strip()
  message = _message(error, name, hint)
  return None if message is None else (BAD_INPUT, f"error: {message}")


@contextlib.contextmanager
def _interrupts(hint: str) -> Iterator[None]:
  """Lets a second Ctrl-C end the process at once.

  After the first, threads and open files may take long to finish; a second
  exception anywhere in there would print a traceback.
  """
  before = signal.getsignal(signal.SIGINT)
  if before is not signal.default_int_handler:
    yield  # Ignored, for example.
    return

  def end(number: int, frame: types.FrameType | None) -> None:
    del number, frame  # Nothing is left to do.
    os.write(2, f"{_interrupted(hint)}\n".encode())
    os._exit(INTERRUPTED)

  def interrupt(number: int, frame: types.FrameType | None) -> None:
    signal.signal(signal.SIGINT, end)
    signal.default_int_handler(number, frame)

  signal.signal(signal.SIGINT, interrupt)
  yield
  if signal.getsignal(signal.SIGINT) is interrupt:
    signal.signal(signal.SIGINT, before)


def _interrupted(hint: str) -> str:
  return f"Interrupted. {hint}".strip()


def _message(error: BaseException, name: str, hint: str) -> str | None:
  if isinstance(error, InputError):
    return str(error)
  if isinstance(error, ModuleNotFoundError):
    return _missing_library(error, name)
  if isinstance(error, OSError):  # Most of all a full disk.
    path = f"{error.filename}: " if error.filename else ""
    return f"{path}{error.strerror or error}. {hint}".strip()
  if isinstance(error, RuntimeError) and _LINK_LOOP in str(error):
    return f"{error}: a link in this path leads back to itself."
  reason = " ".join(str(error).split()).rstrip(".")
  if _raised_in(error) == _BACKENDS:
    wanted = os.environ.get("JAX_PLATFORMS", "")
    return (
      f"JAX has no device for JAX_PLATFORMS={wanted!r}:"
      f" {reason or 'it is not installed'}. Install jax for that device, such"
      " as 'sparsejax[cuda13]', or unset JAX_PLATFORMS."
    )
  if isinstance(error, MemoryError) or _OUT_OF_MEMORY in reason.lower():
    return (
      f"Out of memory: {reason or 'an allocation failed'}. Use a smaller model,"
      f" batch or data set, or raise the limit of the process. {hint}".strip()
    )
  return None


def _raised_in(error: BaseException) -> str:
  """Returns the name of the file that raised an error."""
  frames = traceback.extract_tb(error.__traceback__)
  return pathlib.Path(frames[-1].filename).name if frames else ""


def _missing_library(error: ModuleNotFoundError, name: str) -> str | None:
  library = (error.name or "sparsejax").partition(".")[0]
  if library == "sparsejax":
    return None  # A bug of ours.
  extra = _EXTRAS.get(library, "train")
  return (
    f"`python -m {name}` needs the extra `{extra}`: pip install"
    f" 'sparsejax[{extra}]' (there is no module {library!r})."
  )
