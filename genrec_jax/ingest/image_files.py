"""The images folder of an import: its listing, and single files of it.

Only regular files below the folder are opened: paths come from listing it,
never from ids or columns, and links are not followed.
"""

from collections.abc import Iterator
import contextlib
import os
import stat
from typing import NamedTuple

from genrec_jax.data import images


class File(NamedTuple):
  """An entry of the listing."""

  path: str  # below the folder, with '/'
  problem: str  # '' for a regular file, else why it is not opened
  size: int = 0  # bytes
  modified: int = 0  # nanoseconds


def listing(root: str | os.PathLike) -> Iterator[File]:
  """Yields everything below a folder that is no folder, sorted by path.

  Links, also to folders, are not followed.
  """
  root = os.fspath(root)
  try:
    # By bytes, as file systems without an encoding have them.
    with os.scandir(root) as scan:
      entries = sorted(scan, key=lambda entry: os.fsencode(entry.name))
  except OSError:
    yield File(".", "unreadable_folder")  # a line of the report, no error
    return
  for entry in entries:
    if not _is_text(entry.name):  # could be neither an id nor a path in JSON
      yield File(
        os.fsencode(entry.name).decode(errors="replace"), "bad_file_name"
      )
    elif entry.is_symlink():  # before is_dir and is_file, which follow links
      yield File(entry.name, "symbolic_link")
    elif entry.is_dir():
      for file in listing(entry.path):
        yield file._replace(path=f"{entry.name}/{file.path}")
    elif entry.is_file():
      status = entry.stat()
      yield File(entry.name, "", status.st_size, status.st_mtime_ns)
    else:
      yield File(entry.name, "not_a_regular_file")


def encode_file(root: str | os.PathLike, path: str, size: int) -> bytes:
  """Encodes a file that `listing` found below `root`; see `images.encode`.

  Raises:
    images.Unusable: also if it is no longer a regular file, or unreadable.
  """
  try:
    with _open_regular(root, path) as file:
      return images.encode(file, size)
  except OSError as error:
    raise images.Unusable(
      "unreadable_file", error.strerror or str(error)
    ) from error


def num_pixels(root: str | os.PathLike, path: str) -> int:
  """Returns how many pixels a file that `listing` found says it has.

  0 if it is no image, or one of a size that `images.encode` refuses.
  """
  try:
    with _open_regular(root, path) as file:
      return images.num_pixels(file)
  except (OSError, images.Unusable):
    return 0


@contextlib.contextmanager
def _open_regular(root, path):
  """Opens a file below a folder, if it is a regular file still.

  It was when it was listed, which may be hours ago.
  """
  # No links; and non-blocking, because a pipe blocks until somebody writes.
  flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK
  with open(os.open(os.path.join(root, path), flags), "rb") as file:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
      raise images.Unusable("unreadable_file", "no regular file")
    yield file


def _is_text(name):
  """Returns whether a file name is UTF-8, as ids are."""
  # Python stands in bytes that are not with lone surrogates.
  return not any("\ud800" <= letter <= "\udfff" for letter in name)
