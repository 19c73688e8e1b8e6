"""Images, opened as they are for training: upright, RGB, over white."""

from collections.abc import Sequence
import os

import numpy as np
import PIL.Image
import PIL.PngImagePlugin

# Text in a PNG is not needed, but Pillow refuses an image for 1 MB of it.
PIL.PngImagePlugin.MAX_TEXT_CHUNK = PIL.PngImagePlugin.MAX_TEXT_MEMORY


def open_image(path: str | os.PathLike[str]) -> PIL.Image.Image:
  """Opens an image as it is opened for training: upright, RGB, over white.

  Raises:
    ValueError: its values are floating-point. Pillow raises many other kinds.
  """
  turns = PIL.Image.Transpose
  with PIL.Image.open(path) as opened:
    image = to_rgb(opened)
    try:
      orientation = opened.getexif().get(274)  # the tag of the orientation
    except Exception:  # damaged, but the image need not be
      orientation = 1
  by_orientation = {
    2: turns.FLIP_LEFT_RIGHT,
    3: turns.ROTATE_180,
    4: turns.FLIP_TOP_BOTTOM,
    5: turns.TRANSPOSE,
    6: turns.ROTATE_270,
    7: turns.TRANSVERSE,
    8: turns.ROTATE_90,
  }
  turn = by_orientation.get(orientation or 1)
  return image if turn is None else image.transpose(turn)


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
  """Converts an opened image of any mode, as genrec_jax/data/images.py does."""
  # The colour that means transparent, in the file's own levels.
  mode, key = image.mode, image.info.get("transparency")
  # Of an opened file: how its pixels are stored.
  tile = getattr(image, "tile", None)
  stored = tile[0][3] if tile else ""
  if mode == "F":
    raise ValueError("floating-point values")
  if mode == "I" or mode.startswith("I;16"):
    values = np.asarray(image.convert("I"))
    image = PIL.Image.fromarray((values.clip(0, 65535) // 257).astype("u1"))
    if key is not None:
      image = image.convert("LA")
      alpha = np.where(values == key, 0, 255).astype("u1")
      image.putalpha(PIL.Image.fromarray(alpha))
  # Pillow scales such pixels to 8 bits and leaves the key as it was.
  elif key is not None and stored in ("L;2", "L;4"):
    image.info["transparency"] = key * (85 if stored == "L;2" else 17)
  elif key is not None and stored == "RGB;16B":
    image.info["transparency"] = tuple(value >> 8 for value in key)
  if image.mode == "La":  # premultiplied, which RGBA is not made of directly
    image = image.convert("LA")
  if image.has_transparency_data:
    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, "white")
    image = PIL.Image.alpha_composite(white, image)
  return image.convert("RGB")


def open_images(
  paths: Sequence[str | os.PathLike[str]],
) -> list[PIL.Image.Image]:
  """Opens images, upright and RGB.

  Raises:
    ValueError: names all files that are none.
  """
  images, wrong = [], []
  for path in paths:
    try:
      images.append(open_image(path))
    except Exception as error:  # Pillow's formats raise many kinds
      missing = isinstance(error, FileNotFoundError)
      wrong.append(
        f"no image {path}: expected the path of a file"
        if missing
        else f"{path} cannot be read as an image ({error})"
      )
  if wrong:
    raise ValueError("; ".join(wrong))
  return images
