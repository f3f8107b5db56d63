"""ImageNet-1k (ILSVRC 2012): 1.28 million JPEGs of 1,000 classes, streamed.

Read from the `imagenet2012` folder that TensorFlow Datasets prepares in
array_record format.
"""

import functools
from typing import Any

import numpy as np

from sparsejax.data import tfds_folders
from sparsejax.data.augment import identity
from sparsejax.data.dataset import Dataset, labeled_images
from sparsejax.data.streams import Example, Stream

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NAME, _CLASSES = "imagenet2012", 1000
_FEATURES = {"image": bytes, "label": int}
_HINT = (
  "On a machine with TensorFlow, `tfds build imagenet2012"
  " --file_format=array_record --manual_dir=DIR` prepares it from"
  " ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar in DIR (reading it"
  " needs no TensorFlow). Or set `path` to the folder that contains it."
)


def imagenet(
  *,
  path: str = "",
  image_size: int = 224,
  resize: int = 256,
  workers: int = 0,
  threads: int = 0,
) -> Dataset:
  """Open ImageNet.

  Training images are cropped at random (8 to 100 % of the area), resized and
  flipped; test images, the 50,000 of ILSVRC's validation split, are resized and
  center-cropped. `workers` and `threads` affect the speed alone.

  Args:
    path: folder that contains `imagenet2012/VERSION`; "" looks in
      $TFDS_DATA_DIR and ~/tensorflow_datasets.
    image_size: height and width of the model's input.
    resize: shorter side of a test image before the center crop.
    workers: decoding processes; 0 decodes in threads of this process.
    threads: threads per process; 0 is one per core, or one per worker.

  Returns:
    The data set, both splits streamed.

  Raises:
    ValueError: if it is not on disk, a file is missing or damaged, or an
      argument is out of range.
  """
  if not 0 < image_size <= resize:
    raise ValueError(
      f"`image_size` must be in [1, {resize}], the `resize`, got {image_size}."
    )
  if workers < 0 or threads < 0:
    raise ValueError(
      "`workers` and `threads` must be at least 0, got"
      f" {workers} and {threads}."
    )
  folder = tfds_folders.find(_NAME, path, hint=_HINT)
  stream = functools.partial(
    Stream,
    image_shape=(image_size, image_size, 3),
    classes=_CLASSES,
    workers=workers,
    threads=threads,
  )
  return labeled_images(
    train=stream(
      tfds_folders.open_split(folder, "train", _FEATURES),
      functools.partial(random_crop, image_size),
    ),
    test=stream(
      tfds_folders.open_split(folder, "validation", _FEATURES),
      functools.partial(center_crop, resize, image_size),
    ),
    classes=_CLASSES,
    mean=(255 * np.array(_MEAN)).astype(np.float32),
    std=(255 * np.array(_STD)).astype(np.float32),
    augment=identity,
  )


def random_crop(
  size: int, record: dict[str, Any], random: np.random.Generator
) -> Example:
  """Returns a random crop of an encoded image, flipped or not, and its label.

  Args:
    size: height and width of the crop.
    record: "image", an encoded image, and "label".
    random: the generator for crop and flip.
  """
  from sparsejax.data import images  # Needs Pillow, which digits do not.

  return (
    images.random_resized_crop(record["image"], size, random),
    int(record["label"]),
  )


def center_crop(
  resize: int, size: int, record: dict[str, Any], random: np.random.Generator
) -> Example:
  """Returns the center crop of a resized image, and its label.

  Args:
    resize: shorter side before cropping.
    size: height and width of the crop.
    record: "image", an encoded image, and "label".
    random: unused.
  """
  from sparsejax.data import images

  del random  # Unused: evaluation is deterministic.
  return (
    images.resize_and_center_crop(record["image"], resize, size),
    int(record["label"]),
  )
