"""Make a finished run smaller: `python -m sparsejax.export RUN --to=shrink`.

  RUN                     workdir of a finished run
  --to=TARGET,...         what to write (default: shrink,program)
                            weights  safetensors with the active values and a
                                     bit per weight, and a dense one; needs the
                                     extra `export`
                            shrink   the smaller parameters, shrunk.npz, for
                                     sparsejax.export.modules.load
                            program  program.bin, which jax.export loads without
                                     Flax and without sparsejax, for any batch
                                     size, on CPUs, NVIDIA GPUs and TPUs
                            onnx     network.onnx for onnxruntime, and the
                                     masked network, dense.onnx; needs the extra
                                     `onnx`
                            sparse   sparse.bin, as program.bin, with sparse
                                     layers where they are faster; for CPUs;
                                     nothing where none is
                            llama    a folder that Llama's loaders read, of a
                                     decoder-only transformer; needs the extra
                                     `export`
  --out=DIR               where to (default: RUN/export)
  --seconds=S             how long each network is timed (default: 1)

Dead filters, neurons and heads are removed; outputs stay the same, and are
compared. Matrix products with a sparse kernel are timed as sparse layers, too.
The report, on the terminal and in export.html, has sizes, multiply-adds,
accuracy, milliseconds at batch sizes 1 and 32 on this machine, and a verdict.

Exit status: 0 done, 2 bad input.
"""

import sys
from collections.abc import Sequence

from sparsejax import command_line


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command line.

  Args:
    argv: arguments without the program's name; `sys.argv` by default.

  Returns:
    The exit status.
  """

  def command(arguments: list[str]) -> int:
    from sparsejax.export import command  # Needs the extra `train`.

    return command.run(arguments)

  return command_line.run(command, argv, name="sparsejax.export", doc=__doc__)


if __name__ == "__main__":
  sys.exit(main())
