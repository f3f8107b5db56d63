"""CIFAR from the original archive to a `Dataset`, with generated archives."""

import bz2
import gzip
import hashlib
import io
import lzma
import pathlib
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from sparsejax.data import (
  Split,
  cifar10,
  cifar100,
  prepare,
  tfds_folders,
  tfds_writer,
)

CLASSES_10 = "airplane automobile bird cat deer dog frog horse ship truck"
COUNTS = {"train": 100, "test": 20}


class Archive:
  """An archive in the layout of the original, with random pixels."""

  def __init__(self, file, name, truncate=0):
    random = np.random.default_rng(7)
    labels = {"cifar10": 1, "cifar100": 2}[name]
    classes = {"cifar10": 10, "cifar100": 100}[name]
    self.file = file
    self.rows = {
      split: random.integers(0, 256, (count, labels + 3072), np.uint8)
      for split, count in COUNTS.items()
    }
    for rows in self.rows.values():
      rows[:, 0] = random.integers(0, 10 if labels == 1 else 20, len(rows))
      rows[:, labels - 1] = random.integers(0, classes, len(rows))
    self.labels = labels
    members = self._members(name)
    with tarfile.open(file, "w:gz") as archive:
      for member, content in members.items():
        info = tarfile.TarInfo(f"{name}-batches-bin/{member}")
        info.size = len(content) - truncate
        archive.addfile(info, io.BytesIO(content[: info.size]))
    self.sha256 = hashlib.sha256(file.read_bytes()).hexdigest()

  def _members(self, name):
    train, test = self.rows["train"].tobytes(), self.rows["test"].tobytes()
    if name == "cifar100":
      return {
        "coarse_label_names.txt": "\n".join(
          f"c{i}" for i in range(20)
        ).encode(),
        "fine_label_names.txt": "\n".join(f"f{i}" for i in range(100)).encode(),
        "train.bin": train,
        "test.bin": test,
      }
    size = len(train) // 5
    return {
      "batches.meta.txt": CLASSES_10.replace(" ", "\n").encode() + b"\n\n",
      **{
        f"data_batch_{i + 1}.bin": train[i * size : (i + 1) * size]
        for i in range(5)
      },
      "test_batch.bin": test,
    }

  def images(self, split):
    pixels = self.rows[split][:, self.labels :].reshape(-1, 3, 32, 32)
    return pixels.transpose(0, 2, 3, 1)

  def targets(self, split):
    return self.rows[split][:, self.labels - 1]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
  return Archive(
    tmp_path_factory.mktemp("archive") / "archive.tar.gz", "cifar10"
  )


@pytest.fixture(scope="module")
def data_dir(archive, tmp_path_factory):
  """A folder of data sets with the prepared archive."""
  data_dir = tmp_path_factory.mktemp("data")
  assert run(archive, data_dir, f"--archive={archive.file}") == 0
  return data_dir


def run(archive, data_dir, *args, name="cifar10"):
  return prepare.main(
    [name, f"--path={data_dir}", f"--sha256={archive.sha256}", *args]
  )


def load(factory=cifar10, **kwargs):
  return factory(**{"train_examples": 100, **kwargs})


def test_preparing_preserves_pixels_and_labels(archive, data_dir):
  dataset = load(path=str(data_dir))
  for split in COUNTS:
    found = getattr(dataset, split)
    np.testing.assert_array_equal(found.images, archive.images(split))
    np.testing.assert_array_equal(found.labels, archive.targets(split))
  assert dataset.provided == {"classes": 10}
  assert found.images.dtype == np.uint8 and found.labels.dtype == np.int32


def test_cifar100_has_the_fine_labels(tmp_path):
  archive = Archive(tmp_path / "archive.tar.gz", "cifar100")
  assert (
    run(archive, tmp_path, f"--archive={archive.file}", name="cifar100") == 0
  )
  dataset = load(cifar100, path=str(tmp_path))
  np.testing.assert_array_equal(dataset.train.labels, archive.targets("train"))
  np.testing.assert_array_equal(dataset.test.images, archive.images("test"))
  assert dataset.provided == {"classes": 100}
  assert dataset.validation is None


def test_validation_is_the_last_training_examples(archive, data_dir):
  dataset = load(path=str(data_dir), train_examples=90)
  np.testing.assert_array_equal(
    dataset.train.images, archive.images("train")[:90]
  )
  np.testing.assert_array_equal(
    dataset.validation.images, archive.images("train")[90:]
  )


def test_official_ids_restore_the_original_order(archive, tmp_path):
  folder = tmp_path / "cifar10" / "3.0.2"
  source = tfds_folders.open_split(
    prepared(archive, tmp_path / "once"),
    "train",
    {"id": bytes, "image": bytes, "label": int},
  )
  order = np.random.default_rng(0).permutation(len(source))
  shuffled = [source[int(i)] for i in order]
  features = {
    "id": tfds_writer.Feature("text"),
    "image": tfds_writer.Feature("png", shape=(32, 32, 3)),
    "label": tfds_writer.Feature("label", names=CLASSES_10.split()),
  }
  splits = {"train": shuffled, "test": shuffled}
  tfds_writer.write(folder, features, splits, description="shuffled", shards=3)
  dataset = load(path=str(tmp_path))
  np.testing.assert_array_equal(dataset.train.images, archive.images("train"))


def prepared(archive, data_dir) -> pathlib.Path:
  assert run(archive, data_dir, f"--archive={archive.file}") == 0
  return tfds_folders.find("cifar10", str(data_dir), hint="")


def test_download_is_verified_and_prepared(archive, tmp_path):
  assert (
    run(archive, tmp_path, "--download", f"--url={archive.file.as_uri()}") == 0
  )
  np.testing.assert_array_equal(
    load(path=str(tmp_path)).test.images, archive.images("test")
  )
  assert [path.name for path in (tmp_path / "cifar10").iterdir()] == ["3.0.2"]


def test_an_existing_folder_is_left_unchanged(archive, data_dir, capsys):
  assert run(archive, data_dir, "--archive=nothing") == 0
  assert "is there already; nothing was changed" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["--archive={missing}"], "No such file or directory"),
    (["--archive={file}", "--sha256=00"], "should be 00. Download it again"),
    (["--download", "--url={missing_url}"], "could not be downloaded"),
    (["--download", "--url=nonsense"], "could not be downloaded"),
    (["--download", "--url=http://a b/"], "could not be downloaded"),
  ],
)
def test_bad_archives_exit_with_status_2_and_leave_nothing(
  archive, tmp_path, capsys, args, message
):
  paths = {
    "file": archive.file,
    "missing": tmp_path / "missing",
    "missing_url": (tmp_path / "missing").as_uri(),
  }
  args = [arg.format(**paths) for arg in args]
  assert run(archive, tmp_path / "data", *args) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: ") and message in error
  assert [p for p in (tmp_path / "data").rglob("*") if p.is_file()] == []


def test_a_truncated_archive_raises(tmp_path, capsys):
  archive = Archive(tmp_path / "truncated.tar.gz", "cifar10", truncate=1)
  assert run(archive, tmp_path / "data", f"--archive={archive.file}") == 2
  assert "not a multiple of 3073-byte examples" in capsys.readouterr().err
  whole = archive.file.read_bytes()
  archive.file.write_bytes(whole[: len(whole) // 2])
  half = hashlib.sha256(archive.file.read_bytes()).hexdigest()
  argv = ["cifar10", f"--path={tmp_path / 'data'}", f"--sha256={half}"]
  assert prepare.main([*argv, f"--archive={archive.file}"]) == 2
  assert "has unexpected contents" in capsys.readouterr().err


COMPRESSION = {
  "gz": gzip.compress,
  "bz2": bz2.compress,
  "xz": lzma.compress,
  "none": bytes,
}


@pytest.mark.parametrize("kind", COMPRESSION)
@pytest.mark.parametrize("damage", ["cut", "overwritten", "empty"])
def test_damaged_archives_end_in_one_line(
  archive, tmp_path, capsys, kind, damage
):
  content = gzip.decompress(archive.file.read_bytes())
  content = bytearray(COMPRESSION[kind](content))
  if damage == "overwritten":
    content[: len(content) // 2] = content[len(content) // 2 :]
  else:
    del content[len(content) // 2 if damage == "cut" else 0 :]
  refuse(tmp_path, capsys, content, "has unexpected contents: ")


def refuse(tmp_path, capsys, content, message):
  """Checks that an archive whose checksum is right is refused."""
  file = tmp_path / "archive"
  file.write_bytes(content)
  sha256 = hashlib.sha256(content).hexdigest()
  argv = ["cifar10", f"--path={tmp_path / 'data'}", f"--sha256={sha256}"]
  assert prepare.main([*argv, f"--archive={file}"]) == 2
  error = capsys.readouterr().err
  assert error.startswith(f"error: {file}") and error.count("\n") == 1
  assert message in error
  assert not list((tmp_path / "data").rglob("*"))


def test_labels_beyond_the_names_of_the_archive_are_refused(tmp_path, capsys):
  archive = Archive(tmp_path / "archive.tar.gz", "cifar10")
  content = gzip.decompress(archive.file.read_bytes())
  at = content.index(archive.rows["test"][3].tobytes())
  changed = content[:at] + b"\x0a" + content[at + 1 :]
  refuse(tmp_path, capsys, changed, "labels must be in [0, 10), got 10.")


def test_an_incomplete_folder_is_not_found(archive, data_dir, tmp_path):
  whole = data_dir / "cifar10" / "3.0.2"
  partial = tmp_path / "cifar10" / ".3.0.2.incomplete-1"
  partial.mkdir(parents=True)
  for file in whole.iterdir():
    if file.name != "dataset_info.json":
      (partial / file.name).write_bytes(file.read_bytes())
  with pytest.raises(ValueError, match=r"cifar10 is not on disk"):
    load(path=str(tmp_path))
  assert run(archive, tmp_path, f"--archive={archive.file}") == 0
  load(path=str(tmp_path))


def test_a_failed_write_leaves_nothing_behind(archive, tmp_path):
  def examples():
    yield {"id": b"train_00000"}
    raise OSError(28, "No space left on device")

  folder = tmp_path / "cifar10" / "3.0.2"
  features = {"id": tfds_writer.Feature("text")}
  with pytest.raises(OSError, match="No space left"):
    tfds_writer.write(folder, features, {"train": examples()}, description="")
  assert list((tmp_path / "cifar10").iterdir()) == []


def test_a_missing_data_set_says_where_it_searched_and_what_to_do(
  tmp_path, monkeypatch
):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "one"))
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  with pytest.raises(ValueError) as caught:
    cifar10()
  message = str(caught.value)
  assert str(tmp_path / "one") in message
  assert str(tmp_path / "home" / "tensorflow_datasets") in message
  assert "python -m sparsejax.data.prepare cifar10 --download" in message


def test_tfds_data_dir_is_searched(archive, data_dir, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
  np.testing.assert_array_equal(load().test.images, archive.images("test"))


def test_another_file_format_raises(tmp_path):
  folder = tmp_path / "cifar10" / "3.0.2"
  folder.mkdir(parents=True)
  (folder / "dataset_info.json").write_text('{"fileFormat": "tfrecord"}')
  with pytest.raises(ValueError, match=r"another format .* \(tfrecord\)"):
    load(path=str(tmp_path))


def test_a_damaged_folder_raises(data_dir, tmp_path):
  folder = tmp_path / "cifar10" / "3.0.2"
  folder.mkdir(parents=True)
  for file in (data_dir / "cifar10" / "3.0.2").iterdir():
    content = file.read_bytes()
    if "array_record" in file.name:
      content = content[: len(content) // 2]
    (folder / file.name).write_bytes(content)
  with pytest.raises(ValueError, match="cannot be read.*prepare the data set"):
    load(path=str(tmp_path))


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"train_examples": 101}, r"`train_examples` must be in \[1, 100\]"),
    ({"train_examples": 0}, r"`train_examples` must be in \[1, 100\]"),
    ({"augment": "blur"}, "`augment` must be one of crop, affine, none"),
    ({"padding": "mirror"}, "`padding` must be one of reflect, zero"),
  ],
)
def test_arguments_out_of_range_raise(data_dir, kwargs, message):
  with pytest.raises(ValueError, match=message):
    load(path=str(data_dir), **kwargs)


def normalization(dataset):
  """Mean and std in uint8 units, by what is drawn of black and white."""
  black, white = (
    np.asarray(
      dataset.task.draw(
        None,
        Split(np.full((1, 32, 32, 3), pixel, np.uint8), np.zeros(1, np.int32)),
      ).inputs,
      np.float64,
    )
    for pixel in (0, 255)
  )
  std = 255 / (white - black)
  return -black * std, std


def test_normalization_by_channel_constants_or_per_pixel(archive, data_dir):
  mean, _ = normalization(load(path=str(data_dir)))
  np.testing.assert_allclose(
    mean[0, 5, 7] / 255, (0.4914, 0.4822, 0.4465), 1e-5
  )
  pixels = load(path=str(data_dir), per_pixel=True, train_examples=90)
  mean, std = normalization(pixels)
  images = archive.images("train")[:90].astype(np.float64)
  np.testing.assert_allclose(mean[0], images.mean(0), rtol=1e-5)
  np.testing.assert_allclose(std[0], images.std(0), rtol=1e-5)


def test_statistics_of_the_real_cifar10():
  """Runs only if the data is on disk."""
  try:
    dataset = cifar10(train_examples=50_000)
  except ValueError as error:
    pytest.skip(str(error))
  images = dataset.train.images
  assert images.shape == (50_000, 32, 32, 3)
  assert (np.bincount(dataset.train.labels) == 5_000).all()
  assert (np.bincount(dataset.test.labels) == 1_000).all()
  means = images.mean((0, 1, 2)) / 255
  np.testing.assert_allclose(means, (0.4914, 0.4822, 0.4465), atol=1e-4)
  stds = images.std((0, 1, 2), dtype=np.float64) / 255
  np.testing.assert_allclose(stds, (0.2470, 0.2435, 0.2616), atol=1e-4)


def test_digits_import_no_image_library():
  heavy = {"tensorflow_datasets", "array_record", "grain", "PIL", "tensorflow"}
  code = (
    "import sys; from sparsejax.data import DATASETS; DATASETS['digits']();"
    f" print(*({heavy!r} & sys.modules.keys()))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.split() == []
