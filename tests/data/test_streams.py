"""Streams: decoding, shuffling, sharding, and opening at any batch."""

import collections

import numpy as np
import pytest
from PIL import Image

from sparsejax.data import imagenet, images, streams, tfds_writer

TRAIN, TEST, SIZE = 46, 13, 16


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """A folder of data sets with a small `imagenet2012` of real JPEGs."""
  data_dir = tmp_path_factory.mktemp("data")
  write(data_dir, TRAIN, TEST)
  return data_dir


def write(data_dir, train, test):
  random = np.random.default_rng(5)
  features = {
    "file_name": tfds_writer.Feature("text"),
    "image": tfds_writer.Feature("jpeg", shape=(None, None, 3)),
    "label": tfds_writer.Feature(
      "label", names=[f"n{i:04d}" for i in range(1000)]
    ),
  }
  splits = {
    "train": [example(random, i) for i in range(train)],
    "validation": [example(random, i) for i in range(test)],
  }
  folder = data_dir / "imagenet2012" / "5.1.0"
  tfds_writer.write(folder, features, splits, description="generated", shards=3)


def example(random, index):
  """A smooth image of random size, labeled with its index."""
  height, width = random.integers(20, 60, 2)
  coarse = random.integers(0, 256, (4, 5, 3), np.uint8)
  picture = Image.fromarray(coarse).resize((int(width), int(height)))
  data = images.encode(np.asarray(picture), "jpeg", quality=90)
  name = f"{index}.JPEG".encode()
  return {"file_name": name, "image": data, "label": index}


@pytest.fixture(scope="module")
def dataset(data_dir):
  return imagenet(path=str(data_dir), image_size=SIZE, resize=20)


def take(stream, count, *, seed=1, size=8, first=0, rows=None):
  batches = streams.train_batches(
    stream, seed=seed, batch_size=size, first_batch=first, rows=rows
  )
  return [next(batches) for _ in range(count)]


def assert_same(one, other):
  assert len(one) == len(other)
  for left, right in zip(one, other, strict=True):
    for a, b in zip(left, right, strict=True):
      np.testing.assert_array_equal(a, b)


def test_imagenet_reads_the_folder(dataset):
  assert dataset.train.examples == TRAIN and dataset.test.examples == TEST
  assert dataset.provided == {"classes": 1000}
  (batch,) = take(dataset.train, 1)
  assert batch.images.shape == (8, SIZE, SIZE, 3)
  assert batch.images.dtype == np.uint8 and batch.labels.dtype == np.int32
  assert batch.valid.all()


def test_every_epoch_is_a_new_permutation(dataset):
  epoch = TRAIN // 8
  labels = [batch.labels for batch in take(dataset.train, 2 * epoch)]
  first, second = np.stack(labels).reshape(2, -1)
  for order in (first, second):
    assert np.unique(order).size == order.size == epoch * 8
  assert (first != second).any()
  other = np.concatenate([b.labels for b in take(dataset.train, 1, seed=2)])
  assert (first[:8] != other).any()


def share(size, process, processes):
  """Returns the rows of one of several processes."""
  each = size // processes
  return range(process * each, (process + 1) * each)


def test_shuffling_is_global_not_within_the_share_of_a_process(dataset):
  # Over many epochs each process sees every example.
  stream = dataset.train._replace(read=only_label, image_shape=(1, 1, 1))
  seen = [set(), set()]
  for process in (0, 1):
    rows = share(8, process, 2)
    for batch in take(stream, 40 * (TRAIN // 8), rows=rows):
      seen[process] |= set(batch.labels.tolist())
  assert seen[0] == seen[1] == set(range(TRAIN))


def only_label(record, random):
  del random  # Unused.
  return np.zeros((1, 1, 1), np.uint8), record["label"]


@pytest.mark.parametrize("first", [1, 4, 5, 13])
def test_a_stream_opened_at_a_later_batch_continues_exactly(dataset, first):
  whole = take(dataset.train, 16)
  assert_same(take(dataset.train, 16 - first, first=first), whole[first:])


@pytest.mark.parametrize("rows", [[0, 1], [2, 3, 4, 5], [1, 6, 7]])
def test_rows_are_those_of_the_whole_batch(dataset, rows):
  local = take(dataset.train, 7, first=3, rows=rows)
  for batch, part in zip(take(dataset.train, 7, first=3), local, strict=True):
    assert_same([streams.PaddedBatch(*(x[rows] for x in batch))], [part])


def position(record, random):
  """Reads an example that is its own label."""
  del random  # Unused.
  return np.zeros((1, 1, 1), np.uint8), record


@pytest.mark.parametrize(
  ("examples", "size", "processes", "stop", "seed"),
  [
    (12, 6, (1, 3), 1, 0),
    (40, 6, (3, 2), 7, 1),
    (37, 12, (2, 1), 4, 2**32 - 1),
  ],
)
def test_any_number_of_processes_reads_every_epoch_once(
  examples, size, processes, stop, seed
):
  """Also a run that is resumed by another number of processes."""
  stream = streams.Stream(
    range(examples), position, (1, 1, 1), examples, threads=1
  )
  per_epoch = examples // size
  parts, first = [], 0
  for count, end in zip(processes, (stop, 2 * per_epoch + stop), strict=True):
    local = [
      take(
        stream,
        end - first,
        seed=seed,
        size=size,
        first=first,
        rows=share(size, process, count),
      )
      for process in range(count)
    ]
    for batch in zip(*local, strict=True):
      parts.append(np.concatenate([part.labels for part in batch]))
    first = end
  for epoch in range(2):
    seen = np.concatenate(parts[epoch * per_epoch : (epoch + 1) * per_epoch])
    assert np.unique(seen).size == seen.size == per_epoch * size
  whole = take(stream, len(parts), seed=seed, size=size)
  np.testing.assert_array_equal(parts, [batch.labels for batch in whole])


def contents(batch):
  """The (label, crop) pairs of a batch."""
  return [
    (int(label), image.tobytes())
    for image, label in zip(batch.images, batch.labels, strict=True)
  ]


def test_batches_do_not_depend_on_threads(dataset):
  one = dataset.train._replace(threads=1)
  many = dataset.train._replace(threads=7)
  assert_same(take(one, 9, first=3), take(many, 9, first=3))


def test_batches_do_not_depend_on_worker_processes(dataset):
  workers = dataset.train._replace(workers=2)
  assert_same(take(workers, 9, first=3), take(dataset.train, 9, first=3))


def test_crops_differ_from_epoch_to_epoch(dataset):
  seen = collections.defaultdict(set)
  for batch in take(dataset.train, 3 * (TRAIN // 8)):
    for label, image in contents(batch):
      seen[label].add(image)
  several = [len(crops) for crops in seen.values()]
  assert max(several) == 3


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("size", [4, 8, 16, 64])
def test_every_test_example_is_valid_once(dataset, processes, size):
  seen = collections.Counter()
  for process in range(processes):
    rows = share(size, process, processes)
    batches = list(
      streams.eval_batches(dataset.test, batch_size=size, rows=rows)
    )
    assert len(batches) == -(-TEST // size)
    for batch in batches:
      assert batch.images.shape == (size // processes, SIZE, SIZE, 3)
      seen.update(batch.labels[batch.valid].tolist())
  assert seen == collections.Counter(range(TEST))


def test_a_bucket_is_refused():
  with pytest.raises(ValueError, match="mounted file system, got the URL gs:"):
    imagenet(path="gs://bucket")


def test_a_missing_folder_says_how_to_prepare_it(tmp_path):
  with pytest.raises(ValueError, match="imagenet2012 is not on disk.*tfds"):
    imagenet(path=str(tmp_path))


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"image_size": 300}, r"`image_size` must be in \[1, 256\]"),
    ({"workers": -1}, "`workers` and `threads` must be at least 0"),
  ],
)
def test_arguments_out_of_range_raise(data_dir, kwargs, message):
  with pytest.raises(ValueError, match=message):
    imagenet(path=str(data_dir), **kwargs)


def gradient(height, width):
  """An image whose red channel encodes the column and green the row."""
  red = np.broadcast_to(np.linspace(0, 255, width), (height, width))
  green = np.broadcast_to(np.linspace(0, 255, height)[:, None], red.shape)
  return np.stack([red, green, red], -1).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (64, 64)])
def test_test_images_are_center_crops(height, width):
  data = images.encode(gradient(height, width))
  found = images.resize_and_center_crop(data, 32, 24)
  assert found.shape == (24, 24, 3)
  # The center of the image stays in the center, at half the range.
  red, green = found[..., 0].astype(float), found[..., 1].astype(float)
  assert abs(red.mean() - 127) < 2 and abs(green.mean() - 127) < 2
  scale = 32 / min(height, width)
  spread = 255 * 23 / (np.array([width, height]) * scale)
  got = [
    red[:, -1].mean() - red[:, 0].mean(),
    green[-1].mean() - green[0].mean(),
  ]
  np.testing.assert_allclose(got, spread, rtol=0.05)


def test_random_crops_have_the_areas_and_aspect_ratios_of_torchvision():
  random = np.random.default_rng(0)
  boxes = np.array([images._crop_box(500, 375, random) for _ in range(2000)])
  left, top, right, bottom = boxes.T
  assert (left >= 0).all() and (right <= 500).all()
  assert (top >= 0).all() and (bottom <= 375).all()
  area = (right - left) * (bottom - top) / (500 * 375)
  aspect = (right - left) / (bottom - top)
  assert 0.079 < area.min() < 0.1 and area.max() > 0.9
  assert 0.74 < aspect.min() < 0.76 and 1.32 < aspect.max() < 1.35
  # Where almost any area fits, it is uniform.
  fits = area[abs(aspect - 4 / 3) < 0.05]
  assert fits.size > 100 and 0.47 < fits.mean() < 0.6


def test_the_fallback_is_the_largest_center_crop():
  box = images._crop_box(1000, 10, np.random.default_rng(0))
  assert box == (493, 0, 506, 10)


def test_half_of_the_random_crops_are_flipped():
  data = images.encode(gradient(40, 80))
  random = np.random.default_rng(1)
  crops = [images.random_resized_crop(data, 12, random) for _ in range(200)]
  flipped = [crop[0, 0, 0] > crop[0, -1, 0] for crop in crops]
  assert 70 < sum(flipped) < 130
  for crop in crops:
    assert crop.shape == (12, 12, 3)
    assert (np.diff(crop[..., 1].astype(int), axis=0) >= 0).all()
