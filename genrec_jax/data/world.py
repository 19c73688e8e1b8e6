"""Items of the synthetic world, whose truth is known: attributes and images.

An item is five attributes, rendered as a 32 x 32 image, with a title in words.
`read` recognises the attributes in an image without any learned model, so it
can judge generated images.
"""

from collections.abc import Sequence
import functools

import numpy as np
import numpy.typing as npt
from PIL import Image

ATTRIBUTES: dict[str, tuple[str, ...]] = {
  "shape": ("circle", "square", "triangle", "diamond", "cross"),
  "colour": (
    "red",
    "orange",
    "yellow",
    "green",
    "cyan",
    "blue",
    "purple",
    "pink",
  ),
  "texture": ("solid", "striped", "dotted", "checked"),
  "background": ("sand", "slate", "moss", "clay", "mist", "coal"),
  "size": ("small", "medium", "large"),
}
VERSION = 1  # raise it when the same arguments give other images or users
PREFERRED = ("shape", "colour", "texture")  # what users have wants for
IMAGE_SIZE = 32  # pixels a side

COUNTS = tuple(len(words) for words in ATTRIBUTES.values())  # values of each
NUM_ITEMS = int(np.prod(COUNTS))
# Columns of attributes, of those in PREFERRED and of the others.
WANTED = [list(ATTRIBUTES).index(name) for name in PREFERRED]
FREE = [a for a in range(len(COUNTS)) if a not in WANTED]

# sRGB. Objects are saturated, backgrounds muted, the texture's second tone is
# white, so no two of the three are near each other.
_COLOURS = (
  (222, 30, 38),
  (244, 124, 16),
  (246, 206, 0),
  (24, 160, 56),
  (0, 190, 214),
  (30, 76, 220),
  (128, 40, 190),
  (250, 96, 180),
)
_BACKGROUNDS = (
  (206, 184, 146),
  (98, 112, 132),
  (116, 132, 88),
  (148, 96, 78),
  (178, 190, 196),
  (44, 46, 52),
)
_WHITE = (255, 255, 255)
_HALF_EXTENTS = (8, 11, 14)  # pixels from the centre to the bounding box
_SUPERSAMPLE = 8  # points a pixel side; their mean is a smooth edge
_CHUNK = 256  # images read at once; bounds memory


def attributes(item_index: npt.ArrayLike) -> np.ndarray:
  """Returns the attributes of items: [...] int -> [..., 5] int64."""
  index = np.asarray(item_index)
  if np.any((index < 0) | (index >= NUM_ITEMS)):
    raise IndexError(
      f"Item index {index.min()}..{index.max()} is outside the world: "
      f"expected 0..{NUM_ITEMS - 1}."
    )
  return np.stack(np.unravel_index(index, COUNTS), axis=-1)


def item_index(attrs: npt.ArrayLike) -> np.ndarray:
  """Returns the item index of attributes: [..., 5] int -> [...] int64."""
  columns = tuple(np.moveaxis(np.asarray(attrs), -1, 0))  # 5 of [...]
  return np.asarray(np.ravel_multi_index(columns, COUNTS))


def title(attrs: Sequence[int] | np.ndarray) -> str:
  """Returns the title of one item [5]: "large red striped circle on sand"."""
  shape, colour, texture, background, size = (
    words[int(i)] for words, i in zip(ATTRIBUTES.values(), attrs, strict=True)
  )
  return f"{size} {colour} {texture} {shape} on {background}"


def read_title(text: str) -> np.ndarray:
  """Returns the attributes [5] int64 that a text names; -1 where none or two.

  Any text: what `title` writes is read back, a part of it in part.
  """
  words = set(text.split())
  found = [
    [i for i, word in enumerate(values) if word in words]
    for values in ATTRIBUTES.values()
  ]
  return np.asarray([one[0] if len(one) == 1 else -1 for one in found])


def render(attrs: npt.ArrayLike) -> np.ndarray:
  """Renders items: [..., 5] int -> uint8 [..., 32, 32, 3]."""
  shape, colour, texture, background, size = np.moveaxis(
    np.asarray(attrs), -1, 0
  )
  shapes, textures = _masks()
  inside = shapes[shape, size][..., None]  # [..., 32, 32, 1]
  white = textures[texture][..., None]  # [..., 32, 32, 1]
  paint = np.asarray(_COLOURS, np.float32)[colour][..., None, None, :]
  ground = np.asarray(_BACKGROUNDS, np.float32)[background][..., None, None, :]
  # [..., 32, 32, 3]
  pattern = white * np.asarray(_WHITE, np.float32) + (1 - white) * paint
  return np.round(inside * pattern + (1 - inside) * ground).astype(np.uint8)


def read(images: npt.ArrayLike) -> np.ndarray:
  """Recognises items: uint8 [B, h, w, 3] -> attributes [B, 5] int64.

  The nearest of all renders, sharp or blurred, in squared distance at half
  size: exact on renders, and robust to the blur and noise a generator adds.
  Other sizes are resized.
  """
  images = np.asarray(images)
  if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
    raise ValueError(
      f"Cannot read images of {images.dtype}{list(images.shape)}: "
      "expected uint8 [B, h, w, 3]."
    )
  items = np.zeros(len(images), np.int64)
  templates, norms = _templates()
  for start in range(0, len(images), _CHUNK):
    chunk = _halve(_resized(images[start : start + _CHUNK]))  # [c, 768]
    # |x - t|^2 without |x|^2, which is the same for all templates.
    nearest = np.argmin(norms - 2 * (chunk @ templates), axis=-1)
    # The templates are all items three times over.
    items[start : start + _CHUNK] = nearest % NUM_ITEMS
  return attributes(items)


def preference_match(attrs: npt.ArrayLike, wants: npt.ArrayLike) -> np.ndarray:
  """Returns the share of wants met: [..., 5], [..., 3] -> [...] float32."""
  met = np.asarray(attrs)[..., WANTED] == np.asarray(wants)
  return met.mean(axis=-1, dtype=np.float32)


@functools.cache
def _masks() -> tuple[np.ndarray, np.ndarray]:
  """Returns coverage in [0, 1]: shapes [5, 3, 32, 32], textures [4, 32, 32].

  Shapes are centred on the corner of four 8 x 8 patches, which the small ones
  just fill, and textures are the same in every patch (checks: one tone per
  patch), so a model that codes such patches needs few codes.
  """
  steps = (np.arange(IMAGE_SIZE * _SUPERSAMPLE) + 0.5) / _SUPERSAMPLE
  y, x = np.meshgrid(steps, steps, indexing="ij")
  u, v = x - IMAGE_SIZE / 2, y - IMAGE_SIZE / 2
  across, down = np.abs(u), np.abs(v)
  shapes = [
    [
      u**2 + v**2 < r**2,
      np.maximum(across, down) < 0.9 * r,
      (down < r) & (2 * across < v + r),
      across + down < r,
      (np.maximum(across, down) < r) & (np.minimum(across, down) < 0.36 * r),
    ]
    for r in _HALF_EXTENTS
  ]
  # Dots sit on the corners and at the centres of 8 x 8 squares.
  dots = [
    (np.mod(x + o, 8) - 4) ** 2 + (np.mod(y + o, 8) - 4) ** 2 < 1.9**2
    for o in (0, 4)
  ]
  stripes = np.mod(y, 8) < 4
  checks = (np.mod(y, 16) < 8) ^ (np.mod(x, 16) < 8)
  textures = [np.zeros_like(checks), stripes, dots[0] | dots[1], checks]
  return (
    np.swapaxes(_average(np.asarray(shapes)), 0, 1),
    _average(np.asarray(textures)),
  )


def _average(fine: np.ndarray) -> np.ndarray:
  """Averages [..., 32 k, 32 k] down to float32 [..., 32, 32]."""
  *lead, _, _ = fine.shape
  split = (IMAGE_SIZE, _SUPERSAMPLE)
  fine = fine.reshape(*lead, *split, *split)
  return fine.mean(axis=(-3, -1), dtype=np.float32)


def _resized(images: np.ndarray) -> np.ndarray:
  """Returns uint8 images [B, h, w, 3] at [B, 32, 32, 3]."""
  side = (IMAGE_SIZE, IMAGE_SIZE)
  if images.shape[1:3] == side:
    return images
  resample = Image.Resampling.BOX
  return np.stack(
    [np.asarray(Image.fromarray(i).resize(side, resample)) for i in images]
  )


def _halve(images: np.ndarray) -> np.ndarray:
  """Halves uint8 [B, 32, 32, 3] and flattens: float32 [B, 768] in [0, 1]."""
  half = IMAGE_SIZE // 2
  blocks = images.reshape(-1, half, 2, half, 2, 3)  # squares of 2 x 2 pixels
  means = blocks.mean(axis=(2, 4), dtype=np.float32) / 255
  return means.reshape(-1, half * half * 3)


@functools.cache
def _templates() -> tuple[np.ndarray, np.ndarray]:
  """Returns the renders that `read` compares with, and their squared norms.

  Columns [768, 3 * items]: all renders sharp, then blurred by 1 and 1.8 pixels.
  """
  sharp = render(attributes(np.arange(NUM_ITEMS)))
  blurred = [sharp, *(_blur(sharp, sigma) for sigma in (1.0, 1.8))]
  templates = np.concatenate([_halve(images) for images in blurred])
  norms = np.sum(templates**2, axis=-1)  # [3 * items]
  # Contiguous, as every chunk of images is multiplied with them.
  return np.ascontiguousarray(templates.T), norms


def _blur(images: np.ndarray, sigma: float) -> np.ndarray:
  """Blurs [B, 32, 32, 3] by a Gaussian of `sigma` pixels; float32."""
  distance = np.arange(IMAGE_SIZE)[:, None] - np.arange(IMAGE_SIZE)
  weights = np.exp(-0.5 * (distance / np.float32(sigma)) ** 2)
  weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
  # tensordot puts the axis it contracts last.
  # [B, 32 x, 3, 32 y]
  columns = np.tensordot(images.astype(np.float32), weights, axes=(1, 1))
  both = np.tensordot(columns, weights, axes=(1, 1))  # [B, 3, 32 y, 32 x]
  return both.transpose(0, 2, 3, 1)
