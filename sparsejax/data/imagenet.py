"""ImageNet-1k (ILSVRC 2012), streamed: 1.28 million JPEG files, 1,000 classes.

Read from the folder that TensorFlow Datasets prepares as `imagenet2012`, in
the format array_record.
"""

import functools
from typing import Any

import numpy as np

from sparsejax.data import folders
from sparsejax.data.augment import nothing
from sparsejax.data.dataset import Dataset
from sparsejax.data.streams import Example, Stream

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NAME, _CLASSES = "imagenet2012", 1000
_REMEDY = (
  "Where TensorFlow is installed, `tfds build imagenet2012"
  " --file_format=array_record --manual_dir=DIR` prepares it from"
  " ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar in DIR; reading it"
  " needs no TensorFlow. Or give the folder that holds it as `path`."
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
  mirrored; test images, the 50,000 of the validation split, are resized and
  cropped in the middle. `config.data.workers` and `threads` change the speed
  and nothing else.

  Args:
    path: folder that holds `imagenet2012/VERSION`; "" looks in $TFDS_DATA_DIR
      and ~/tensorflow_datasets.
    image_size: height and width of what the model sees.
    resize: the shorter side of a test image before its middle is cropped.
    workers: processes that decode beside this one; 0 decodes in threads.
    threads: threads of each process; 0 takes one per core, or one in each
      worker.

  Returns:
    The data set, both parts streamed.

  Raises:
    ValueError: if it is not on the disk, or a number is out of range.
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
  folder = folders.find(_NAME, path, remedy=_REMEDY)
  stream = functools.partial(
    Stream,
    image_shape=(image_size, image_size, 3),
    workers=workers,
    threads=threads,
  )
  return Dataset(
    train=stream(
      folders.records(folder, "train", raw=["image"]),
      functools.partial(read_train, image_size),
    ),
    test=stream(
      folders.records(folder, "validation", raw=["image"]),
      functools.partial(read_test, resize, image_size),
    ),
    classes=_CLASSES,
    mean=(255 * np.array(_MEAN)).astype(np.float32),
    std=(255 * np.array(_STD)).astype(np.float32),
    augment=nothing,
  )


def read_train(
  size: int, record: dict[str, Any], random: np.random.Generator
) -> Example:
  """Returns a random crop of an encoded image, mirrored or not, and its label.

  Args:
    size: height and width of the result.
    record: "image", the bytes of a file, and "label".
    random: what is drawn from.
  """
  from sparsejax.data import images  # It needs Pillow; digits need none of it.

  return (
    images.random_resized_crop(record["image"], size, random),
    int(record["label"]),
  )


def read_test(
  resize: int, size: int, record: dict[str, Any], random: np.random.Generator
) -> Example:
  """Returns the middle of an encoded image after resizing, and its label.

  Args:
    resize: the shorter side before cropping.
    size: height and width of the result.
    record: "image", the bytes of a file, and "label".
    random: not used.
  """
  from sparsejax.data import images

  del random  # Nothing is drawn where a part is judged.
  return (
    images.resize_and_center(record["image"], resize, size),
    int(record["label"]),
  )
