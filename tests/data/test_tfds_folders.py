"""Folders of data sets: what they cannot do, and what damaged ones say."""

import json
import os
import pathlib
import shutil
import sys
import tempfile

import hypothesis
import pytest
from helpers import data_folders
from hypothesis import strategies as st

from sparsejax import command_line
from sparsejax.data import records, tfds_folders

HOSTILE = "a_hostile_module"


@pytest.fixture(scope="module", params=data_folders.NAMES)
def whole(request, tmp_path_factory):
  return data_folders.write(tmp_path_factory.mktemp("whole"), request.param)


@pytest.fixture
def folder(whole, tmp_path):
  """A copy of a data set, to damage."""
  copy = tmp_path / whole.parent.name / whole.name
  shutil.copytree(whole, copy)
  return copy


def refused(folder):
  """Returns the message of a data set that cannot be loaded."""
  with pytest.raises(command_line.InputError) as caught:
    data_folders.load(folder)
  message = str(caught.value)
  assert "\n" not in message
  assert str(folder.parent) in message
  return message


def hostile(content="", **keys):
  return {"pythonClassName": f"{HOSTILE}.Feature", **keys}


DESCRIPTIONS = {
  "the class of all features": hostile(),
  "the class of one feature": {
    "pythonClassName": "tensorflow_datasets.core.features.features_dict"
    ".FeaturesDict",
    "featuresDict": {"features": {"image": hostile(image={})}},
  },
  "the class of a sequence": {
    "pythonClassName": "tensorflow_datasets.core.features.sequence_feature"
    ".Sequence",
    "sequence": {"feature": hostile()},
  },
  "the type of the older format": {
    "type": f"{HOSTILE}.Feature",
    "content": "{}",
  },
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_data_set_does_not_decide_what_is_imported(
  whole, folder, tmp_path, monkeypatch, name
):
  executed = tmp_path / "executed"
  code = f"import pathlib; pathlib.Path({str(executed)!r}).touch()"
  (tmp_path / f"{HOSTILE}.py").write_text(code)
  monkeypatch.syspath_prepend(tmp_path)
  expected = data_folders.load(whole)
  (folder / "features.json").write_text(json.dumps(DESCRIPTIONS[name]))
  info = folder / tfds_folders.INFO
  named = json.loads(info.read_text()) | {"moduleName": HOSTILE}
  info.write_text(json.dumps(named))
  assert data_folders.load(folder) == expected
  assert not executed.exists() and HOSTILE not in sys.modules


def shard(folder, index=0):
  return sorted(folder.glob("*-train.*"))[index]


def overwrite(at, data):
  """Returns what overwrites bytes of the second training shard."""

  def damage(folder):
    content = bytearray(shard(folder, 1).read_bytes())
    content[at : at + len(data)] = data
    shard(folder, 1).write_bytes(content)

  return damage


def replace(path):
  path.unlink()
  return path


def link_to_itself(path):
  replace(path).symlink_to(path)


SHARDS = {
  "missing": lambda folder: shard(folder, 1).unlink(),
  "a folder": lambda folder: replace(shard(folder, 1)).mkdir(),
  "a link to itself": lambda folder: link_to_itself(shard(folder, 1)),
  "a pipe": lambda folder: os.mkfifo(replace(shard(folder, 1))),
  "empty": lambda folder: shard(folder, 1).write_bytes(b""),
  "half": lambda folder: os.truncate(
    shard(folder, 1), shard(folder, 1).stat().st_size // 2
  ),
  "one byte short": lambda folder: os.truncate(
    shard(folder, 1), shard(folder, 1).stat().st_size - 1
  ),
  "zeros": overwrite(0, bytes(65_536)),
  "a tfrecord": lambda folder: shard(folder, 1).write_bytes(
    b"\x10\0\0\0\0\0\0\0abcd" + bytes(100_000)
  ),
  "overwritten": overwrite(64, b"\xff" * 64),
  "another shard": lambda folder: shutil.copy(
    next(path for path in folder.glob("*-0000*") if "train" not in path.name),
    shard(folder, 1),
  ),
}


@pytest.mark.parametrize("name", SHARDS)
def test_damaged_shards_are_named(folder, name):
  path = shard(folder, 1)
  SHARDS[name](folder)
  message = refused(folder)
  assert str(path) in message and records.REMEDY in message


DEEP = "[" * 100_000 + "]" * 100_000
UNREADABLE = {
  "empty": "",
  "null": "null",
  "a number": "3",
  "text": "not json",
  "cut": '{"fileFormat": "array_rec',
  "not UTF-8": b"\xff\xfe{}",
  "nested deeply": DEEP,
  "nested deeply in a key": f'{{"fileFormat": {DEEP}}}',
  "a format that is a number": '{"fileFormat": 3}',
  "a format that is a list": '{"fileFormat": ["array_record"]}',
  "splits that are text": '{"fileFormat": "array_record", "splits": "train"}',
  "a name that is a number": '{"splits": [{"name": 1}]}',
  "a length that is text": '{"splits": [{"shardLengths": ["a"]}]}',
  "a length of 2^70": f'{{"splits": [{{"shardLengths": [{2**70}]}}]}}',
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_damaged_description_is_named(folder, name):
  content, info = UNREADABLE[name], folder / tfds_folders.INFO
  info.write_bytes(content if isinstance(content, bytes) else content.encode())
  message = refused(folder)
  assert f"{info} cannot be read: " in message and records.REMEDY in message
  assert len(message) < 500


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"splits": []}, "lists no examples of the split 'train', only of none"),
    ({"splits": ["train"]}, "lists no examples of the split 'train'"),
    ({"splits": [{"name": "train"}]}, "lists no examples of the split 'train'"),
    ({"lengths": [6, 5]}, "must contain 5 records according to dataset_info"),
    ({"lengths": [6, 7]}, "must contain 7 records according to dataset_info"),
    ({"lengths": [12, 0]}, "must contain 12 records"),
    ({"lengths": [-1, 13]}, "must contain -1 records"),
    ({"lengths": [12]}, "-of-00001 cannot be read: No such file or directory"),
    ({"fileFormat": "tfrecord"}, "another format than array_record"),
    ({"fileFormat": ""}, "another format than array_record"),
    ([], "another format than array_record"),
    ({}, "another format than array_record"),
  ],
)
def test_a_description_that_does_not_fit_the_files(folder, change, message):
  info = folder / tfds_folders.INFO
  content = json.loads(info.read_text())
  if "lengths" in change:
    train = next(s for s in content["splits"] if s["name"] == "train")
    train["shardLengths"] = change["lengths"]
  info.write_text(json.dumps(content | change if change else change))
  assert message in refused(folder)


def test_keys_of_a_later_version_are_ignored(whole, folder):
  expected = data_folders.load(whole)
  info = folder / tfds_folders.INFO
  content = json.loads(info.read_text()) | {"laterKey": {"any": 1}}
  info.write_text(json.dumps(content))
  assert data_folders.load(folder) == expected


ENTRIES = {
  "the data set": lambda folder: folder.parent,
  "the version": lambda folder: folder,
  "the description": lambda folder: folder / tfds_folders.INFO,
  "a shard": lambda folder: shard(folder, 1),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_without_rights_the_file_is_named(whole, name):
  data_folders.load(whole)  # Libraries are imported with all rights.
  with tempfile.TemporaryDirectory() as root:
    os.chmod(root, 0o755)  # Unlike pytest's folders.
    folder = pathlib.Path(root) / whole.parent.name / whole.name
    shutil.copytree(whole, folder)
    entry = ENTRIES[name](folder)
    mode = entry.stat().st_mode
    entry.chmod(0)
    try:
      with data_folders.ordinary_user():
        message = refused(folder)
    finally:
      entry.chmod(mode)
  assert str(entry) in message
  assert "Permission denied" in message and records.REMEDY in message


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda path: path.write_text(""), "Not a directory"),
    (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
  ],
)
def test_a_data_set_that_is_no_folder_is_named(tmp_path, make, message):
  make(tmp_path / "cifar10")
  assert message in refused(tmp_path / "cifar10" / "3.0.2")


@pytest.mark.parametrize(
  "path", ["~nobody_of_this_name/data", "\0", "x" * 300, "a\nb"]
)
def test_paths_that_cannot_exist_raise_input_errors(path):
  with pytest.raises(command_line.InputError):
    tfds_folders.find("cifar10", path, hint="")


@pytest.mark.parametrize(
  "name", [".3.0.2.incomplete-1", "3.0.2.incomplete", "latest", "3.0"]
)
def test_only_versions_are_found(folder, name):
  folder.rename(folder.with_name(name))
  with pytest.raises(command_line.InputError, match="is not on disk"):
    data_folders.load(folder)


@hypothesis.given(st.data())
@hypothesis.settings(
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
  deadline=None,
  max_examples=30,
)
def test_random_damage_changes_nothing_or_names_the_file(whole, data):
  expected = data_folders.load(whole)
  with tempfile.TemporaryDirectory() as root:
    folder = pathlib.Path(root) / whole.parent.name / whole.name
    shutil.copytree(whole, folder)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
      at = data.draw(st.integers(0, len(content) - 1))
      content[at] ^= 1 << data.draw(st.integers(0, 7))
    del content[data.draw(st.integers(0, 2 * len(content))) :]
    path.write_bytes(content)
    try:
      found = data_folders.load(folder)
    except command_line.InputError as error:
      assert str(folder.parent) in str(error) and "\n" not in str(error)
    else:
      assert found == expected
