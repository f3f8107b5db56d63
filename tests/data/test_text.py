"""Text: files in a fixed order, held out as a whole, cut into windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import data_folders

from sparsejax import command_line
from sparsejax.data import (
  Windows,
  batches,
  stdlib,
  stdlib_digest,
  text_files,
  text_folder,
  tiny_shakespeare,
  windows,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("SPARSEJAX_CACHE_DIR", str(tmp_path / "cache"))
  return tmp_path / "cache"


def write(folder, **texts):
  folder.mkdir(exist_ok=True)
  for name, text in texts.items():
    path = folder / name.replace("__", "/")
    path.parent.mkdir(exist_ok=True)
    path.with_suffix(".txt").write_text(text)
  return str(folder)


def texts(count=8, size=50):
  return {f"part__{i}": chr(ord("a") + i) * size for i in range(count)}


def parts(split):
  """The files of a split, by the letter that each consists of."""
  return set(np.asarray(split.tokens).tobytes().decode().replace("\0", ""))


def test_every_file_is_in_one_split_and_names_decide(tmp_path):
  path = write(tmp_path / "text", **texts())
  made = text_folder(path=path, context=4, test=0.25, validation=0.25)
  splits = [parts(x) for x in (made.train, made.validation, made.test)]
  assert [len(x) for x in splits] == [4, 2, 2]
  assert set.union(*splits) == set("abcdefgh")
  assert made.provided == {"vocabulary": 256}
  # Other contents, same names: the same files are held out.
  write(tmp_path / "text", **texts(size=60))
  again = text_folder(path=path, context=4, test=0.25, validation=0.25)
  assert [parts(x) for x in (again.train, again.validation, again.test)] == (
    splits
  )
  assert again.train.tokens.size == 4 * 61


def test_the_cache_is_mapped_and_follows_the_files(tmp_path, cache):
  folder = tmp_path / "text"
  write(folder, **texts(3))
  names = text_files.list_files(folder, ["*.txt"])
  assert names == ["part/0.txt", "part/1.txt", "part/2.txt"]
  first, second = (text_files.read(folder, names) for _ in range(2))
  assert isinstance(second.tokens, np.memmap)
  np.testing.assert_array_equal(first.tokens, second.tokens)
  assert first.ends == second.ends == (51, 102, 153)
  # A damaged cache is read again, from the files.
  (file,) = cache.glob("*.bin")
  file.write_bytes(b"damaged")
  assert text_files.read(folder, names).digest == first.digest
  write(folder, part__1="another text")
  changed = text_files.read(folder, names)
  assert changed.digest != first.digest
  assert bytes(changed.part([1])) == b"another text\0"
  assert bytes(changed.part([1, 0], 15)) == b"another text\0aa"


def test_without_a_cache_the_text_stays_in_memory(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("no folder")
  monkeypatch.setenv("SPARSEJAX_CACHE_DIR", str(tmp_path / "file" / "cache"))
  path = write(tmp_path / "text", **texts(2))
  assert text_folder(path=path, context=4, test=0.5).train.examples == 11


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"path": "nowhere"}, "must be a folder of text files"),
    ({"path": "gs://bucket"}, "URL"),
    ({"patterns": ("*.md",)}, r"no file that matches \*.md"),
    ({"context": 300}, "'train' must have 600 to"),
    ({"context": 100}, "'test' must have 101 to"),
    ({"digest": "0" * 16}, "it is another text"),
  ],
)
def test_text_that_cannot_be_used_is_refused(tmp_path, change, message):
  path = write(tmp_path / "text", **texts())
  given = {"path": path, "context": 4, **change}
  with pytest.raises(command_line.InputError, match=message):
    text_folder(**given)


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
  path = write(tmp_path / "text", **texts())

  def refuse(self):
    raise PermissionError(13, "Permission denied", str(self))

  monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
  with pytest.raises(
    command_line.InputError, match="0.txt cannot be read: Per"
  ):
    text_folder(path=path, context=4)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"test": 0.0}, "`test` must be in"),
    ({"test": 0.6, "validation": 0.5}, "whole files are held out"),
    ({"context": 0}, "`context` must be at least 1"),
    ({"train_bytes": -1}, "at least 0"),
  ],
)
def test_arguments_out_of_range_are_refused(tmp_path, change, message):
  path = write(tmp_path / "text", **texts())
  with pytest.raises(ValueError, match=message):
    text_folder(**{"path": path, "context": 4, **change})


def test_the_standard_library_is_checked_against_its_digest():
  made = stdlib(context=16, train_bytes=5000, test_bytes=1000)
  assert made.train.tokens.size == 5000 and made.test.tokens.size == 1000
  assert made.train.examples == (5000 - 32) // 16 + 1
  assert stdlib_digest() == stdlib_digest() and len(stdlib_digest()) == 16
  with pytest.raises(command_line.InputError, match="this Python has the dig"):
    stdlib(digest="f" * 16)


def test_tiny_shakespeare_is_read_from_its_folder(tmp_path):
  texts = {"train": "To be" * 9, "test": "or not", "validation": "to be"}
  name = "tiny_shakespeare"
  data_folders.write_text(tmp_path / "short", name, **texts | {"test": "o"})
  with pytest.raises(command_line.InputError, match="'test' must have 3 to"):
    tiny_shakespeare(path=str(tmp_path / "short"), context=2)
  data_folders.write_text(tmp_path / "whole", name, **texts)
  made = tiny_shakespeare(path=str(tmp_path / "whole"), context=2)
  assert np.asarray(made.test.tokens).tobytes() == b"or not\0"
  assert made.validation is not None and made.train.examples == 22
  with pytest.raises(command_line.InputError, match="Prepare it with"):
    tiny_shakespeare(path=str(tmp_path / "nowhere"))


def test_windows_cover_the_text():
  tokens = np.arange(23, dtype=np.uint8)
  split = windows.windows(tokens, name="test", context=5, train=False)
  assert split.examples == 4
  batch = split.take(np.array([0, 3]))
  np.testing.assert_array_equal(batch, [range(6), range(15, 21)])
  moved = jax.jit(Windows.take)(split, jnp.array([0, 3]))
  np.testing.assert_array_equal(moved, batch)
  train = windows.windows(tokens, name="train", context=5, train=True)
  assert train.examples == 3 and train.example.shape == (1, 10)


@pytest.mark.parametrize(
  ("count", "begins"), [(2, (0, 15)), (4, (0, 5, 15, 20)), (9, range(0, 30, 5))]
)
def test_a_sample_has_windows_at_equal_distances(count, begins):
  split = windows.windows(np.arange(35), name="train", context=5, train=True)
  found = windows.sample(split, count)
  assert found.examples == len(begins)
  rows = found.take(np.arange(found.examples))
  np.testing.assert_array_equal(rows, [range(i, i + 6) for i in begins])


def test_training_is_evaluated_on_as_many_windows_as_testing():
  made = stdlib(context=8, train_bytes=3000, test_bytes=100)
  assert made.train_sample is not None
  assert made.train_sample.examples == made.test.examples == 12
  assert made.train.examples == 374


def test_training_draws_successive_tokens_at_random_positions():
  made = stdlib(context=8, train_bytes=3000, test_bytes=100)
  rows = made.train.take(np.arange(64))
  key = batches.draw_key(jax.random.key(0), jnp.int32(3))
  found = made.task.draw(key, rows)
  assert found.inputs.shape == found.targets.shape == (64, 8)
  starts = set()
  for row, inputs, targets in zip(rows, *map(np.asarray, found), strict=True):
    window = np.append(inputs[:1], targets)
    where = [i for i in range(8) if np.array_equal(row[i : i + 9], window)]
    assert where and np.array_equal(inputs[1:], targets[:-1])
    starts.update(where)
  assert len(starts) == 8
  again = made.task.draw(key, rows)
  np.testing.assert_array_equal(again.inputs, found.inputs)
  fixed = made.task.draw(None, rows)
  np.testing.assert_array_equal(fixed.inputs, rows[:, :8])
