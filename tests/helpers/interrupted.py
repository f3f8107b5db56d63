"""One of several processes that train; process 1 is signaled in an evaluation.

    python interrupted.py BATCH ARGUMENT...

BATCH counts the evaluated batches of process 1; the arguments are those of
`sparsejax.train`.
"""

import sys

import stopping  # Next to this script.

from sparsejax import train
from sparsejax.training import preemption


def main(batch, *argv):
  signaled = "--process_id=1" in argv
  stop = (
    stopping.StopInEvaluation(int(batch))
    if signaled
    else preemption.StopRequest()
  )
  return train.main(list(argv), stop=stop)


if __name__ == "__main__":
  sys.exit(main(*sys.argv[1:]))
