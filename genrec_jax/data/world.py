"""A small world with a known truth: item images, users with drifting wants.

An item is five attributes drawn as a 32 x 32 picture with a title in words. A
user wants one shape, one colour and one texture at a time, mostly gets them,
and now and then changes their mind: what comes next depends on the recent
history more than on the average. `read` says what a picture shows without any
learned model, so it can judge what a generator draws.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np
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
VERSION = 1  # raise it when the same arguments give other pictures or users
PREFERRED = ("shape", "colour", "texture")
IMAGE_SIZE = 32

_COUNTS = tuple(len(words) for words in ATTRIBUTES.values())
NUM_ITEMS = int(np.prod(_COUNTS))
_WANTED = [list(ATTRIBUTES).index(name) for name in PREFERRED]
_FREE = [a for a in range(len(_COUNTS)) if a not in _WANTED]

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
_SUPERSAMPLE = 8
_CHUNK = 256  # images read at once; bounds memory
_START = 1_600_000_000  # seconds; any day will do
_TIE = 0.2  # share of neighbouring events with equal timestamps


class Events(NamedTuple):
  """What simulated users did, and what they wanted at that moment."""

  items: np.ndarray  # [U, E] int64 item indices
  timestamps: np.ndarray  # [U, E] int64 seconds, never decreasing
  wants: np.ndarray  # [U, E, 3] int64, in the order of PREFERRED


def attributes(item_index) -> np.ndarray:
  """Returns the attributes of items: [...] int -> [..., 5] int64."""
  index = np.asarray(item_index)
  if np.any((index < 0) | (index >= NUM_ITEMS)):
    raise IndexError(
      f"Item index {index.min()}..{index.max()} is outside the world: "
      f"expected 0..{NUM_ITEMS - 1}."
    )
  return np.stack(np.unravel_index(index, _COUNTS), axis=-1)


def item_index(attrs) -> np.ndarray:
  """Returns the item index of attributes: [..., 5] int -> [...] int64."""
  return np.ravel_multi_index(tuple(np.moveaxis(attrs, -1, 0)), _COUNTS)


def title(attrs) -> str:
  """Returns the title of one item [5]: "large red striped circle on sand"."""
  shape, colour, texture, background, size = (
    words[int(i)] for words, i in zip(ATTRIBUTES.values(), attrs, strict=True)
  )
  return f"{size} {colour} {texture} {shape} on {background}"


def render(attrs) -> np.ndarray:
  """Draws items: [..., 5] int -> uint8 [..., 32, 32, 3]."""
  shape, colour, texture, background, size = np.moveaxis(
    np.asarray(attrs), -1, 0
  )
  shapes, textures = _masks()
  inside = shapes[shape, size][..., None]
  white = textures[texture][..., None]
  paint = np.asarray(_COLOURS, np.float32)[colour][..., None, None, :]
  ground = np.asarray(_BACKGROUNDS, np.float32)[background][..., None, None, :]
  pattern = white * np.float32(_WHITE) + (1 - white) * paint
  return np.round(inside * pattern + (1 - inside) * ground).astype(np.uint8)


def read(images) -> np.ndarray:
  """Reads what pictures show: uint8 [B, h, w, 3] -> attributes [B, 5] int64.

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
  found = np.zeros(len(images), np.int64)
  templates, norms = _templates()
  for start in range(0, len(images), _CHUNK):
    chunk = _halve(_resized(images[start : start + _CHUNK]))
    # |x - t|^2 without |x|^2, which is the same for all templates.
    nearest = np.argmin(norms - 2 * (chunk @ templates), axis=-1)
    found[start : start + _CHUNK] = nearest % NUM_ITEMS
  return attributes(found)


def simulate(
  num_users: int,
  num_events: int,
  seed: int,
  *,
  fidelity: float = 0.9,
  drift: float = 0.06,
) -> Events:
  """Simulates users; the same arguments give the same events.

  Before each event each want switches to another value with probability
  `drift`. Each preferred attribute of the event's item equals the want with
  probability `fidelity`, else is uniform over the others; background and size
  are uniform. No user gets an item twice: background and size are drawn again,
  and a user who has had all that a want offers gets any unseen item.
  """
  if num_events > NUM_ITEMS:
    raise ValueError(
      f"num_events={num_events}: no item comes twice, so at most {NUM_ITEMS}."
    )
  rng = np.random.default_rng(seed)
  counts = np.asarray([_COUNTS[a] for a in _WANTED])
  current = rng.integers(counts, size=(num_users, len(counts)))
  seen = np.zeros((num_users, NUM_ITEMS), bool)
  items = np.zeros((num_users, num_events), np.int64)
  wants = np.zeros((num_users, num_events, len(counts)), np.int64)
  for event in range(num_events):
    current = _switch(rng, current, counts, drift)
    wants[:, event] = current
    items[:, event] = _draw(
      rng, _switch(rng, current, counts, 1 - fidelity), seen
    )
    seen[np.arange(num_users), items[:, event]] = True
  gaps = rng.integers(60, 86_400, size=(num_users, num_events))
  gaps = np.where(rng.random(gaps.shape) < _TIE, 0, gaps)
  return Events(items, _START + np.cumsum(gaps, axis=1), wants)


def preference_match(attrs, wants) -> np.ndarray:
  """Returns the share of wants met: [..., 5], [..., 3] -> [...] float32."""
  met = np.asarray(attrs)[..., _WANTED] == np.asarray(wants)
  return met.mean(axis=-1, dtype=np.float32)


def _switch(rng, values, counts, probability):
  """Moves each value to another, uniformly, with the given probability."""
  other = (values + 1 + rng.integers(counts - 1, size=values.shape)) % counts
  return np.where(rng.random(values.shape) < probability, other, values)


def _draw(rng, preferred, seen):
  """Draws one unseen item [U] per user with the preferred attributes [U, 3]."""
  attrs = np.zeros((len(preferred), len(_COUNTS)), np.int64)
  attrs[:, _WANTED] = preferred
  todo = np.arange(len(preferred))
  for attempt in itertools.count():
    fresh = range(len(_COUNTS)) if attempt >= 200 else _FREE
    for a in fresh:
      attrs[todo, a] = rng.integers(_COUNTS[a], size=len(todo))
    todo = todo[seen[todo, item_index(attrs[todo])]]
    if not len(todo):
      return item_index(attrs)


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


def _average(fine):
  """Averages [..., 32 k, 32 k] down to float32 [..., 32, 32]."""
  *lead, _, _ = fine.shape
  split = (IMAGE_SIZE, _SUPERSAMPLE)
  fine = fine.reshape(*lead, *split, *split)
  return fine.mean(axis=(-3, -1), dtype=np.float32)


def _resized(images):
  """Returns uint8 images [B, h, w, 3] at [B, 32, 32, 3]."""
  side = (IMAGE_SIZE, IMAGE_SIZE)
  if images.shape[1:3] == side:
    return images
  resample = Image.Resampling.BOX
  return np.stack(
    [np.asarray(Image.fromarray(i).resize(side, resample)) for i in images]
  )


def _halve(images):
  """Halves uint8 [B, 32, 32, 3] and flattens: float32 [B, 768] in [0, 1]."""
  half = IMAGE_SIZE // 2
  blocks = images.reshape(-1, half, 2, half, 2, 3)
  means = blocks.mean(axis=(2, 4), dtype=np.float32) / 255
  return means.reshape(-1, half * half * 3)


@functools.cache
def _templates() -> tuple[np.ndarray, np.ndarray]:
  """Returns what `read` compares with, and its squared norms.

  Columns [768, 3 * items]: all renders sharp, then blurred by 1 and 1.8 pixels.
  """
  sharp = render(attributes(np.arange(NUM_ITEMS)))
  blurred = [sharp, *(_blur(sharp, sigma) for sigma in (1.0, 1.8))]
  rows = np.concatenate([_halve(images) for images in blurred])
  return np.ascontiguousarray(rows.T), np.sum(rows**2, axis=-1)


def _blur(images, sigma):
  """Blurs [B, 32, 32, 3] by a Gaussian of `sigma` pixels; float32."""
  distance = np.arange(IMAGE_SIZE)[:, None] - np.arange(IMAGE_SIZE)
  weights = np.exp(-0.5 * (distance / np.float32(sigma)) ** 2)
  weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
  rows = np.tensordot(images.astype(np.float32), weights, axes=(1, 1))
  # The contracted axis comes last: [B, 32 x, 3, 32 y], then [B, 3, 32 y, 32 x].
  both = np.tensordot(rows, weights, axes=(1, 1))
  return both.transpose(0, 2, 3, 1)
