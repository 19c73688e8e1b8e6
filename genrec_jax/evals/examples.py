"""The users that report.html shows, with what their pictures truly show."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from genrec_jax.data import world
from genrec_jax.evals.held_out import HeldOutBatch

_INLINE_SIDE = 128  # pixels; larger pictures are shrunk for the page


class Picture(NamedTuple):
  """An image and what it truly shows, where that is known."""

  image: np.ndarray  # [h, w, 3] uint8
  words: tuple[tuple[str, bool], ...] = ()  # (word, is what the user wants)
  copied: bool = False  # shows exactly an item of the history
  title: str = ""  # of an item, as the data set has it


class User(NamedTuple):
  """One held-out user on the page."""

  name: str
  wants: tuple[str, ...]  # in words, where known
  history: Sequence[Picture]  # oldest first
  real: Picture  # the real next item
  samples: Mapping[str, Sequence[Picture]]  # by row of the table


def examples(
  windows: Sequence[HeldOutBatch],
  samples: Mapping[str, np.ndarray],
  per_model: int = 5,
) -> list[User]:
  """Returns the first users, as many as there are samples of.

  Args:
    windows: held-out users.
    samples: {model: uint8 [U, G, h, w, 3]} of the first U users.
    per_model: of the G samples, show at most so many.
  """
  users = []
  limit = min((len(images) for images in samples.values()), default=0)
  places = [(w, row) for w in windows for row in range(w.count)]
  for number, (window, row) in enumerate(places[:limit]):
    wants = _words(window, row)
    real = window.batch.history_mask[row].astype(bool)
    seen = window.attributes[row][real] if wants else None
    # Of a prompt that was too long the oldest items were left out.
    shown = int(real.sum())
    titles = [""] * shown
    if window.history_titles:
      titles = list(window.history_titles[row])
      titles = titles[len(titles) - shown :]
    users.append(
      User(
        name=f"user {window.names[row]}",
        wants=wants,
        history=[
          _picture(image, wants)._replace(title=title)
          for image, title in zip(
            window.batch.history[row][real], titles, strict=True
          )
        ],
        real=_picture(window.batch.future[row, 0], wants)._replace(
          title=window.titles[row] if window.titles else ""
        ),
        samples={
          name: [
            _picture(image, wants, seen) for image in images[number, :per_model]
          ]
          for name, images in samples.items()
        },
      )
    )
  return users


def examples_html(users: Sequence[User], colours: Mapping[str, str]) -> str:
  """Returns the section of the users, '' without any; colours by model."""
  if not users:
    return ""
  cards = "".join(_user(user, colours) for user in users)
  known = any(user.wants for user in users)
  words = (
    " Captions say what the reader sees in each picture; what the user wants"
    " now is in colour, and 'copy' marks an exact repeat of a history item."
    if known
    else ""
  )
  return (
    "<h2>Some of the users</h2>"
    '<p class="lead">Oldest history first, the real next item outlined at its'
    f" end; below, what each model drew for this user.{words}</p>"
    f'<div class="users">{cards}</div>'
  )


def _user(user: User, colours: Mapping[str, str]) -> str:
  wants = "".join(
    f'<span class="chip">{escape(want)}</span>' for want in user.wants
  )
  if wants:
    wants = f"<span>wants now</span>{wants}"
  history = "".join(_picture_html(p) for p in user.history)
  strips = [
    f'<div class="strip first"><b>history</b>{history}'
    f'<span class="arrow">→</span>{_picture_html(user.real, "next")}</div>'
  ]
  for name, samples in user.samples.items():
    colour = colours.get(name, "var(--soft)")
    strips.append(
      f'<div class="strip"><b style="--c:{colour}">{escape(name)}</b>'
      + "".join(_picture_html(p) for p in samples)
      + "</div>"
    )
  return (
    f'<article class="user"><header>{escape(user.name)} {wants}</header>'
    f"{''.join(strips)}</article>"
  )


def _picture_html(picture: Picture, extra: str = "") -> str:
  words = " ".join(
    f"<em>{escape(word)}</em>" if wanted else escape(word)
    for word, wanted in picture.words
  )
  seen = " ".join(word for word, _ in picture.words)
  title = escape(picture.title or seen)
  if picture.title and picture.title != seen:  # the data set's own words
    words = f'<span class="title">{title}</span>' + (words and f" {words}")
  tiny = "tiny " if max(picture.image.shape[:2]) <= 64 else ""
  badge = '<span class="badge">copy</span>' if picture.copied else ""
  return (
    f'<div class="picture {tiny}{extra}"><img alt="{title}" '
    f'title="{title}" src="{_data_uri(picture.image)}">{badge}{words}</div>'
  )


def _data_uri(image: np.ndarray) -> str:
  """Encodes a picture: PNG when small, a shrunken JPEG when large."""
  picture, buffer = Image.fromarray(image), io.BytesIO()
  if max(picture.size) <= 64:
    kind = "png"
    picture.save(buffer, kind, optimize=True)
  else:
    kind = "jpeg"
    picture.thumbnail((_INLINE_SIDE, _INLINE_SIDE))
    picture.save(buffer, kind, quality=88)
  data = base64.b64encode(buffer.getvalue()).decode()
  return f"data:image/{kind};base64,{data}"


def _words(window: HeldOutBatch, row: int) -> tuple[str, ...]:
  """Returns what a user wants in words; () where it is not known."""
  if window.wants is None:
    return ()
  return tuple(
    world.ATTRIBUTES[name][int(value)]
    for name, value in zip(world.PREFERRED, window.wants[row], strict=True)
  )


def _picture(image, wants, seen=None) -> Picture:
  """Describes a picture where the truth is known.

  Args:
    image: uint8 [h, w, 3].
    wants: words; empty: nothing is known.
    seen: [N, 5] attributes of the history, to tell copies; None: no telling.
  """
  if not wants:
    return Picture(image)
  attrs = world.read(image[None])[0]
  return Picture(
    image,
    tuple((word, word in wants) for word in world.title(attrs).split()),
    copied=seen is not None and bool((seen == attrs[None]).all(-1).any()),
  )
