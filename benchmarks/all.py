"""All benchmarks of speed, memory and compile time, one after the other.

    python benchmarks/all.py

It takes some minutes and writes `benchmarks/results/*_{cpu,gpu}.json`.
"""

import compile as compile_time
import selection
import step
import train_step

if __name__ == "__main__":
  for benchmark in (step, compile_time, selection, train_step):
    benchmark.main()
