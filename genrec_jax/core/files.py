"""Files and folders that appear whole or not at all."""

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import shutil
import tempfile

from genrec_jax.core.errors import UserError

StrPath = str | os.PathLike[str]


@contextlib.contextmanager
def replacing(path: StrPath) -> Iterator[Path]:
  """Yields the path of a temporary file that takes the place of `path`.

  It does so when the body ends without an error. Readers see the old file or
  the new one; a process that is killed leaves the old one.
  """
  # In the same folder: a rename is atomic only within one file system.
  partial = Path(f"{os.fspath(path)}.tmp")
  yield partial
  # Without it some file systems, after a power cut, show the new name with
  # nothing in the file.
  with partial.open("rb") as file:
    os.fsync(file.fileno())
  os.replace(partial, path)


def write(path: StrPath, content: str | bytes) -> None:
  """Writes a file that is never seen half written; text is in UTF-8."""
  with replacing(path) as partial:
    data = content.encode() if isinstance(content, str) else content
    partial.write_bytes(data)


@contextlib.contextmanager
def new_folder(folder: StrPath) -> Iterator[Path]:
  """Yields a temporary folder that becomes `folder` when the body ends well.

  Args:
    folder: absent or empty; its parents are made.

  Raises:
    UserError: the folder is not empty or cannot be written.
  """
  folder = Path(folder)
  check_unused(folder)
  with contextlib.ExitStack() as stack:
    try:
      folder.parent.mkdir(parents=True, exist_ok=True)
      # Next to the folder: a rename works only within one file system.
      prefix = f".{folder.name}-"
      part = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
      stack.callback(shutil.rmtree, part, ignore_errors=True)
      part.chmod(0o755)  # mkdtemp's folders are for their owner only
      yield part
      os.replace(part, folder)
    except OSError as error:
      raise UserError(
        f"cannot write {folder}: {error}; choose another"
      ) from None


def check_unused(folder: StrPath) -> None:
  """Checks that a folder is absent or empty.

  Raises:
    UserError: it is not empty, or is a file.
  """
  folder = Path(folder)
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise UserError(
      f"{folder} exists and is not an empty folder; choose another"
    )
