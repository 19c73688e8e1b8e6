"""One form for every image, and a reason for each that has none."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps
import pytest

from genrec_jax.data import images
from tests.ingest import dirty

COLOUR = (200, 40, 90)


def _encoded(image, kind="PNG", **kwargs):
  data = io.BytesIO()
  image.save(data, kind, **kwargs)
  data.seek(0)
  return Image.open(io.BytesIO(images.encode(data, 64)))


def _near(image, colour):
  """Returns whether an image is of one colour, but for what JPEG changes."""
  return np.abs(np.asarray(image, int) - np.asarray(colour)).max() <= 3


@pytest.mark.parametrize(
  ("mode", "kind"),
  [
    ("RGB", "PNG"),
    ("RGB", "WEBP"),
    ("RGB", "BMP"),
    ("RGB", "TIFF"),
    ("RGB", "GIF"),
    ("P", "PNG"),
    ("CMYK", "JPEG"),
    ("CMYK", "TIFF"),
    ("YCbCr", "JPEG"),
  ],
)
def test_modes_become_rgb(mode, kind):
  image = Image.new("RGB", (20, 30), COLOUR)
  image = image.quantize(2) if mode == "P" else image.convert(mode)
  result = _encoded(image, kind, lossless=True)
  assert (result.mode, result.format, result.size) == ("RGB", "JPEG", (20, 30))
  assert _near(result, COLOUR)


def test_grey_of_any_depth():
  assert _near(_encoded(Image.new("L", (9, 9), 77)), (77, 77, 77))
  assert _near(_encoded(Image.new("1", (9, 9), 1)), (255, 255, 255))
  for kind in ("PNG", "TIFF"):
    deep = Image.fromarray(np.full((9, 9), 77 * 257, np.uint16))
    assert _near(_encoded(deep, kind), (77, 77, 77))
  long = Image.fromarray(np.full((9, 9), 77 * 257, np.int32))
  assert _near(_encoded(long, "TIFF"), (77, 77, 77))
  with pytest.raises(images.Unusable, match="unsupported_mode"):
    _encoded(Image.fromarray(np.zeros((9, 9), np.float32)), "TIFF")


def _deep_png(colour, alpha=()):
  """Returns a PNG of 16 bits a channel, which Pillow cannot write."""

  def chunk(kind, data):
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check

  pixel = b"".join(struct.pack(">H", 257 * c) for c in (*colour, *alpha))
  header = struct.pack(">IIBBBBB", 9, 9, 16, 6 if alpha else 2, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", zlib.compress((b"\0" + 9 * pixel) * 9))
    + chunk(b"IEND", b"")
  )


def test_colour_of_sixteen_bits():
  for alpha, expected in (
    ((), COLOUR),
    ((255,), COLOUR),
    ((0,), (255, 255, 255)),
  ):
    data = io.BytesIO(_deep_png(COLOUR, alpha))
    result = Image.open(io.BytesIO(images.encode(data, 64)))
    assert (result.mode, result.size) == ("RGB", (9, 9))
    assert _near(result, expected)


def test_inverted_cmyk_of_photo_editors():
  """With Adobe's marker, a JPEG's CMYK values mean their opposite."""
  data = io.BytesIO()
  image = Image.new("RGB", (32, 32), COLOUR).convert("CMYK")
  image.save(data, "JPEG", quality=100, subsampling=0)
  assert b"Adobe" in data.getvalue()
  data.seek(0)
  result = Image.open(io.BytesIO(images.encode(data, 64)))
  assert _near(result, COLOUR)


def test_the_first_of_many_frames():
  frames = [Image.new("RGB", (9, 9), c) for c in (COLOUR, (0, 0, 0))]
  for kind in ("GIF", "WEBP", "TIFF", "PNG", "MPO"):
    more = {"save_all": True, "append_images": frames[1:]}
    assert _near(_encoded(frames[0], kind, **more, lossless=True), COLOUR)


def test_alpha_lies_over_white():
  half = tuple((c + 255) // 2 for c in COLOUR)
  assert _near(_encoded(Image.new("RGBA", (9, 9), (*COLOUR, 128))), half)
  assert _near(_encoded(Image.new("LA", (9, 9), (0, 0))), (255, 255, 255))
  clear = Image.new("P", (9, 9), 0)
  clear.putpalette([*COLOUR, 0, 0, 0])
  assert _near(_encoded(clear, transparency=0), (255, 255, 255))
  assert _near(_encoded(clear, "GIF", transparency=1), COLOUR)
  keyed = Image.new("RGB", (9, 9), COLOUR)
  assert _near(_encoded(keyed, transparency=COLOUR), (255, 255, 255))


def test_a_key_colour_is_white_before_an_image_is_shrunk():
  stripes = np.tile(np.uint8([COLOUR, (0, 0, 0)]), (256, 128, 1))
  half = [(colour + 255) / 2 for colour in COLOUR]
  result = _encoded(Image.fromarray(stripes), transparency=(0, 0, 0))
  assert result.size == (64, 64)
  # At the borders a stripe weighs more.
  assert _near(np.asarray(result)[4:-4, 4:-4], half)


def test_photos_are_shrunk_before_they_are_copied(monkeypatch):
  converted = []

  def convert(image, *args, _convert=Image.Image.convert, **kwargs):
    converted.append(image.size)
    return _convert(image, *args, **kwargs)

  monkeypatch.setattr(Image.Image, "convert", convert)
  # Less than twice as large, so that the codec cannot decode it at half.
  assert _encoded(Image.new("RGB", (120, 90)), "JPEG").size == (85, 64)
  assert converted == [(85, 64)]


def test_turned_as_exif_says():
  rng = np.random.default_rng(0)
  blocks = rng.integers(0, 256, (3, 4, 3), np.uint8)
  image = Image.fromarray(blocks).resize((64, 48), Image.Resampling.BOX)
  for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x112] = orientation
    data = io.BytesIO()
    image.save(data, "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(data))
    data.seek(0)
    result = Image.open(io.BytesIO(images.encode(data, 64)))
    assert result.size == expected.size
    difference = np.asarray(result, int) - np.asarray(expected, int)
    assert np.abs(difference).mean() < 2
  # Damaged, but the image is not.
  assert _encoded(image, exif=b"Exif\0\0II*\0\xff\xff\xff\xff").size == (64, 48)


def test_shrunk_but_never_enlarged():
  sizes = {
    (640, 480): (85, 64),
    (96, 144): (64, 96),
    (48, 640): (19, 256),  # four sides at most
    (64, 10): (64, 10),
    (5000, 4): (256, 1),
    (7, 9): (7, 9),
  }
  for size, expected in sizes.items():
    for kind in ("JPEG", "PNG"):
      assert _encoded(Image.new("RGB", size), kind).size == expected


def test_decoding_small_is_near_decoding_whole():
  rng = np.random.default_rng(0)
  blocks = rng.integers(0, 256, (12, 16, 3), np.uint8)
  image = Image.fromarray(blocks).resize((640, 480), Image.Resampling.BICUBIC)
  result = _encoded(image, "JPEG", quality=95)
  expected = image.resize((85, 64), Image.Resampling.BICUBIC)
  difference = np.asarray(result, int) - np.asarray(expected, int)
  assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_cut_files_are_refused(kind):
  rng = np.random.default_rng(0)
  data = io.BytesIO()
  Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(data, kind)
  whole = data.getvalue()
  for length in (0, 1, 10, len(whole) // 3, len(whole) * 2 // 3):
    with pytest.raises(images.Unusable) as error:
      images.encode(io.BytesIO(whole[:length]), 64)
    assert error.value.args[0] in images.REASONS
    assert error.value.args[1]


def test_unusable_files_are_told_apart():
  for data, reason in (
    (b"", "empty_file"),
    (b"<html>", "not_an_image"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
    (dirty.bomb(60_000), "too_large"),
    (dirty.bomb(11_000), "too_large"),  # of which Pillow only warns
  ):
    with pytest.raises(images.Unusable) as error:
      images.encode(io.BytesIO(data), 64)
    assert error.value.args[0] == reason


def test_pixels_are_counted_without_decoding():
  data = io.BytesIO()
  Image.new("RGB", (40, 30)).save(data, "PNG")
  whole = data.getvalue()
  assert images.num_pixels(io.BytesIO(whole)) == 1200
  assert images.num_pixels(io.BytesIO(whole[:-20])) == 1200
  for refused in (b"", b"<html>", dirty.bomb(11_000)):
    assert images.num_pixels(io.BytesIO(refused)) == 0
