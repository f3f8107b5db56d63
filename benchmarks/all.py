"""All benchmarks of speed, memory and compile time, in sequence.

    python benchmarks/all.py

Takes a few minutes and writes `benchmarks/results/*_{cpu,gpu}.json`.
"""

import compile as compile_time
import selection
import step
import train_step

if __name__ == "__main__":
  for benchmark in (step, compile_time, selection, train_step):
    benchmark.main()
