"""Writes prepared data sets: TFDS builders that give ArrayRecord files.

The folder appears under its name only when all is whole. What a build that was
stopped had finished is used by the next.
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

_MARKER = "incomplete.json"


class Prepared:
  """What every prepared data set has; goes before a TFDS builder's class."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = tuple(
    tfds.core.BuilderConfig(name=part) for part in records.PARTS
  )
  # Nothing is downloaded. Looking for a list of checksums beside the code, as
  # TFDS does otherwise, needs importlib_resources, which it does not declare.
  url_infos: ClassVar[dict[str, Any]] = {}
  DESCRIPTION: str | None = None  # None: the class's docstring
  HOMEPAGE: str | None = None
  CITATION: str | None = None
  # Features beyond those every data set has.
  EXTRA: ClassVar[dict[str, dict[str, Any]]] = {"items": {}, "users": {}}

  def __init__(self, *, settings, **kwargs):
    self.settings = settings  # what it is built with; JSON
    super().__init__(**kwargs)

  def _info(self):
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
      disable_shuffling=True,  # rows are positions
    )

  def _example_writer(self):
    return _Writer(self.info.file_format)


class _Writer(writer.ExampleWriter):
  """Writes examples so that other processes would write the same bytes."""

  def write(self, path, examples):
    return super().write(path, ((k, _canonical(data)) for k, data in examples))


def _canonical(data: bytes) -> bytes:
  """Orders the features of an example, which TFDS leaves to chance."""
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

  Built beside `path` and renamed when whole, so that a killed build leaves no
  data set; the next build with the same settings keeps what is whole of it.
  The same arguments give the same bytes.

  Args:
    builder: class of the data set.
    path: the folder to be.
    settings: of the builder; a data set of others at `path` is refused.
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
        if not _taken(target):
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


def _write(folder, target, builder, settings, finish, beam):
  """Writes a data set into a folder that is claimed, and names it `target`."""
  _clear(folder, settings)
  with _no_pattern(folder) as plain:
    for part in records.PARTS:
      # Users are a table; items are what outgrows a machine.
      _build(
        builder(data_dir=plain, config=part, settings=settings),
        **(beam if part == "items" else {}),
      )
  finish(folder)
  # TFDS makes it, without need: nothing is downloaded.
  shutil.rmtree(folder / "downloads", ignore_errors=True)
  (folder / _MARKER).unlink()
  with contextlib.suppress(OSError):  # another process was faster
    os.rename(folder, target)


def _build(builder, **beam):
  """Writes one data set; TFDS's progress would tell of a download."""
  config = tfds.download.DownloadConfig(try_download_gcs=False, **beam)
  quiet = io.StringIO()
  with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
    builder.download_and_prepare(
      download_config=config, file_format="array_record"
    )


@contextlib.contextmanager
def _no_pattern(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a path of a folder that means no others: TFDS looks for patterns.

  What it finds it may remove.
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
  """Makes a folder that no other process claims meanwhile; waits for it."""
  while True:
    folder.mkdir(exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
      fcntl.flock(lock, fcntl.LOCK_EX)
      # Whoever had it may have renamed or removed it.
      if folder.exists() and os.path.samestat(os.fstat(lock), folder.stat()):
        yield folder
        return
    finally:
      os.close(lock)


def _taken(target):
  """Tells whether there is anything but an empty folder."""
  return target.exists() and not (target.is_dir() and not any(target.iterdir()))


def _clear(folder, settings):
  """Removes what another build, or this one half-way, has left."""
  marker = folder / _MARKER
  text = json.dumps(settings, sort_keys=True, indent=2)
  if marker.exists() and marker.read_text() == text:
    leftovers = list(folder.glob("*/*/incomplete.*"))
  else:
    leftovers = list(folder.iterdir())
  for path in leftovers:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  marker.write_text(text)


def _check_settings(dataset, expected):
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
