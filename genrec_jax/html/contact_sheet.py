"""Contact sheets: pictures in rows, with what is known of them in words."""

from collections.abc import Sequence
import functools
import math
from typing import NamedTuple
import unicodedata

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_CELL = 160  # pixels; smaller pictures are enlarged to about this
_COLUMNS = 8  # at most
_LINES = 3  # of a caption
# Looked for where the system keeps fonts; Pillow's own has ASCII letters only.
_FONTS = (
  "DejaVuSans.ttf",
  "NotoSans-Regular.ttf",
  "NotoSansCJK-Regular.ttc",
  "LiberationSans-Regular.ttf",
  "Arial.ttf",
  "Arial Unicode.ttf",
)
_INK, _FAINT, _PAPER = "#202020", "#707070", "#ffffff"


class Section(NamedTuple):
  """Pictures under one heading."""

  heading: str
  images: Sequence[np.ndarray]  # [S, S, 3] uint8 each
  captions: Sequence[str]  # one per picture; may be ''


def contact_sheet(title: str, sections: Sequence[Section]) -> Image.Image:
  """Lays out sections of pictures under each other, captions below each.

  Texts are wrapped, captions cut after three lines. A letter that the fonts
  found lack loses its accent, or is a question mark.

  Args:
    title: above all; may be ''.
    sections: at least one with pictures; all of them have the same size.

  Returns:
    An RGB picture.
  """
  sections = [section for section in sections if len(section.images)]
  side = sections[0].images[0].shape[0]
  times = max(round(_CELL / side), 1)
  cell = side * times
  gap = max(cell // 16, 4)
  words = [title, *(c for s in sections for c in (s.heading, *s.captions))]
  font = _font(max(cell // 13, 12), "".join(words))
  line = sum(font.getmetrics())
  counts = [len(section.images) for section in sections]
  columns = min(
    max(max(counts[:-1], default=1), math.ceil(math.sqrt(counts[-1])), 2),
    _COLUMNS,
  )
  width = columns * (cell + gap) - gap

  # What is drawn where, by its left upper corner; y grows downwards.
  pictures: list[tuple[int, int, np.ndarray]] = []
  texts: list[tuple[int, int, str, str]] = []
  y = gap

  def write(text, x, y, limit, lines, colour):
    wrapped = _wrap(text, font, limit, lines)
    for i, part in enumerate(wrapped):
      texts.append((x, y + i * line, part, colour))
    return len(wrapped) * line

  y += write(title, gap, y, width, _LINES, _INK)
  for heading, images, captions in sections:
    y += gap if y > gap else 0
    y += write(heading, gap, y, width, 1, _FAINT) + gap // 2
    for start in range(0, len(images), columns):
      tallest = 0
      for i in range(start, min(start + columns, len(images))):
        x = gap + (i - start) * (cell + gap)
        pictures.append((x, y, images[i]))
        below = y + cell + gap // 4
        height = write(captions[i], x, below, cell, _LINES, _INK)
        tallest = max(tallest, height)
      y += cell + gap // 4 + tallest + gap // 2
  sheet = Image.new("RGB", (width + 2 * gap, y + gap // 2), _PAPER)
  draw = ImageDraw.Draw(sheet)
  for x, y, pixels in pictures:
    enlarged = np.repeat(np.repeat(pixels, times, 0), times, 1)
    sheet.paste(Image.fromarray(enlarged), (x, y))
  for x, y, text, colour in texts:
    draw.text((x, y), text, fill=colour, font=font)
  return sheet


def _font(size: int, text: str) -> ImageFont.FreeTypeFont:
  """Returns the font that has the most letters of a text."""
  default = ImageFont.load_default(size)
  assert isinstance(default, ImageFont.FreeTypeFont)  # in all wheels of Pillow
  fonts = [default]
  for name in _FONTS:
    try:
      fonts.append(ImageFont.truetype(name, size))
    except OSError:
      continue
  letters = set(text)
  return max(fonts, key=lambda font: sum(_has(font, x) for x in letters))


@functools.lru_cache(4096)
def _has(font: ImageFont.FreeTypeFont, letter: str) -> bool:
  """Tells whether a font can show a letter; it draws all others alike."""
  missing = bytes(font.getmask("\U0010ffff"))
  return letter.isspace() or bytes(font.getmask(letter)) != missing


def _spell(text: str, font: ImageFont.FreeTypeFont) -> str:
  """Replaces the letters of a text that a font lacks."""

  def nearest(letter):
    parts = unicodedata.normalize("NFKD", letter)
    return "".join(filter(functools.partial(_has, font), parts)) or "?"

  return "".join(x if _has(font, x) else nearest(x) for x in text)


def _wrap(text: str, font, width: int, lines: int) -> list[str]:
  """Splits a text into lines that fit; what is too long ends in dots."""
  parts: list[str] = []
  for word in _spell(text, font).split():
    joined = f"{parts[-1]} {word}" if parts else word
    if parts and font.getlength(joined) <= width:
      parts[-1] = joined
      continue
    parts.append("")
    for letter in word:  # words wider than a line are broken
      if parts[-1] and font.getlength(parts[-1] + letter) > width:
        parts.append("")
      parts[-1] += letter
  if len(parts) > lines:
    parts = parts[:lines]
    while parts[-1] and font.getlength(parts[-1] + "...") > width:
      parts[-1] = parts[-1][:-1]
    parts[-1] += "..."
  return parts
