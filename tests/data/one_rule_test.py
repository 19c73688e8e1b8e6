"""Import, training, generate.py and infer_hf.py see one image alike."""

import functools
import io
import pathlib
import struct
import subprocess
import sys
import zlib

import numpy as np
from PIL import Image
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.data import images, records
from genrec_jax.hf.processor import open_image
from tools import hf_inference
from tools.hf_inference import images as torch_images

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "generate.py"
WHITE, RED = (255, 255, 255), (200, 40, 90)
HALF = (228, 148, 173)  # RED of alpha 128 over white, rounded up
SIDE = 9


def chunk(kind, data):
  check = struct.pack(">I", zlib.crc32(kind + data))
  return struct.pack(">I", len(data)) + kind + data + check


def png(row, depth, colour_type, *more):
  """Returns a PNG of equal rows, of depths that Pillow does not write."""
  header = struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour_type, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + b"".join(more)
    + chunk(b"IDAT", zlib.compress((b"\0" + row) * SIDE))
    + chunk(b"IEND", b"")
  )


def saved(image, kind="PNG", **options):
  data = io.BytesIO()
  image.save(data, kind, **options)
  return data.getvalue()


def with_chunks(image, *chunks):
  """Returns a PNG with chunks behind its header."""
  data = saved(image)
  return data[:33] + b"".join(chunks) + data[33:]


def of(mode, value):
  return Image.new(mode, (SIDE, SIDE), value)


def palette(*colours):
  image = of("P", 0)
  image.putpalette(sum(colours, ()))
  return image


def deep(value, kind="<u2"):
  return Image.fromarray(np.full((SIDE, SIDE), value, kind))


def big_endian(value):
  values = np.full((SIDE, SIDE), value, ">u2")
  return Image.frombytes("I;16B", values.shape, values.tobytes())


def key(*values):
  return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


# Name of a file: its content and the colour that all must see; PNG sums of two
# by hand: colour * alpha / 255 + 255 * (1 - alpha / 255).
FILES = {
  "1": (saved(of("1", 1)), WHITE),
  "1_key": (png(b"\xff\xff", 1, 0, key(1)), WHITE),
  "1_other_key": (png(b"\0\0", 1, 0, key(1)), (0, 0, 0)),
  "L": (saved(of("L", 77)), (77,) * 3),
  "L_key": (saved(of("L", 77), transparency=77), WHITE),
  "L_of_2_bits": (png(b"\x55" * 3, 2, 0), (85,) * 3),
  "L_of_2_bits_key": (png(b"\x55" * 3, 2, 0, key(1)), WHITE),
  "L_of_4_bits_key": (png(b"\x44" * 5, 4, 0, key(4)), WHITE),
  "L_of_4_bits_other_key": (png(b"\x44" * 5, 4, 0, key(3)), (68,) * 3),
  "LA": (saved(of("LA", (0, 128))), (127,) * 3),
  "LA_clear": (saved(of("LA", (0, 0))), WHITE),
  "P": (saved(palette(RED, (0, 0, 0))), RED),
  "P_key": (saved(palette(RED, (0, 0, 0)), transparency=0), WHITE),
  "P_other_key": (saved(palette(RED, (0, 0, 0)), transparency=1), RED),
  "P_alphas": (
    saved(palette(RED, (0, 0, 0)), transparency=bytes([128, 9])),
    HALF,
  ),
  "P_gif_key": (saved(palette(RED, (0, 0, 0)), "GIF", transparency=0), WHITE),
  "PA": (saved(palette(RED, (9, 9, 9)).convert("PA"), "TIFF"), RED),
  "RGB": (saved(of("RGB", RED)), RED),
  "RGB_key": (saved(of("RGB", RED), transparency=RED), WHITE),
  "RGB_other_key": (saved(of("RGB", RED), transparency=(1, 2, 3)), RED),
  "RGB_of_16_bits": (
    png(struct.pack(">3H", 51400, 10280, 23130) * SIDE, 16, 2),
    RED,
  ),
  "RGB_of_16_bits_key": (
    png(
      struct.pack(">3H", 51400, 10280, 23130) * SIDE,
      16,
      2,
      key(51400, 10280, 23130),
    ),
    WHITE,
  ),
  "RGB_of_16_bits_other_key": (
    # The colour in 8 bits, which is nearly black in 16.
    png(struct.pack(">3H", 51400, 10280, 23130) * SIDE, 16, 2, key(*RED)),
    RED,
  ),
  "RGBA": (saved(of("RGBA", (*RED, 128))), HALF),
  "RGBA_clear": (saved(of("RGBA", (*RED, 0))), WHITE),
  "RGBA_webp": (saved(of("RGBA", (*RED, 128)), "WEBP", lossless=True), HALF),
  "RGBA_of_16_bits": (
    png(struct.pack(">4H", 51400, 10280, 23130, 0) * SIDE, 16, 6),
    WHITE,
  ),
  "RGBX": (saved(of("RGBX", (*RED, 7)), "TIFF"), RED),
  "CMYK": (saved(of("CMYK", (55, 215, 165, 0)), "TIFF"), RED),
  "CMYK_jpeg": (saved(of("CMYK", (55, 215, 165, 0)), "JPEG", quality=100), RED),
  "YCbCr": (saved(of("YCbCr", (255, 128, 128)), "TIFF"), WHITE),
  "LAB": (saved(of("LAB", (255, 128, 128)), "TIFF"), WHITE),
  "I": (saved(deep(77 * 257, np.int32), "TIFF"), (77,) * 3),
  "I_beyond": (saved(deep(-9, np.int32), "TIFF"), (0, 0, 0)),
  "I;16": (saved(deep(77 * 257)), (77,) * 3),
  "I;16_key": (png(b"\x9c\x40" * SIDE, 16, 0, key(40000)), WHITE),
  "I;16_other_key": (png(b"\x9c\x40" * SIDE, 16, 0, key(40001)), (155,) * 3),
  "I;16_alpha": (png(b"\x4d\x4d\0\0" * SIDE, 16, 4), WHITE),
  "I;16B": (saved(big_endian(77 * 257), "TIFF"), (77,) * 3),
  # Text and profiles that unpack to more than Pillow takes by itself.
  "large_profile": (
    with_chunks(
      of("RGB", RED),
      chunk(b"iCCP", b"big\0\0" + zlib.compress(bytes(3 << 20))),
    ),
    RED,
  ),
  "large_text": (
    with_chunks(
      of("RGB", RED),
      chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * (3 << 20))),
      chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"x" * (3 << 20))),
      chunk(b"tEXt", b"a\0" + b"y" * (2 << 20)),
    ),
    RED,
  ),
  "damaged_profile": (
    with_chunks(of("RGB", RED), chunk(b"iCCP", b"a\0\0no zlib at all")),
    RED,
  ),
  "damaged_exif": (
    with_chunks(of("RGB", RED), chunk(b"eXIf", b"MM\0*\0\0")),
    RED,
  ),
}
MODES = {
  "1": 1,
  "L": 77,
  "LA": (77, 128),
  "La": (38, 128),
  "P": 3,
  "PA": (3, 128),
  "RGB": RED,
  "RGBA": (*RED, 128),
  "RGBa": (100, 20, 45, 128),
  "RGBX": (*RED, 9),
  "CMYK": (9, 99, 9, 9),
  "YCbCr": (99, 9, 199),
  "LAB": (99, 9, 199),
  "HSV": (99, 9, 199),
  "I": 30000,
  "I;16": 30000,
  "I;16L": 30000,
  "I;16B": 30000,
  "I;16N": 30000,
  "F": 0.5,
}


@functools.cache
def seen_by_generate(folder):
  """Returns what tools/generate.py makes of all files, by name."""
  code = (
    "import importlib.util, sys, numpy\n"
    "spec = importlib.util.spec_from_file_location('generate', sys.argv[1])\n"
    "tool = importlib.util.module_from_spec(spec)\n"
    "spec.loader.exec_module(tool)\n"
    "numpy.savez(sys.argv[2], *map(numpy.asarray,"
    " tool.open_images(sys.argv[3:])))\n"
  )
  out, paths = folder / "seen.npz", [str(folder / name) for name in FILES]
  subprocess.run([sys.executable, "-c", code, TOOL, out, *paths], check=True)
  with np.load(out) as arrays:
    return dict(zip(FILES, arrays.values(), strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("files")
  for name, (content, _) in FILES.items():
    (folder / name).write_bytes(content)
  return folder


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_one_colour_wherever_it_is_opened(folder, name):
  content, colour = FILES[name]
  path = folder / name
  with Image.open(path) as image:
    found = {"images": images.upright(image)}
  found |= {
    "training": records.decode_image({"id": b"1", "image": content}),
    "open_image": open_image(path),
    "infer_hf.py": hf_inference.open_images([path])[0],
    "generate.py": seen_by_generate(folder)[name],
  }
  # LAB and CMYK have more colours than RGB, half a level is rounded somehow.
  error = 1 if name.startswith(("RGB", "P", "L", "CMYK")) else 0
  for who, image in found.items():
    pixels = np.asarray(image)
    assert pixels.shape == (SIDE, SIDE, 3), who
    np.testing.assert_array_equal(pixels, found["generate.py"], err_msg=who)
    assert np.abs(pixels.astype(int) - colour).max() <= error, who
  stored = Image.open(io.BytesIO(images.encode(io.BytesIO(content), 64)))
  # But for what JPEG changes.
  assert np.abs(np.asarray(stored, int) - colour).max() <= 3


@pytest.mark.parametrize("mode", MODES)
def test_the_torch_tool_converts_every_mode_as_the_import_does(mode):
  image = Image.new(mode, (SIDE, SIDE), MODES[mode])
  if mode == "F":  # 0 to 1 or 0 to 255: nobody knows
    with pytest.raises(images.Unusable, match="floating-point"):
      images.upright(image)
    with pytest.raises(ValueError, match="floating-point"):
      torch_images.to_rgb(image)
    return
  expected = images.upright(image)
  assert expected.mode == "RGB"
  np.testing.assert_array_equal(torch_images.to_rgb(image), expected)


def test_every_mode_of_pillow_is_here():
  known = getattr(Image, "_MODES", None) or Image.MODES
  assert set(known) <= MODES.keys()


def test_floating_point_files_are_refused_by_all(tmp_path):
  path = tmp_path / "float.tif"
  Image.new("F", (SIDE, SIDE), 0.5).save(path)
  with pytest.raises(UserError, match=r"float.tif .*floating-point"):
    open_image(path)
  with pytest.raises(ValueError, match=r"float.tif .*floating-point"):
    hf_inference.open_images([path])
  with pytest.raises(images.Unusable, match="unsupported_mode"):
    images.encode(io.BytesIO(path.read_bytes()), 64)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_all_turn_a_file_alike(tmp_path, kind, orientation):
  pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  exif = Image.Exif()
  exif[0x112] = orientation
  path = tmp_path / "image"
  Image.fromarray(pixels).save(path, kind, exif=exif, lossless=True)
  # Where the pixel that is shown at the top left is stored, and the one next
  # to it (CIPA DC-008, section 4.6.4, Orientation).
  stored = {
    1: ((0, 0), (0, 1)),
    2: ((0, 6), (0, 5)),
    3: ((4, 6), (4, 5)),
    4: ((4, 0), (4, 1)),
    5: ((0, 0), (1, 0)),
    6: ((4, 0), (3, 0)),
    7: ((4, 6), (3, 6)),
    8: ((0, 6), (1, 6)),
  }[orientation]
  found = np.asarray(open_image(path))
  for place, source in enumerate(stored):
    np.testing.assert_array_equal(found[0, place], pixels[source])
  np.testing.assert_array_equal(hf_inference.open_images([path])[0], found)
