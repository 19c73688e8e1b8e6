"""Users that report.html shows, with what their images truly show."""

import base64
from collections.abc import Mapping, Sequence
import io
import types
from typing import NamedTuple

import numpy as np
from PIL import Image

from genrec_jax.data import world
from genrec_jax.evals.held_out import HeldOutBatch

_INLINE_SIDE = 128  # pixels; larger images are shrunk for the page
_TINY_SIDE = 64  # up to here the page enlarges images, pixel by pixel


class ShownImage(NamedTuple):
  """An image and what it truly shows, where that is known."""

  image: np.ndarray  # [h, w, 3] uint8
  words: tuple[tuple[str, bool], ...] = ()  # (word, is what the user wants)
  copied: bool = False  # shows exactly an item of the history
  title: str = ""  # of an item, as the data set has it or a model wrote it
  written: bool = False  # the title is a model's

  @property
  def tiny(self) -> bool:
    """True if the image is small enough to be kept as it is."""
    return max(self.image.shape[:2]) <= _TINY_SIDE

  @property
  def seen(self) -> str:
    """What the image shows, in words."""
    return " ".join(word for word, _ in self.words)

  @property
  def titled(self) -> bool:
    """True if the title says more than what is seen, or a model says it."""
    return bool(self.title) and (self.written or self.title != self.seen)

  @property
  def label(self) -> str:
    """The text in place of the image: its title, or else what is seen."""
    return self.title or self.seen

  @property
  def uri(self) -> str:
    """The image as a data URI: PNG when small, a shrunken JPEG when large."""
    image, buffer = Image.fromarray(self.image), io.BytesIO()
    if self.tiny:
      kind = "png"
      image.save(buffer, kind, optimize=True)
    else:
      kind = "jpeg"
      image.thumbnail((_INLINE_SIDE, _INLINE_SIDE))
      image.save(buffer, kind, quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{kind};base64,{data}"


class User(NamedTuple):
  """One held-out user on the page."""

  name: str
  wants: tuple[str, ...]  # in words, where known
  history: Sequence[ShownImage]  # oldest first
  real: ShownImage  # the real next item
  samples: Mapping[str, Sequence[ShownImage]]  # by row of the table

  @property
  def writes(self) -> bool:
    """True if some model wrote titles with its samples."""
    return any(image.written for row in self.samples.values() for image in row)


def examples(
  batches: Sequence[HeldOutBatch],
  samples: Mapping[str, np.ndarray],
  per_model: int = 5,
  titles: Mapping[str, np.ndarray] = types.MappingProxyType({}),
) -> list[User]:
  """Returns the first users, as many as there are samples of.

  Args:
    batches: held-out users.
    samples: {model: uint8 [U, G, h, w, 3]} of the first U users.
    per_model: of the G samples, show at most so many.
    titles: {model: [U, G] of str} that models wrote with their samples.
  """
  limit = min((len(images) for images in samples.values()), default=0)
  places = [(held, row) for held in batches for row in range(held.count)]
  return [
    _user(
      held,
      row,
      {k: x[number, :per_model] for k, x in samples.items()},
      {k: x[number, :per_model] for k, x in titles.items()},
    )
    for number, (held, row) in enumerate(places[:limit])
  ]


def _user(
  held: HeldOutBatch,
  row: int,
  samples: Mapping[str, np.ndarray],
  written: Mapping[str, np.ndarray],
) -> User:
  """Returns one user of a batch; samples uint8 [G, h, w, 3] by model."""
  wants: tuple[str, ...] = ()
  seen = None  # [n, 5], attributes of the n real history items
  real = np.asarray(held.batch.history_mask[row], bool)  # [N]
  if held.truth is not None:
    wants = _words(held.truth.wants[row])
    seen = held.truth.history[row][real]
  history = np.asarray(held.batch.history[row])[real]  # [n, h, w, 3]
  following = np.asarray(held.batch.future[row, 0])  # [h, w, 3]
  titles = [""] * len(history)
  if held.history_titles:
    # Of a prompt that was too long the oldest items were left out.
    known = held.history_titles[row]
    titles = list(known[len(known) - len(history) :])
  return User(
    name=f"user {held.names[row]}",
    wants=wants,
    history=[
      _describe(image, wants)._replace(title=title)
      for image, title in zip(history, titles, strict=True)
    ],
    real=_describe(following, wants)._replace(
      title=held.titles[row] if held.titles else ""
    ),
    samples={
      name: [
        _describe(image, wants, seen)._replace(
          title=title, written=name in written
        )
        for image, title in zip(
          images, written.get(name, [""] * len(images)), strict=True
        )
      ]
      for name, images in samples.items()
    },
  )


def _words(wants: np.ndarray) -> tuple[str, ...]:
  """Returns wants [3] in words."""
  return tuple(
    world.ATTRIBUTES[name][int(value)]
    for name, value in zip(world.PREFERRED, wants, strict=True)
  )


def _describe(
  image: np.ndarray,
  wants: tuple[str, ...],
  seen: np.ndarray | None = None,
) -> ShownImage:
  """Returns an image with its words, where the truth is known.

  Args:
    image: uint8 [h, w, 3].
    wants: words; empty: nothing is known.
    seen: [N, 5] attributes of the history, to mark copies; None: no marks.
  """
  if not wants:
    return ShownImage(image)
  attributes = world.read(image[None])[0]  # [5]
  return ShownImage(
    image,
    tuple((word, word in wants) for word in world.title(attributes).split()),
    copied=seen is not None and bool((seen == attributes).all(-1).any()),
  )
