"""Records of a finished run, written without training."""

import json
import pathlib
from typing import Any

CONFIG: dict[str, Any] = {
  "seed": 0,
  "epochs_multiplier": 1.0,
  "model": {"name": "mlp", "width": 1.0},
  "data": {"name": "digits"},
  "method": {"name": "gmp", "sparsity": 0.9, "scope": "global"},
}
SUMMARY: dict[str, Any] = {
  "method": "gmp",
  "model": "mlp",
  "data": "digits",
  "seed": 0,
  "steps": 3,
  "selected_step": 3,
  "epochs_multiplier": 1.0,
  "init_method": None,
  "init_mode": None,
  "init_step": None,
  "test_accuracy": 0.975,
  "test_loss": 0.5,
  "sparsity": 0.9,
  "target_sparsity": 0.9,
  "equivalent_sparsity": None,
  "active": 2,
  "requested": 2,
  "total": 20,
  "kernel_parameters": 20,
  "itop_rate": None,
  "inference_macs": 2,
  "dense_inference_macs": 20,
  "inference_flops": 4.0,
  "inference_flops_ratio": 0.1,
  "training_flops": 24.0,
  "training_flops_ratio": 0.2,
  "mask_updates": 1,
  "layers": [
    {
      "name": "Dense_0/kernel",
      "position": 0,
      "macs": 20,
      "shape": [4, 5],
      "total": 20,
      "active": 2,
      "sparsity": 0.9,
    }
  ],
  "resumed_from_step": None,
  "compile_seconds": 1.0,
  "train_seconds": 2.0,
  "mask_update_seconds": None,
}
ROWS: list[dict[str, Any]] = [
  {"step": step, "loss": 1 / step, "active": 2, "sparsity": 0.9}
  for step in (1, 2)
] + [
  {"step": 3, "loss": None, "active": 2, "sparsity": 0.9, "test_accuracy": 0.9}
]


def write(folder: pathlib.Path, *, config=None, summary=None, rows=None):
  """Writes the records, with changes of the ones above; returns the folder."""
  folder.mkdir(parents=True, exist_ok=True)
  found = {
    "config.json": CONFIG | (config or {}),
    "summary.json": SUMMARY | (summary or {}),
  }
  for name, value in found.items():
    (folder / name).write_text(json.dumps(value))
  lines = [json.dumps(row) + "\n" for row in (ROWS if rows is None else rows)]
  (folder / "metrics.jsonl").write_text("".join(lines))
  return folder
