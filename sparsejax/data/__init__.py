"""The built-in data sets; a factory's keyword arguments are `config.data`."""

from collections.abc import Callable

from sparsejax.data.augment import Augment
from sparsejax.data.cifar import cifar10, cifar100
from sparsejax.data.dataset import Array, Dataset, Split
from sparsejax.data.digits import digits
from sparsejax.data.imagenet import imagenet
from sparsejax.data.streams import Stream
from sparsejax.data.synthetic import synthetic

DATASETS: dict[str, Callable[..., Dataset]] = {
  "digits": digits,
  "cifar10": cifar10,
  "cifar100": cifar100,
  "imagenet": imagenet,
  "synthetic": synthetic,
}

__all__ = [
  "DATASETS",
  "Array",
  "Augment",
  "Dataset",
  "Split",
  "Stream",
  "cifar10",
  "cifar100",
  "digits",
  "imagenet",
  "synthetic",
]
