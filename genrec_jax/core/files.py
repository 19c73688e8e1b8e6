"""Files and folders that appear whole or not at all."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import os
from pathlib import Path
import shutil
import tempfile
from typing import Any

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


def unwritable(folder: Path) -> str:
  """Returns why a new folder cannot be written, '' if it can."""
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    return f"{folder} exists and is not an empty folder; choose another"
  # What the path lacks is made later, in the first folder that is there.
  parent = next(
    parent for parent in folder.absolute().parents if parent.exists()
  )
  if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
    return f"{folder} cannot be written: {parent} is not a folder open to you"
  return ""


def write_folders(
  folders: Sequence[tuple[Path, Mapping[str, Callable[[Path], Any]]]],
) -> None:
  """Writes folders of files, a later one of which may lie in the first.

  Folders appear when all is written.

  Args:
    folders: (where to, file name -> how to save it, given its path).

  Raises:
    UserError: one cannot be written.
  """
  whole: dict[Path, dict[str, Callable[[Path], Any]]] = {}
  for folder, files in folders:
    folder = folder.resolve()
    outer = next((x for x in whole if folder.is_relative_to(x)), None)
    if outer is None:
      whole[folder] = dict(files)
    else:  # one folder, which appears at once
      inner = folder.relative_to(outer)
      whole[outer] |= {str(inner / name): save for name, save in files.items()}
  with contextlib.ExitStack() as stack:
    for folder, saved in whole.items():
      part = stack.enter_context(new_folder(folder))
      for name, save in saved.items():
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        save(part / name)
