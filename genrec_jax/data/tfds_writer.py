"""Writer of prepared data sets: TFDS builders that give ArrayRecord files.

A data set is built in a hidden folder next to its own and renamed when it is
whole. What a build that was stopped had finished is used by the next.
"""

from collections.abc import Callable, Iterator
import contextlib
import fcntl
import io
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer
from tensorflow_datasets.proto import tf_example_pb2

from genrec_jax.core.errors import UserError, listed
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import records

# In a folder that is being built; holds the settings of the build.
_MARKER = "incomplete.json"


class Prepared:
  """Base of every prepared data set; goes before a TFDS builder's class."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = tuple(
    tfds.core.BuilderConfig(name=part) for part in records.PARTS
  )
  # Nothing is downloaded. Looking for a list of checksums next to the code, as
  # TFDS does otherwise, needs importlib_resources, which it does not declare.
  url_infos: ClassVar[dict[str, Any]] = {}
  DESCRIPTION: str | None = None  # None: the class's docstring
  HOMEPAGE: str | None = None
  CITATION: str | None = None
  # Features beyond those every data set has.
  EXTRA: ClassVar[dict[str, dict[str, Any]]] = {"items": {}, "users": {}}

  builder_config: Any  # of TFDS's builders: its name is the part
  info: Any  # of TFDS's builders

  def __init__(self, *, settings: dict[str, Any], **kwargs: Any):
    self.settings = settings  # what it is built with; JSON
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    part = self.builder_config.name
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.DESCRIPTION or type(self).__doc__,
      features=tfds.features.FeaturesDict(
        records.features(part) | self.EXTRA[part]
      ),
      metadata=tfds.core.MetadataDict(self.settings),
      homepage=self.HOMEPAGE,
      citation=self.CITATION,
      # An item's row is its position, which users' records and the index hold.
      disable_shuffling=True,
    )

  def _example_writer(self) -> "_Writer":
    return _Writer(self.info.file_format)


class _Writer(writer.ExampleWriter):
  """Writes records so that other processes would write the same bytes."""

  def write(self, path: Any, examples: Any) -> Any:
    return super().write(path, ((k, _canonical(data)) for k, data in examples))


def _canonical(data: bytes) -> bytes:
  """Returns a record with features in order, which TFDS leaves to chance."""
  example = tf_example_pb2.Example.FromString(data)
  return example.SerializeToString(deterministic=True)


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
  with _no_pattern(folder) as plain:
    for part in records.PARTS:
      # Only the items' images outgrow a machine; users are a small table.
      _build(
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


def _build(builder: Any, **beam: Any) -> None:
  """Writes one part, without TFDS's output, which speaks of a download."""
  config = tfds.download.DownloadConfig(try_download_gcs=False, **beam)
  quiet = io.StringIO()
  with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
    builder.download_and_prepare(
      download_config=config, file_format="array_record"
    )


@contextlib.contextmanager
def _no_pattern(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a path of a folder without *, ? and [.

  TFDS takes paths for patterns, and may remove what matches them.
  """
  if not set("*?[") & set(str(folder)):
    yield folder
    return
  with tempfile.TemporaryDirectory() as temporary:
    link = pathlib.Path(temporary, "data")
    link.symlink_to(folder.absolute())
    yield link


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
