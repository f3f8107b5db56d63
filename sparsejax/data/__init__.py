"""The built-in data sets; a factory's keyword arguments are `config.data`."""

from collections.abc import Callable

from sparsejax.data.augment import Augment
from sparsejax.data.cifar import cifar10, cifar100
from sparsejax.data.dataset import Dataset, labeled_images
from sparsejax.data.digits import digits
from sparsejax.data.imagenet import imagenet
from sparsejax.data.splits import Array, Resident, Rows, Split
from sparsejax.data.streams import Stream
from sparsejax.data.synthetic import synthetic
from sparsejax.data.text import (
  stdlib,
  stdlib_digest,
  text_folder,
  tiny_shakespeare,
)
from sparsejax.data.tokens import tokens
from sparsejax.data.windows import Windows

DATASETS: dict[str, Callable[..., Dataset]] = {
  "digits": digits,
  "cifar10": cifar10,
  "cifar100": cifar100,
  "imagenet": imagenet,
  "synthetic": synthetic,
  "stdlib": stdlib,
  "text_folder": text_folder,
  "tiny_shakespeare": tiny_shakespeare,
  "tokens": tokens,
}

__all__ = [
  "DATASETS",
  "Array",
  "Augment",
  "Dataset",
  "Resident",
  "Rows",
  "Split",
  "Stream",
  "Windows",
  "cifar10",
  "cifar100",
  "digits",
  "imagenet",
  "labeled_images",
  "stdlib",
  "stdlib_digest",
  "synthetic",
  "text_folder",
  "tiny_shakespeare",
  "tokens",
]
