"""Writer of ArrayRecord files: the base of all TFDS builders."""

from collections.abc import Iterator
import contextlib
import io
import pathlib
import tempfile
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer
from tensorflow_datasets.proto import tf_example_pb2

from genrec_jax.data import records


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


def write_part(builder: Any, **beam: Any) -> None:
  """Writes one part, without TFDS's output, which speaks of a download."""
  config = tfds.download.DownloadConfig(try_download_gcs=False, **beam)
  quiet = io.StringIO()
  with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
    builder.download_and_prepare(
      download_config=config, file_format="array_record"
    )


@contextlib.contextmanager
def glob_free(folder: pathlib.Path) -> Iterator[pathlib.Path]:
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
