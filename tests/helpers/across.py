"""One of several processes that train on one mesh; prints the masks seen.

    python across.py AXIS INDEX COUNT PORT METHOD...

All devices lie on one axis of the mesh, `data` or `fsdp`. Prints a JSON object
for each method, with digests of the masks after every step.
"""

import itertools
import json
import sys

import jax
import meshes  # Next to this script.

from sparsejax.training import initial_state, processes


def main(axis, index, count, port, *methods):
  if int(count) > 1:
    processes.join(
      coordinator_address=f"127.0.0.1:{port}",
      num_processes=int(count),
      process_id=int(index),
    )
  devices = jax.device_count()
  shape = (devices, 1, 1) if axis == "data" else (1, devices, 1)
  for method in methods:
    run = meshes.Run(meshes.experiment(*meshes.METHODS[method]), shape)
    first = initial_state.create(run.chosen, run.mesh)
    masks = [
      meshes.masks_of(state)
      for state in itertools.islice(run.train(first), meshes.STEPS)
    ]
    print(json.dumps({"method": method, "masks": masks}), flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
