"""One rule for images, in the import, in training and in tools/generate.py.

The first frame; turned as EXIF says; alpha laid over white; grey, palette, CMYK
and the like converted as Pillow does, without colour profiles; 16-bit grey
scaled to 8 bits; shrunk, never enlarged, so that the shorter side is at most
`size` and the longer one at most `LONGEST` times that, bicubic with
antialiasing; stored as JPEG, quality 95, without chroma subsampling. So the
centre square, which is what is generated and compared, keeps `size` pixels a
side.
"""

import functools
import io
import os
from typing import BinaryIO
import warnings

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

MAX_PIXELS = 89_478_485  # what Pillow warns of; decoded, 256 MiB
MIN_SIDE = 4  # shops answer with an image of one pixel where they have none
LONGEST = 4  # sides of a stored image; of longer ones the centre is small
RULE = "shorter side"  # changes when what is stored of an image does
_QUALITY = 95
# What can be decoded. Pillow knows more, some of which start other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# Text and colour profiles are not needed, but Pillow refuses an image for more
# than 1 MB in one of them; what all may take, 64 MB, stays.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
_ORIENTATIONS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
# Why an image cannot be used, as the report counts them.
REASONS = (
  "empty_file",
  "not_an_image",
  "truncated",
  "damaged",
  "too_large",
  "too_small",
  "unsupported_mode",
  "unreadable_file",
)


class Unusable(Exception):
  """An image that cannot be used; `args` are one of `REASONS` and details."""

  def __str__(self) -> str:
    """Returns both, for a message."""
    return ": ".join(self.args)


def upright(image: Image.Image) -> Image.Image:
  """Returns an opened image turned as its EXIF says and in RGB.

  The one rule by which images become pixels, in the import, in training and in
  tools/generate.py; tools/infer_hf.py has it in its own lines. See the module.

  Raises:
    Unusable: its values are floating-point, of which no scale is known.
  """
  return _turned(_rgb(image), image)


def encode(file: BinaryIO, size: int) -> bytes:
  """Decodes an image and returns it as it is stored; see the module.

  Args:
    file: open, seekable.
    size: of the shorter side in pixels, at most.

  Returns:
    A JPEG of RGB.

  Raises:
    Unusable: it is no image that can be used; says why.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # what is wrong is raised or harmless
      with Image.open(file, formats=_formats()) as image:
        return _jpeg(_shrink(image, size))
  except Unusable:
    raise
  except Image.DecompressionBombError as error:
    raise Unusable("too_large", str(error)) from error
  except Image.UnidentifiedImageError as error:
    if not file.seek(0, os.SEEK_END):  # returns the size of the file
      raise Unusable("empty_file", "0 bytes") from error
    raise Unusable("not_an_image", "in no format that is read") from error
  except MemoryError as error:
    raise Unusable("too_large", "not enough memory") from error
  except Exception as error:  # Pillow's formats raise many kinds
    reason = "truncated" if "truncated" in str(error).lower() else "damaged"
    raise Unusable(reason, str(error) or type(error).__name__) from error


def num_pixels(file: BinaryIO) -> int:
  """Returns how many pixels an open file says it has, without decoding it.

  0 if it is no image, or one of a size that `encode` refuses.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      # Reads the header only: there may be many files to choose from.
      with Image.open(file, formats=_formats()) as image:
        width, height = image.size
  except Exception:  # Pillow's formats raise many kinds
    return 0
  usable = min(width, height) >= MIN_SIDE and width * height <= MAX_PIXELS
  return width * height if usable else 0


@functools.cache
def _formats():
  """Returns those of the formats that this Pillow was built with."""
  Image.init()
  return tuple(name for name in _FORMATS if name in Image.OPEN)


def _shrink(image, size):
  """Returns an opened image upright, in RGB and small."""
  width, height = image.size
  if width * height > MAX_PIXELS:
    raise Unusable("too_large", f"{width} x {height} pixels")
  if min(width, height) < MIN_SIDE:
    raise Unusable("too_small", f"{width} x {height} pixels")
  scale = min(size / min(width, height), LONGEST * size / max(width, height), 1)
  fitted = tuple(max(round(side * scale), 1) for side in (width, height))
  # JPEG can be decoded at half the size and less; twice the aim loses nothing
  # that the eye sees.
  image.draft(None, tuple(2 * side for side in fitted))
  # What is RGB already is converted, which copies it, when it is small.
  plain = image.mode == "RGB" and not image.has_transparency_data
  small = image if plain else _rgb(image)
  if small.size != fitted:
    # Halving boxes first, far above the aim, is as good and faster.
    small = small.resize(fitted, Image.Resampling.BICUBIC, reducing_gap=3.0)
  return _turned(_rgb(small) if plain else small, image)


def _turned(image, opened):
  """Returns an image turned as the EXIF of the opened file says.

  Converting an image loses the EXIF, so the opened one is needed, too.
  """
  try:
    orientation = opened.getexif().get(ExifTags.Base.Orientation)
  except Exception:  # damaged, but the image need not be
    return image
  turn = _ORIENTATIONS.get(orientation)
  return image if turn is None else image.transpose(turn)


def _rgb(image):
  """Converts any mode to RGB; see the module."""
  mode, key = image.mode, image.info.get("transparency")
  # Before it is loaded an image knows how its file stores the values.
  stored = image.tile[0][3] if getattr(image, "tile", None) else ""
  if mode == "F":
    raise Unusable("unsupported_mode", "floating-point values")
  if mode == "I" or mode.startswith("I;16"):
    values = np.asarray(image.convert("I"))  # [h, w] int32, of 16 bits
    image = Image.fromarray((values.clip(0, 65535) // 257).astype(np.uint8))
    if key is not None:
      # Of the 16 bits: scaled to 8, the key would match other values, too.
      image = image.convert("LA")
      alpha = np.where(values == key, 0, 255).astype(np.uint8)
      image.putalpha(Image.fromarray(alpha))
  # Pillow scales these values when it reads them, but not their key colour.
  elif key is not None and stored in ("L;2", "L;4"):
    image.info["transparency"] = key * (85 if stored == "L;2" else 17)
  elif key is not None and stored == "RGB;16B":
    image.info["transparency"] = tuple(value >> 8 for value in key)
  if image.mode == "La":  # premultiplied, which converts to LA only
    image = image.convert("LA")
  if image.has_transparency_data:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image)
  image = image.convert("RGB")
  image.info = {}  # its orientation, too: it must not be turned again
  return image


def _jpeg(image):
  """Encodes an image as it is stored; subsampling would blur coloured edges."""
  data = io.BytesIO()
  image.save(data, "JPEG", quality=_QUALITY, subsampling=0)
  return data.getvalue()
