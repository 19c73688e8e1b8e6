"""Delimited text: what DuckDB reads as it is, and a form of the rest for it.

DuckDB splits fields fast, but one bad quote makes its CSV reader swallow the
lines that follow, or stop. So a file that has quotes, other bytes than UTF-8,
odd line ends or a compression that DuckDB lacks is first rewritten: a row a
line, fields separated by `SEPARATOR`. A bad row becomes a single field, which
marks it as bad.
"""

from collections.abc import Iterable, Iterator
import itertools
import os
import re

from genrec_jax.ingest.readers import text_file

SEPARATOR = "\x1f"
_LONGEST = 1 << 20  # bytes of a line; DuckDB refuses lines of 2 MB
_LETTERS = _LONGEST // 4  # of a row; a letter is at most 4 bytes
_SHOWN = 1000  # letters that are kept of a bad row
_LINES = 200  # that one row may span; without a limit, one quote takes all
_BLOCK = 10_000  # lines, looked at together
# Control characters and line ends: a field may have them, a line may not.
_UNFIT = re.compile(r"[\x00-\x08\x0b-\x1f\r\n]+")


def is_plain(
  path: str | os.PathLike, quotes: bool = True, header: bool = True
) -> bool:
  """Returns whether splitting lines at the delimiter reads a file right.

  Args:
    path: of the file; not compressed, or with gzip.
    quotes: whether '"' means anything in it.
    header: whether the first line is one, which DuckDB skips.
  """
  compression, encoding = text_file.detect(path)
  marked = encoding == "utf-8-sig" and not header
  if (
    compression not in ("", "gzip")
    or not encoding.startswith("utf-8")
    or marked
  ):
    return False
  # Also a lone '\r': line ends of old Macs, perhaps among others.
  unfit = re.compile(
    rb'["\x00\x1f]|\r(?!\n)' if quotes else rb"[\x00\x1f]|\r(?!\n)"
  )
  with text_file.lines(path) as file:
    while lines := list(itertools.islice(file, _BLOCK)):
      block = b"".join(lines)
      if max(map(len, lines)) > _LONGEST or unfit.search(block):
        return False
      try:
        block.decode()
      except UnicodeDecodeError:
        return False
  return True


def rewrite(
  path: str | os.PathLike,
  target: str | os.PathLike,
  delimiter: str,
  fields: int,
  quotes: bool = True,
  header: bool = True,
) -> None:
  """Writes the rows of a file as this module's docstring says.

  Args:
    path: of the file to read.
    target: of the file to write.
    delimiter: between fields.
    fields: that a row has; rows of another number are bad, as are rows of more
      than a quarter of a million letters.
    quotes: whether '"' quotes fields.
    header: whether the first row is one, which is left out.
  """
  with (
    text_file.lines(path) as source,
    open(target, "w", encoding="utf-8") as out,
  ):
    parsed = rows(decoded(source), delimiter, quotes)
    for row, text, _ in itertools.islice(parsed, int(header), None):
      if row is None or len(row) != fields or len(text) > _LETTERS:
        row = [text[:_SHOWN]]  # a single field: bad
      out.write(SEPARATOR.join(_UNFIT.sub(" ", field) for field in row) + "\n")


def decoded(lines: Iterable[bytes]) -> Iterator[str]:
  """Decodes lines from UTF-8; lines that are not UTF-8, from Latin-1.

  The byte order mark is dropped, and line ends may be of any system.
  """
  for number, line in enumerate(lines):
    if not number:
      line = line.removeprefix(b"\xef\xbb\xbf")
    try:
      text = line.decode()
    except UnicodeDecodeError:
      text = line.decode("latin-1")
    # Of old Macs, which Python's binary files do not split at.
    text = text.removesuffix("\n").removesuffix("\r")
    yield from text.split("\r") if "\r" in text else (text,)


def rows(
  lines: Iterable[str], delimiter: str, quotes: bool = True
) -> Iterator[tuple[list[str] | None, str, int]]:
  """Parses rows as RFC 4180 says, each bad one costing a single line.

  Args:
    lines: without line ends.
    delimiter: between fields.
    quotes: whether '"' quotes fields, which may then hold delimiters, line
      ends and, doubled, quotes. Inside a field that does not begin with one, a
      quote is a letter.

  Yields:
    (fields, the row's text, the number of its first line, from 1 on); None for
    fields if the row's quotes do not close, or close before a field's end.
    Empty lines are no rows.
  """
  lines = iter(lines)
  ahead: list[str] = []  # read but not used
  number = 0
  while True:
    # A quote that never closes has read lines ahead, which come again.
    line = ahead.pop(0) if ahead else next(lines, None)
    number += 1
    if line is None:
      return
    if not line:
      continue
    if not quotes or '"' not in line:
      yield line.split(delimiter), line, number
      continue
    # Lines are added as long as the last quote is open.
    text, used = line, 0
    fields = _split(text, delimiter)
    while fields is _OPEN and used < _LINES and len(text) < _LONGEST:
      if used == len(ahead):
        following = next(lines, None)
        if following is None:
          break
        ahead.append(following)
      text = f"{text}\n{ahead[used]}"
      used += 1
      # Until there is another quote, the field stays open.
      if '"' in ahead[used - 1]:
        fields = _split(text, delimiter)
    if fields is _OPEN or fields is None:
      yield None, line, number  # the lines after it are rows of their own
    else:
      del ahead[:used]
      yield fields, text, number
      number += used


_OPEN: list[str] = []  # a row whose last quote has not been closed


def _split(text, delimiter):
  """Returns a row's fields, None if a quote is out of place, or `_OPEN`."""
  fields, at = [], 0
  while True:  # a field at a time, which begins at `at`
    start = at
    # Writers put spaces before a quoted field; where tabs delimit, they count.
    while text[start : start + 1] in (" ", "\t") and delimiter != "\t":
      start += 1
    if text[start : start + 1] == '"':
      end = start + 1
      while True:
        end = text.find('"', end)
        if end < 0:
          return _OPEN
        if text[end + 1 : end + 2] != '"':
          break
        end += 2  # a doubled quote stands for one
      fields.append(text[start + 1 : end].replace('""', '"'))
      at = end + 1
      while text[at : at + 1] in (" ", "\t") and delimiter != "\t":
        at += 1
      if at == len(text):
        return fields
      if not text.startswith(delimiter, at):
        return None
    else:
      end = text.find(delimiter, at)
      fields.append(text[at:] if end < 0 else text[at:end])
      if end < 0:
        return fields
      at = end
    at += len(delimiter)
