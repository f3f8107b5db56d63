"""What the trainer trains: a task draws batches, and has a loss and metrics."""

from sparsejax.tasks.image_classification import image_classification
from sparsejax.tasks.next_token import next_token
from sparsejax.tasks.task import Batch, Loss, Measure, Task

__all__ = [
  "Batch",
  "Loss",
  "Measure",
  "Task",
  "image_classification",
  "next_token",
]
