"""A raw data set that holds every kind of dirt, written as any benchmark's."""

import csv
import gzip
import json
import os
import struct
import zlib

import numpy as np
from PIL import Image

SECOND = 1_500_000_000  # 2017
GOOD = ("g0", "g1", "g2", "g3", "g4", "g5", "0012345", "12345")
# Id: what is wrong with the image.
BAD_IMAGES = {
  "cut": "truncated",
  "zero": "empty_file",
  "text": "not_an_image",
  "bomb": "too_large",
  "dot": "too_small",
}
TITLES = {
  "g0": "Plain",
  "g1": 'Commas, "quotes", and\na second line',
  "g2": "<b>Bold</b> &amp; &lt;i&gt;brave&lt;/i&gt; <br/>",
  "g3": "Emoji 🎬 日本",
  "g4": "I <3 you & me",
  "g5": "Tab\tand  spaces ",
  "0012345": "Leading zeros",
  "12345": "None",
  "noimage": "No image",
  "../x": "A path",
  "link": "A link",
  "empty": "<br>",
  "unrated": "Nobody's",
  **{item: f"Bad image {item}" for item in BAD_IMAGES},
}
CLEAN = {
  "g0": "Plain",
  "g1": 'Commas, "quotes", and a second line',
  "g2": "Bold & brave",
  "g3": "Emoji 🎬 日本",
  "g4": "I <3 you & me",
  "g5": "Tab and spaces",
  "0012345": "Leading zeros",
  "12345": "None",
}


def events():
  """Returns (user, item, rating, timestamp, bucket); None: is kept."""
  rows = []
  for user in ("u1", "u2", "u3"):
    for place, item in enumerate(reversed(GOOD)):
      # Two of three have the time of a neighbour.
      rows.append((user, item, "5", SECOND + 100 * (place // 3), None))
  ms = (SECOND + 50) * 1000
  rows += [
    ("u4", "g0", "4", SECOND + 60, None),
    ("u4", "g1", "4.5", ms, None),  # milliseconds among seconds
    ("u1", "g0", "5", SECOND + 9999, "duplicate"),
    ("u1", "g1", "5", SECOND + 9999, "duplicate"),
    ("u1", "g1", "5", SECOND + 9999, "duplicate"),
    ("u1", "g2", "5", "http://example.org/1", "bad_timestamp"),
    ("u1", "g3", "5", "", "bad_timestamp"),
    ("u1", "g4", "5", "-5", "bad_timestamp"),
    ("", "g3", "5", SECOND, "missing_user"),
    ("u1", "", "5", SECOND, "missing_item"),
    ("u2", "untitled", "5", SECOND, "no_title"),
    ("u2", "empty", "5", SECOND, "no_title"),
    ("u2", "noimage", "5", SECOND, "no_image"),
    ("u2", "../x", "5", SECOND, "no_image"),
    ("u2", "link", "5", SECOND, "no_image"),
    ("lonely", "g0", "5", SECOND, "k_core"),
  ]
  rows += [
    (user, item, "5", SECOND, "bad_image")
    for item in BAD_IMAGES
    for user in ("u1", "u2", "u3")
  ]
  return rows


def rated():
  """Returns the events that only a data set with ratings has."""
  return [
    ("u1", "g5", "3.5", SECOND, "low_rating"),
    ("u1", "g5", "", SECOND, "bad_rating"),
    ("u1", "g5", "nan", SECOND, "bad_rating"),
  ]


def kept(rows):
  """Returns {user: [(milliseconds, item)]}, in order, of what is kept."""
  found = {}
  for user, item, _, time, bucket in rows:
    if bucket is None:
      ms = time if time > 10**12 else 1000 * time
      found.setdefault(user, []).append((ms, item))
  return {user: sorted(pairs) for user, pairs in sorted(found.items())}


def buckets(rows):
  """Counts the rows that are dropped, by reason."""
  reasons = [bucket for *_, bucket in rows if bucket]
  return {reason: reasons.count(reason) for reason in reasons}


# --- tables -------------------------------------------------------------------


def write_csv(path, header, rows, extra=(), newline="\r\n", **kwargs):
  """Writes a CSV; `extra` are lines as they are, put in the middle."""
  opened = gzip.open if path.name.endswith(".gz") else open
  with opened(path, "wb") as file:
    lines = [header, *rows]
    for number, row in enumerate(lines):
      if number == len(lines) // 2:
        file.writelines(line + b"\n" for line in extra)
      text = Line()
      csv.writer(text, lineterminator=newline, **kwargs).writerow(row)
      file.write(text.value.encode())


class Line:
  """A file of one line."""

  value = ""

  def write(self, text):
    self.value += text


def write_jsonl(path, rows, extra=()):
  """Writes an object a line; `extra` are lines as they are."""
  opened = gzip.open if path.name.endswith(".gz") else open
  with opened(path, "wb") as file:
    for number, row in enumerate(rows):
      if number == len(rows) // 2:
        file.writelines(line + b"\n" for line in extra)
      file.write(json.dumps(row).encode() + b"\n")


# --- images -------------------------------------------------------------------


def write_images(folder):
  """Writes images of every kind; returns {reason: number} of those dropped."""
  folder.mkdir(parents=True)
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (30, 40, 3), np.uint8)
  image = Image.fromarray(pixels)
  image.save(folder / "g0.jpg")
  image.save(folder / "g1.jpg", "PNG")  # a PNG by another name
  image.convert("L").save(folder / "g2.jpg")
  image.convert("CMYK").save(folder / "g3.jpg")
  image.quantize(16).save(folder / "g4.png")
  alpha = np.dstack([pixels, rng.integers(0, 256, (30, 40), np.uint8)])
  Image.fromarray(alpha).save(folder / "g5.webp", lossless=True)
  deep = rng.integers(0, 65536, (70, 50), np.uint16)
  (folder / "more").mkdir()
  Image.fromarray(deep).save(folder / "more/0012345.png")
  exif = Image.Exif()
  exif[0x112] = 6
  image.save(folder / "12345.jpeg", exif=exif)

  image.save(folder / "cut.jpg", quality=95)
  data = (folder / "cut.jpg").read_bytes()
  (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
  (folder / "zero.jpg").write_bytes(b"")
  (folder / "text.jpg").write_text("<html>404</html>")
  (folder / "bomb.png").write_bytes(bomb())
  Image.new("RGB", (1, 1)).save(folder / "dot.gif")

  # What must never be opened.
  image.save(folder.parent / "x.jpg")
  (folder / "link.jpg").symlink_to(folder.parent / "x.jpg")
  (folder / "linked").symlink_to(folder.parent)
  os.mkfifo(folder / "pipe.jpg")
  image.save(folder / "nobody.jpg")
  image.save(folder / "unrated.jpg")
  image.save(folder / "g0.png")  # another file of g0, later in the alphabet
  (folder / "Thumbs.db").write_bytes(b"\0\1")
  return {
    **dict.fromkeys(BAD_IMAGES.values(), 1),
    "symbolic_link": 2,
    "not_a_regular_file": 1,
    "file_without_item": 2,
    "second_file_of_item": 1,
    "unused_file": 1,
  }


def bomb(side=60_000):
  """Returns a PNG of a few bytes that claims to be huge."""

  def chunk(kind, data):
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check

  header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", zlib.compress(bytes(1000)))
    + chunk(b"IEND", b"")
  )
