"""Contact sheets: images in rows with captions, as one image file."""

from collections.abc import Sequence
import functools
import math
from typing import Any, NamedTuple
import unicodedata

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_CELL = 160  # pixels; smaller images are enlarged to about this
_COLUMNS = 8  # at most
_LINES = 3  # of a caption
# Looked for where the system keeps fonts; Pillow's own has ASCII letters only,
# and titles are in any language.
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
  """Images under one heading."""

  heading: str
  images: Sequence[np.ndarray]  # [S, S, 3] uint8 each
  captions: Sequence[str]  # one per image; may be ''


def contact_sheet(title: str, sections: Sequence[Section]) -> Image.Image:
  """Returns sections of images under each other, captions below each image.

  Texts are wrapped, captions cut after three lines. A letter that the fonts
  lack loses its accent, or is a question mark.

  Args:
    title: above all; may be ''.
    sections: at least one with images, the largest of which is the size of a
      cell; smaller ones are enlarged by whole numbers.

  Returns:
    An RGB image.
  """
  sections = [section for section in sections if len(section.images)]
  side = max(image.shape[0] for s in sections for image in s.images)
  times = max(round(_CELL / side), 1)  # whole, so that pixels stay sharp
  cell = side * times
  texts = [title, *(t for s in sections for t in (s.heading, *s.captions))]
  layout = _Layout(cell, _font(max(cell // 13, 12), "".join(texts)))
  layout.add(title, sections)
  sheet = Image.new("RGB", layout.size, _PAPER)
  for x, y, pixels in layout.images:  # [S, S, 3]
    factor = cell // pixels.shape[0]
    enlarged = np.repeat(np.repeat(pixels, factor, 0), factor, 1)
    sheet.paste(Image.fromarray(enlarged), (x, y))
  draw = ImageDraw.Draw(sheet)
  for x, y, text, colour in layout.texts:
    draw.text((x, y), text, fill=colour, font=layout.font)
  return sheet


class _Layout:
  """Places of images and lines of text, by their left upper corners.

  In pixels; y grows downwards. How high a sheet is depends on how its captions
  wrap, so everything has its place before anything is painted.
  """

  def __init__(self, cell: int, font: ImageFont.FreeTypeFont):
    self.font, self._cell = font, cell
    self.images: list[tuple[int, int, np.ndarray]] = []
    self.texts: list[tuple[int, int, str, str]] = []  # with the colour
    self.size = (0, 0)
    self._gap = max(cell // 16, 4)
    self._line = sum(font.getmetrics())

  def add(self, title: str, sections: Sequence[Section]) -> None:
    """Lays out a sheet from top to bottom."""
    counts = [len(section.images) for section in sections]
    # As wide as the first sections, which are short, and about square.
    columns = min(
      max(max(counts[:-1], default=1), math.ceil(math.sqrt(counts[-1])), 2),
      _COLUMNS,
    )
    gap = self._gap
    width = columns * (self._cell + gap) - gap
    y = gap
    y += self._write(title, gap, y, width, _LINES, _INK)
    for section in sections:
      y += gap if y > gap else 0
      y += self._write(section.heading, gap, y, width, 1, _FAINT) + gap // 2
      for start in range(0, len(section.images), columns):
        y += self._add_row(section, start, columns, y)
    self.size = (width + 2 * gap, y + gap // 2)

  def _add_row(self, section: Section, start: int, columns: int, y: int) -> int:
    """Places a row of images with their captions; returns its height."""
    cell, gap = self._cell, self._gap
    tallest = 0
    for i in range(start, min(start + columns, len(section.images))):
      x = gap + (i - start) * (cell + gap)
      self.images.append((x, y, section.images[i]))
      below = y + cell + gap // 4
      caption = section.captions[i]
      height = self._write(caption, x, below, cell, _LINES, _INK)
      tallest = max(tallest, height)
    return cell + gap // 4 + tallest + gap // 2

  def _write(
    self, text: str, x: int, y: int, width: int, lines: int, colour: Any
  ) -> int:
    """Places a text of so many lines at most; returns its height."""
    wrapped = _wrap(text, self.font, width, lines)
    for i, part in enumerate(wrapped):
      self.texts.append((x, y + i * self._line, part, colour))
    return len(wrapped) * self._line


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
  """Returns whether a font can show a letter; it shows all others alike."""
  # No font has this code point: its mask is what stands for a missing letter.
  missing = bytes(font.getmask("\U0010ffff"))
  return letter.isspace() or bytes(font.getmask(letter)) != missing


def _spell(text: str, font: ImageFont.FreeTypeFont) -> str:
  """Replaces the letters of a text that a font lacks."""

  def nearest(letter):
    # A letter and its accents as separate letters.
    parts = unicodedata.normalize("NFKD", letter)
    return "".join(filter(functools.partial(_has, font), parts)) or "?"

  return "".join(x if _has(font, x) else nearest(x) for x in text)


def _wrap(
  text: str, font: ImageFont.FreeTypeFont, width: int, lines: int
) -> list[str]:
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
