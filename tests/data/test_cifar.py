"""CIFAR from its original archive to batches, on archives made here."""

import hashlib
import io
import pathlib
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from sparsejax.data import cifar10, cifar100, folders, prepare

CLASSES_10 = "airplane automobile bird cat deer dog frog horse ship truck"
COUNTS = {"train": 100, "test": 20}


class Made:
  """An archive as CIFAR's authors pack it, with random pixels."""

  def __init__(self, file, name, cut=0):
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
        info.size = len(content) - cut
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
    part = len(train) // 5
    return {
      "batches.meta.txt": CLASSES_10.replace(" ", "\n").encode() + b"\n\n",
      **{
        f"data_batch_{i + 1}.bin": train[i * part : (i + 1) * part]
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
def made(tmp_path_factory):
  return Made(tmp_path_factory.mktemp("archive") / "made.tar.gz", "cifar10")


@pytest.fixture(scope="module")
def place(made, tmp_path_factory):
  """A folder of data sets that holds the archive, prepared."""
  place = tmp_path_factory.mktemp("data")
  assert run(made, place, f"--archive={made.file}") == 0
  return place


def run(made, place, *args, name="cifar10"):
  return prepare.main(
    [name, f"--path={place}", f"--sha256={made.sha256}", *args]
  )


def load(factory=cifar10, **kwargs):
  return factory(**{"train_examples": 100, **kwargs})


def test_prepared_pixels_and_labels_are_those_of_the_archive(made, place):
  dataset = load(path=str(place))
  for split in COUNTS:
    found = getattr(dataset, split)
    np.testing.assert_array_equal(found.images, made.images(split))
    np.testing.assert_array_equal(found.labels, made.targets(split))
  assert dataset.classes == 10
  assert found.images.dtype == np.uint8 and found.labels.dtype == np.int32


def test_the_fine_labels_of_cifar100_are_read(tmp_path):
  made = Made(tmp_path / "made.tar.gz", "cifar100")
  assert run(made, tmp_path, f"--archive={made.file}", name="cifar100") == 0
  dataset = load(cifar100, path=str(tmp_path))
  np.testing.assert_array_equal(dataset.train.labels, made.targets("train"))
  np.testing.assert_array_equal(dataset.test.images, made.images("test"))
  assert dataset.classes == 100
  assert dataset.validation is None


def test_the_last_examples_are_held_out(made, place):
  dataset = load(path=str(place), train_examples=90)
  np.testing.assert_array_equal(dataset.train.images, made.images("train")[:90])
  np.testing.assert_array_equal(
    dataset.validation.images, made.images("train")[90:]
  )


def test_shuffled_folders_with_official_ids_are_put_in_order(made, tmp_path):
  folder = tmp_path / "cifar10" / "3.0.2"
  source = folders.records(
    prepared(made, tmp_path / "once"), "train", ["image"]
  )
  order = np.random.default_rng(0).permutation(len(source))
  shuffled = [source[int(i)] for i in order]
  features = {
    "id": folders.Feature("text"),
    "image": folders.Feature("png", shape=(32, 32, 3)),
    "label": folders.Feature("label", names=CLASSES_10.split()),
  }
  splits = {"train": shuffled, "test": shuffled}
  folders.write(folder, features, splits, description="shuffled", shards=3)
  dataset = load(path=str(tmp_path))
  np.testing.assert_array_equal(dataset.train.images, made.images("train"))


def prepared(made, place) -> pathlib.Path:
  assert run(made, place, f"--archive={made.file}") == 0
  return folders.find("cifar10", str(place), remedy="")


def test_a_download_is_checked_and_prepared(made, tmp_path):
  assert run(made, tmp_path, "--download", f"--url={made.file.as_uri()}") == 0
  np.testing.assert_array_equal(
    load(path=str(tmp_path)).test.images, made.images("test")
  )
  assert [path.name for path in (tmp_path / "cifar10").iterdir()] == ["3.0.2"]


def test_what_is_there_is_left_alone(made, place, capsys):
  assert run(made, place, "--archive=nothing") == 0
  assert "is there already; nothing was changed" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["--archive={missing}"], "No such file or directory"),
    (["--archive={file}", "--sha256=00"], "should be 00. Download it again"),
    (["--download", "--url={missing_url}"], "could not be downloaded"),
    (["--download", "--url=nonsense"], "could not be downloaded"),
  ],
)
def test_bad_archives_end_with_status_2_and_leave_nothing(
  made, tmp_path, capsys, args, message
):
  known = {
    "file": made.file,
    "missing": tmp_path / "missing",
    "missing_url": (tmp_path / "missing").as_uri(),
  }
  args = [arg.format(**known) for arg in args]
  assert run(made, tmp_path / "data", *args) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: ") and message in error
  assert [p for p in (tmp_path / "data").rglob("*") if p.is_file()] == []


def test_an_archive_that_is_cut_short_is_refused(tmp_path, capsys):
  made = Made(tmp_path / "cut.tar.gz", "cifar10", cut=1)
  assert run(made, tmp_path / "data", f"--archive={made.file}") == 2
  assert "does not hold examples of 3073" in capsys.readouterr().err
  whole = made.file.read_bytes()
  made.file.write_bytes(whole[: len(whole) // 2])
  half = hashlib.sha256(made.file.read_bytes()).hexdigest()
  argv = ["cifar10", f"--path={tmp_path / 'data'}", f"--sha256={half}"]
  assert prepare.main([*argv, f"--archive={made.file}"]) == 2
  assert "does not hold what it should" in capsys.readouterr().err


def test_a_folder_that_was_not_finished_is_not_found(made, place, tmp_path):
  whole = place / "cifar10" / "3.0.2"
  partial = tmp_path / "cifar10" / ".3.0.2.incomplete-1"
  partial.mkdir(parents=True)
  for file in whole.iterdir():
    if file.name != "dataset_info.json":
      (partial / file.name).write_bytes(file.read_bytes())
  with pytest.raises(ValueError, match=r"cifar10 is not on the disk"):
    load(path=str(tmp_path))
  assert run(made, tmp_path, f"--archive={made.file}") == 0
  load(path=str(tmp_path))


def test_a_failed_write_leaves_nothing(made, tmp_path):
  def examples():
    yield {"id": b"train_00000"}
    raise OSError(28, "No space left on device")

  folder = tmp_path / "cifar10" / "3.0.2"
  features = {"id": folders.Feature("text")}
  with pytest.raises(OSError, match="No space left"):
    folders.write(folder, features, {"train": examples()}, description="")
  assert list((tmp_path / "cifar10").iterdir()) == []


def test_a_missing_data_set_says_where_it_looked_and_what_to_do(
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


def test_the_usual_place_is_searched(made, place, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(place))
  np.testing.assert_array_equal(load().test.images, made.images("test"))


def test_data_in_another_format_is_told(tmp_path):
  folder = tmp_path / "cifar10" / "3.0.2"
  folder.mkdir(parents=True)
  (folder / "dataset_info.json").write_text('{"fileFormat": "tfrecord"}')
  with pytest.raises(ValueError, match=r"another format .* \(tfrecord\)"):
    load(path=str(tmp_path))


def test_a_damaged_folder_is_told(place, tmp_path):
  folder = tmp_path / "cifar10" / "3.0.2"
  folder.mkdir(parents=True)
  for file in (place / "cifar10" / "3.0.2").iterdir():
    content = file.read_bytes()
    if "array_record" in file.name:
      content = content[: len(content) // 2]
    (folder / file.name).write_bytes(content)
  with pytest.raises(ValueError, match="cannot be read.*prepare it again"):
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
def test_arguments_out_of_range_are_refused(place, kwargs, message):
  with pytest.raises(ValueError, match=message):
    load(path=str(place), **kwargs)


def test_statistics_are_the_papers_or_of_each_pixel(made, place):
  channels = load(path=str(place))
  np.testing.assert_allclose(
    channels.mean / 255, (0.4914, 0.4822, 0.4465), 1e-6
  )
  pixels = load(path=str(place), per_pixel=True, train_examples=90)
  images = made.images("train")[:90].astype(np.float64)
  np.testing.assert_allclose(pixels.mean, images.mean(0), rtol=1e-6)
  np.testing.assert_allclose(pixels.std, images.std(0), rtol=1e-6)


def test_cifar10_as_its_authors_made_it():
  """The statistics of the pixels, where the data is on the disk."""
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


def test_runs_on_digits_load_no_library_for_images():
  heavy = {"tensorflow_datasets", "array_record", "grain", "PIL", "tensorflow"}
  code = (
    "import sys; from sparsejax.data import DATASETS; DATASETS['digits']();"
    f" print(*({heavy!r} & sys.modules.keys()))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.split() == []
