"""All benchmarks of speed, memory and compile time, in sequence.

    python benchmarks/all.py

Takes a few minutes.
"""

from collections.abc import Sequence

import compile as compile_time
import outputs
import selection
import step
import train_step


def main(argv: Sequence[str] | None = None) -> None:
  """Run the benchmarks and save their results."""
  options = outputs.options(__doc__, argv)
  for benchmark in (step, compile_time, selection, train_step):
    benchmark.run(options)


if __name__ == "__main__":
  main()
