"""Image decoding, encoding, cropping and resizing, with Pillow."""

import io

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin

from sparsejax import command_line

# Above it, Pillow warns of an image that takes all memory once it is decoded.
_MAX_PIXELS = 89_478_485
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG"


def decode(data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
  """Decode an image file.

  Args:
    data: a JPEG in any color mode, or a PNG in 8-bit RGB.
    size: the width and height that it must have; any size by default.

  Returns:
    uint8[H, W, 3].

  Raises:
    InputError: if it is something else, damaged or too large.
  """
  return np.asarray(_open(data, size))


def encode(image: np.ndarray, kind: str = "png", **options: int) -> bytes:
  """Encode an image.

  Args:
    image: uint8[H, W, 3].
    kind: "png" or "jpeg".
    **options: options of Pillow's encoder, such as `quality`.

  Returns:
    The encoded file.
  """
  file = io.BytesIO()
  Image.fromarray(image).save(file, kind, **options)
  return file.getvalue()


def random_resized_crop(
  data: bytes, size: int, random: np.random.Generator
) -> np.ndarray:
  """Decode, crop at random, resize, and flip with probability 1/2.

  Like torchvision's RandomResizedCrop and RandomHorizontalFlip: the crop covers
  8 to 100 % of the area with an aspect ratio from 3/4 to 4/3 (log-uniform). If
  ten samples do not fit into the image, take the largest center crop.

  Args:
    data: an encoded image.
    size: height and width of the output.
    random: the generator for crop and flip.

  Returns:
    uint8[size, size, 3], bilinear with antialiasing.

  Raises:
    InputError: as in `decode`.
  """
  image = _open(data)
  box = _crop_box(image.width, image.height, random)
  flip = random.random() < 0.5
  cropped = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
  if flip:
    cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
  return np.asarray(cropped)


def resize_and_center_crop(data: bytes, resize: int, size: int) -> np.ndarray:
  """Decode, resize the shorter side, and take the center crop.

  Args:
    data: an encoded image.
    resize: length of the shorter side after resizing; at least `size`.
    size: height and width of the output.

  Returns:
    uint8[size, size, 3], bilinear with antialiasing.

  Raises:
    InputError: as in `decode`.
  """
  image = _open(data)
  width, height = image.size
  short = min(width, height)
  width, height = resize * width // short, resize * height // short
  _check_pixels(width, height)
  image = image.resize((width, height), Image.Resampling.BILINEAR)
  left, top = round((width - size) / 2), round((height - size) / 2)
  return np.asarray(image.crop((left, top, left + size, top + size)))


def _open(data: bytes, size: tuple[int, int] | None = None) -> Image.Image:
  """Returns a decoded image; its header is checked before."""
  if not data.startswith((_JPEG, _PNG)):
    raise command_line.InputError(
      f"its {len(data)} bytes are neither a JPEG nor a PNG."
    )
  try:
    image = _read_header(data)
    _check_pixels(*image.size)
    if size not in (None, image.size):
      raise command_line.InputError(
        f"its image must have {size} pixels (width, height), got {image.size}."
      )
    # A few ImageNet images are grayscale or CMYK.
    return image.convert("RGB")
  except command_line.InputError:
    raise
  # For damaged files, Pillow raises OSError, SyntaxError, ValueError and more.
  except Exception as error:
    problem = f"its image cannot be decoded: {error}."
    raise command_line.InputError(problem) from error


def _read_header(data: bytes) -> ImageFile.ImageFile:
  """Returns an image that is not decoded yet.

  `Image.open` would try all formats, and print warnings about large images.
  """
  file = io.BytesIO(data)
  if data.startswith(_JPEG):
    return JpegImagePlugin.JpegImageFile(file)
  image = PngImagePlugin.PngImageFile(file)
  stored = image.tile[0][3]
  # Pillow would convert 16 bits, alpha and gray to pixels that nobody stored.
  if stored != "RGB":
    raise command_line.InputError(f"its PNG must be 8-bit RGB, got {stored}.")
  return image


def _check_pixels(width: int, height: int) -> None:
  """Raises `InputError` if an image of this size must not be in memory."""
  if not 0 < width * height <= _MAX_PIXELS:
    raise command_line.InputError(
      f"its image must have 1 to {_MAX_PIXELS} pixels, also once it is resized,"
      f" got {width} x {height}."
    )


def _crop_box(
  width: int, height: int, random: np.random.Generator
) -> tuple[int, int, int, int]:
  """Returns left, top, right and bottom of a random crop."""
  for _ in range(10):
    area = width * height * random.uniform(0.08, 1)
    aspect = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
    w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
    if 0 < w <= width and 0 < h <= height:
      left = int(random.integers(0, width - w + 1))
      top = int(random.integers(0, height - h + 1))
      return left, top, left + w, top + h
  w = min(width, round(height * 4 / 3))
  h = min(height, round(width * 4 / 3))
  left, top = (width - w) // 2, (height - h) // 2
  return left, top, left + w, top + h
