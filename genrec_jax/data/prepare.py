"""Preparation of a data set: a folder that appears when it is whole.

A data set is built in a hidden folder next to its own and renamed when it is
whole. What a build that was stopped had finished is used by the next.
"""

from collections.abc import Callable, Iterator
import contextlib
import fcntl
import json
import os
import pathlib
import shutil
from typing import Any

from genrec_jax.core.errors import UserError, listed
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import records
from genrec_jax.data.tfds_writer import Prepared, glob_free, write_part

# In a folder that is being built; holds the settings of the build.
_MARKER = "incomplete.json"


def prepare(
  builder: Callable[..., Prepared],
  path: str | os.PathLike,
  settings: dict[str, Any],
  *,
  finish: Callable[[pathlib.Path], None] = lambda folder: None,
  **beam: Any,
) -> str:
  """Builds a data set at `path` unless it is there already; returns the path.

  A killed build leaves no data set; the next build with the same settings
  keeps what is whole of it. The same arguments give the same bytes.

  Args:
    builder: class of the data set.
    path: the folder to be.
    settings: of the builder; a data set at `path` with others is refused.
    finish: adds files to the folder before it gets its name.
    **beam: `beam_runner` and `beam_options` of `tfds.download.DownloadConfig`,
      for builders that generate shards.

  Raises:
    UserError: `path` holds something else, or cannot be written.
  """
  target = pathlib.Path(path).expanduser()
  if not _taken(target):
    try:
      target.parent.mkdir(parents=True, exist_ok=True)
      with _claim(target.with_name(f".{target.name}.incomplete")) as folder:
        if not _taken(target):  # by the process that was waited for
          _write(folder, target, builder, settings, finish, beam)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
      raise UserError(
        f"Cannot build a data set at {target}: {error}. Expected a folder that "
        "can be written; choose another data path."
      ) from error
  dataset, problems = dataset_lib.inspect(target)
  if dataset is None:
    raise UserError(
      f"{target} exists and is no whole prepared data set"
      f" ({'; '.join(problems)}): choose another folder, or remove it"
    )
  _check_settings(dataset, settings)
  return str(target)


def _write(
  folder: pathlib.Path,
  target: pathlib.Path,
  builder: Callable[..., Any],
  settings: dict[str, Any],
  finish: Callable[[pathlib.Path], None],
  beam: dict[str, Any],
) -> None:
  """Writes a data set into a claimed folder and renames it to `target`."""
  _clear(folder, settings)
  with glob_free(folder) as plain:
    for part in records.PARTS:
      # Only the items' images outgrow a machine; users are a small table.
      write_part(
        builder(data_dir=plain, config=part, settings=settings),
        **(beam if part == "items" else {}),
      )
  finish(folder)
  # TFDS makes this folder, though nothing is downloaded.
  shutil.rmtree(folder / "downloads", ignore_errors=True)
  (folder / _MARKER).unlink()
  # On a disk without locks another process may have been faster.
  with contextlib.suppress(OSError):
    os.rename(folder, target)


@contextlib.contextmanager
def _claim(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a folder, made if need be, that no other process claims meanwhile.

  Waits for a process that has it. Its end, even by a signal, frees the lock.
  """
  while True:
    folder.mkdir(exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
      fcntl.flock(lock, fcntl.LOCK_EX)
      # The process that had the lock may have renamed or removed the folder.
      if folder.exists() and os.path.samestat(os.fstat(lock), folder.stat()):
        yield folder
        return
    finally:
      os.close(lock)


def _taken(target: pathlib.Path) -> bool:
  """Returns whether there is anything but an empty folder."""
  return target.exists() and not (target.is_dir() and not any(target.iterdir()))


def _clear(folder: pathlib.Path, settings: dict[str, Any]) -> None:
  """Removes what a build of other settings, or half of a file, has left."""
  marker = folder / _MARKER
  text = json.dumps(settings, sort_keys=True, indent=2)
  if marker.exists() and marker.read_text() == text:
    leftovers = list(folder.glob("*/*/incomplete.*"))  # TFDS's own names
  else:
    leftovers = list(folder.iterdir())
  for path in leftovers:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  marker.write_text(text)


def _check_settings(
  dataset: dataset_lib.Dataset, expected: dict[str, Any]
) -> None:
  """Refuses a data set that was built with other settings."""
  differing = [
    f"{key}: {dataset.settings.get(key)!r} there, {value!r} asked for"
    for key, value in expected.items()
    if dataset.settings.get(key) != value
  ]
  if differing:
    raise UserError(
      listed(
        f"{dataset.path} holds a data set built with other settings. Choose "
        "another data path, or delete it to build it again.",
        differing,
      )
    )
