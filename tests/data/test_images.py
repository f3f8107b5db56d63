"""Images: what is decoded, and what is refused before it is decoded."""

import io
import struct
import zlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from sparsejax import command_line
from sparsejax.data import images

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
RANDOM = np.random.default_rng(1)
READERS = {
  "decode": images.decode,
  "random": lambda data: images.random_resized_crop(data, 8, RANDOM),
  "center": lambda data: images.resize_and_center_crop(data, 10, 8),
}


def encoded(kind, mode="RGB", size=(20, 30), **options):
  file = io.BytesIO()
  picture = Image.fromarray(PIXELS).convert(mode).resize(size)
  picture.save(file, kind, **options)
  return file.getvalue()


def png(width, height, depth=8, color=2, pixels=b""):
  """A PNG with any header."""
  header = struct.pack(">2I5B", width, height, depth, color, 0, 0, 0)
  parts = {b"IHDR": header, b"IDAT": zlib.compress(pixels), b"IEND": b""}
  return b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(data))
    + kind
    + data
    + struct.pack(">I", zlib.crc32(kind + data))
    for kind, data in parts.items()
  )


def jpeg(width, height):
  """A JPEG with another size in its header."""
  data = encoded("jpeg")
  size = data.index(b"\xff\xc0") + 5
  return data[:size] + struct.pack(">2H", height, width) + data[size + 4 :]


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_of_every_color_mode_decode_to_three_channels(mode, progressive):
  data = encoded("jpeg", mode, progressive=progressive)
  assert images.decode(data).shape == (30, 20, 3)


def test_a_png_is_decoded_exactly():
  np.testing.assert_array_equal(images.decode(encoded("png")), PIXELS)


SIZE, DECODED = "must have 1 to 89478485 pixels", "cannot be decoded"
OTHER, PNG = "neither a JPEG nor a PNG", "must be 8-bit RGB, got"
ROWS = bytes(4 * (1 + 8 * 4))
BAD = {
  "empty": (b"", "its 0 bytes are " + OTHER),
  "text": (b"not an image", OTHER),
  "gif": (encoded("gif"), OTHER),
  "bmp": (encoded("bmp"), OTHER),
  "tiff": (encoded("tiff"), OTHER),
  "postscript": (encoded("eps"), OTHER),
  "png signature alone": (b"\x89PNG\r\n\x1a\n", DECODED),
  "jpeg signature alone": (b"\xff\xd8\xff", DECODED),
  "png without pixels": (png(4, 4), DECODED),
  "png of 2^31 - 1 squared": (png(2**31 - 1, 2**31 - 1), SIZE),
  "png of 192 megapixels": (png(16_000, 12_000), SIZE),
  "png of 90 megapixels": (png(9_000, 10_000), SIZE),
  "jpeg of 65535 squared": (jpeg(65_535, 65_535), SIZE),
  "jpeg of 100 megapixels": (jpeg(10_000, 10_000), SIZE),
  "png without rows": (png(4, 0), "image"),
  "jpeg without columns": (jpeg(0, 30), "image"),
  "gray png": (encoded("png", "L"), f"{PNG} L"),
  "gray png with alpha": (encoded("png", "LA"), f"{PNG} LA"),
  "bits png": (encoded("png", "1"), f"{PNG} 1"),
  "palette png": (encoded("png", "P"), f"{PNG} P"),
  "png with alpha": (encoded("png", "RGBA"), f"{PNG} RGBA"),
  "gray 16-bit png": (png(4, 4, 16, 0, ROWS), f"{PNG} I;16B"),
  "16-bit png": (png(4, 4, 16, 2, ROWS), f"{PNG} RGB;16B"),
  "cut jpeg": (encoded("jpeg")[:-40], "truncated"),
  "half a jpeg": (encoded("jpeg")[:400], DECODED),
  "cut png": (encoded("png")[:-900], DECODED),
}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", BAD)
def test_bad_images_raise_one_line(name, read):
  data, message = BAD[name]
  with pytest.raises(command_line.InputError) as caught:
    READERS[read](data)
  assert message in str(caught.value)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_an_image_that_is_huge_once_it_is_resized_is_refused(size):
  with pytest.raises(command_line.InputError, match=SIZE):
    images.resize_and_center_crop(encoded("png", size=size), 256, 224)


def test_another_size_than_the_expected_one_is_refused_before_decoding():
  with pytest.raises(
    command_line.InputError, match=r"\(32, 32\) pixels .* got \(9000, 9000\)"
  ):
    images.decode(png(9_000, 9_000), (32, 32))


@hypothesis.given(st.data())
def test_damaged_images_decode_or_raise_input_errors(data):
  kind = data.draw(st.sampled_from(["jpeg", "png"]))
  damaged = bytearray(encoded(kind))
  for _ in range(data.draw(st.integers(1, 4))):
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] = data.draw(st.integers(0, 255))
  del damaged[data.draw(st.integers(1, len(damaged))) :]
  try:
    found = images.decode(bytes(damaged))
  except command_line.InputError:
    return
  assert found.dtype == np.uint8 and found.shape[2] == 3
