"""Raw text files as lines of UTF-8, however they are compressed and encoded.

The content says how, not the name: servers decompress files that are called .gz
and browsers take the suffix away.
"""

import bz2
from collections.abc import Iterable, Iterator
import contextlib
import gzip
import io
import lzma
import os
from pathlib import Path
from typing import NamedTuple
import zlib

from genrec_jax.core.errors import UserError

# Raised by reading a file that is damaged, cut or cannot be opened.
ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)
# Suffixes of compressed files; .zst and .zip are refused with a message that
# says so.
SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip")
_UNPACK = "unpack it, or pack it with gzip"
_EXPORT = "export it as CSV or Parquet"
_COMPRESSIONS = (
  (b"\x1f\x8b", "gzip", gzip.open),
  (b"BZh", "bzip2", bz2.open),
  (b"\xfd7zXZ\0", "xz", lzma.open),
)
# Often taken for a table: how it begins, what it is, what to do.
_OTHERS = (
  (b"PK\x03\x04", "a ZIP archive or an Excel file", f"{_UNPACK}, or {_EXPORT}"),
  (b"\x28\xb5\x2f\xfd", "packed with zstd", _UNPACK),
  (b"\x04\x22\x4d\x18", "packed with lz4", _UNPACK),
  (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
  (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
  (b"\xd0\xcf\x11\xe0", "an Excel file", _EXPORT),
  (b"PAR1\x15", "a Parquet file", "give it a name that ends in .parquet"),
  (b"Obj\x01", "an Avro file", _EXPORT),
  (b"SQLite format 3\0", "an SQLite database", _EXPORT),
  (b"\x80\x04\x95", "a Python pickle", _EXPORT),
  (b"<!doctype html", "a web page", "fetch the file that the page is about"),
  (b"<html", "a web page", "fetch the file that the page is about"),
)
_MARKS = (  # byte order marks; those of 4 bytes begin with those of 2
  (b"\xef\xbb\xbf", "utf-8-sig"),
  (b"\xff\xfe\0\0", "utf-32"),
  (b"\0\0\xfe\xff", "utf-32"),
  (b"\xff\xfe", "utf-16"),
  (b"\xfe\xff", "utf-16"),
)
_HEAD = 512  # bytes: a tar archive says so at 257


class Format(NamedTuple):
  """How a file is compressed and encoded."""

  compression: str  # '', 'gzip', 'bzip2' or 'xz'
  encoding: str  # 'utf-8', where nothing says otherwise


def detect(path: str | os.PathLike) -> Format:
  """Returns how a file is compressed and encoded, from its first bytes.

  Raises:
    UserError: it is not text; the message says what it is.
    OSError, EOFError, ...: see `ERRORS`.
  """
  with open(path, "rb") as file:
    head = file.read(_HEAD)
  compression = next(
    (name for m, name, _ in _COMPRESSIONS if head.startswith(m)), ""
  )
  if compression:
    with _decompressed(path, compression) as file:
      head = file.read(_HEAD)
  for mark, kind, advice in _OTHERS:
    text = mark.startswith(b"<")
    if (head.lstrip().lower() if text else head).startswith(mark):
      raise UserError(f"{path} is {kind}: {advice}")
  if head[257:262] == b"ustar":
    raise UserError(f"{path} is a tar archive: {_UNPACK}")
  return Format(compression, _encoding(head))


@contextlib.contextmanager
def lines(path: str | os.PathLike) -> Iterator[Iterable[bytes]]:
  """Opens a file as lines of bytes; of UTF-16 and UTF-32, recoded as UTF-8.

  Other encodings are left as they are, as is a byte order mark of UTF-8.

  Raises:
    see `detect`; also while lines are read.
  """
  compression, encoding = detect(path)
  with _decompressed(path, compression) as file:
    if encoding.startswith("utf-8"):
      yield file
    else:
      with io.TextIOWrapper(file, encoding, "replace", newline="") as text:
        yield (line.encode() for line in text)


def verify_checksums(path: str | os.PathLike) -> None:
  """Reads a compressed file to its end, which compares its checksums.

  DuckDB does not: from a damaged gzip file it reads rows that never were.

  Raises:
    OSError, EOFError, ...: see `ERRORS`.
  """
  with _decompressed(path, detect(path).compression) as file:
    while file.read(1 << 20):
      pass


def write_plain(path: str | os.PathLike, target: Path) -> Path:
  """Writes a file decompressed, as UTF-8 without a mark; returns `target`."""
  with lines(path) as source, target.open("wb") as file:
    for number, line in enumerate(source):
      file.write(line if number else line.removeprefix(b"\xef\xbb\xbf"))
  return target


def _decompressed(path, compression):
  openers = {name: opener for _, name, opener in _COMPRESSIONS}
  return openers.get(compression, open)(path, "rb")


def _encoding(head):
  for mark, encoding in _MARKS:
    if head.startswith(mark):
      return encoding
  # Windows tools write UTF-16 without a mark, too: every other byte of Latin
  # letters is zero then.
  start = head[: min(len(head), 16) // 2 * 2]
  if start and not any(start[1::2]) and all(start[::2]):
    return "utf-16-le"
  if start and not any(start[::2]) and all(start[1::2]):
    return "utf-16-be"
  return "utf-8"
