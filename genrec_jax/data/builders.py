"""Prepared data sets: TFDS builders that write ArrayRecord, without TensorFlow.

A prepared data set is two TFDS data sets under one folder: `items` (id, title,
encoded image) and `users` (id, items, timestamps, where the parts begin). The
folder appears under its name only when both are whole.
"""

import abc
from collections.abc import Sequence
import contextlib
import dataclasses
import functools
import io
import os
import pathlib
import shutil
import tempfile
from typing import Any, ClassVar

from array_record.python import array_record_module
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from genrec_jax.core.errors import UserError, listed
from genrec_jax.data import index as index_lib
from genrec_jax.data import world
from genrec_jax.data.histories import History
from genrec_jax.data.histories import build as build_histories

PARTS = ("items", "users")


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A prepared data set, opened; records are read when indexed."""

  path: str
  items: Sequence[dict[str, Any]]  # images as encoded bytes
  users: Sequence[dict[str, Any]]
  settings: dict[str, Any]  # what it was built with

  @functools.cached_property
  def index(self) -> index_lib.Index:
    """What can be known without reading records."""
    folder = pathlib.Path(self.path, index_lib.FOLDER)
    if folder.is_dir():
      return index_lib.read(folder)
    return index_lib.of_records(self.items, self.users)


class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """What every prepared data set has; a subclass says where it comes from."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = tuple(tfds.core.BuilderConfig(name=name) for name in PARTS)
  # Nothing is downloaded. Looking for a list of checksums beside the code, as
  # TFDS does otherwise, needs importlib_resources, which it does not declare.
  url_infos: ClassVar[dict[str, Any]] = {}
  # Features beyond those every data set has.
  EXTRA: ClassVar[dict[str, dict[str, Any]]] = {"items": {}, "users": {}}

  @property
  @abc.abstractmethod
  def settings(self) -> dict[str, Any]:
    """What the data set is built with; JSON."""

  @abc.abstractmethod
  def item_ids(self) -> Sequence[str]:
    """Returns the ids of all items in the order of their rows."""

  @abc.abstractmethod
  def item(self, item_id: str) -> dict[str, Any]:
    """Returns an item's `title`, `image` (encoded bytes) and extras."""

  @abc.abstractmethod
  def histories(self) -> Sequence[History]:
    """Returns all users' histories; their items are among `item_ids`."""

  def user_extras(self, history: History) -> dict[str, Any]:
    """Returns a user's extra features."""
    del history
    return {}

  def _info(self):
    features = tfds.features
    common = {
      "items": {
        "id": features.Text(),
        "title": features.Text(),
        "image": features.Image(shape=(None, None, 3)),
      },
      "users": {
        "id": features.Text(),
        "items": features.Sequence(features.Text()),
        # Where the items are in the other data set.
        "rows": features.Tensor(shape=(None,), dtype=np.int64),
        "timestamps": features.Tensor(shape=(None,), dtype=np.int64),
        "train_end": np.int64,
        "validation_start": np.int64,
        "test_start": np.int64,
      },
    }
    part = self.builder_config.name
    return tfds.core.DatasetInfo(
      builder=self,
      description=type(self).__doc__,
      features=features.FeaturesDict(common[part] | self.EXTRA[part]),
      metadata=tfds.core.MetadataDict(self.settings),
      disable_shuffling=True,  # rows are positions
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {self.builder_config.name: self._generate_examples()}

  def _generate_examples(self):
    if self.builder_config.name == "items":
      for row, item_id in enumerate(self.item_ids()):
        yield row, {"id": item_id, **self.item(item_id)}
      return
    rows = {item_id: row for row, item_id in enumerate(self.item_ids())}
    for row, history in enumerate(self.histories()):
      record = {
        "id": history.user,
        "items": list(history.items),
        "rows": np.asarray([rows[i] for i in history.items], np.int64),
        "timestamps": history.timestamps,
        "train_end": history.train_end,
        "validation_start": history.validation_start,
        "test_start": history.test_start,
      }
      yield row, record | self.user_extras(history)


class Synthetic(Prepared):
  """Items and users of a small world whose truth is known."""

  EXTRA: ClassVar = {
    "items": {"attributes": tfds.features.Tensor(shape=(5,), dtype=np.int64)},
    "users": {"wants": tfds.features.Tensor(shape=(None, 3), dtype=np.int64)},
  }

  def __init__(
    self, *, num_users, held_out, num_events, future_horizon, seed, **kwargs
  ):
    self._settings = {
      "num_users": num_users,
      "held_out": held_out,
      "num_events": num_events,
      "future_horizon": future_horizon,
      "seed": seed,
    }
    super().__init__(**kwargs)

  @property
  def settings(self):
    """What the data set is built with; JSON."""
    return dict(self._settings)

  def item_ids(self):
    """Returns the ids of all items in the order of their rows."""
    return [_item_id(index) for index in range(world.NUM_ITEMS)]

  def item(self, item_id):
    """Returns an item's title, image and attributes."""
    attributes = world.attributes(int(item_id))
    png = io.BytesIO()
    Image.fromarray(world.render(attributes)).save(png, "PNG")
    return {
      "title": world.title(attributes),
      "image": png.getvalue(),
      "attributes": attributes,
    }

  def histories(self):
    """Simulates the users; the last `held_out` of them are never trained on."""
    users, events = self._simulated
    return build_histories(
      (
        (user, _item_id(item), int(timestamp))
        for user, items, timestamps in zip(
          users, events.items, events.timestamps, strict=True
        )
        for item, timestamp in zip(items, timestamps, strict=True)
      ),
      future_horizon=self._settings["future_horizon"],
      held_out=users[self._settings["num_users"] :],
    )

  def user_extras(self, history):
    """Returns what the user wanted at each event, in the history's order."""
    _, events = self._simulated
    row = int(history.user[1:])
    wants = dict(
      zip(events.items[row].tolist(), events.wants[row], strict=True)
    )
    return {"wants": np.stack([wants[int(item)] for item in history.items])}

  @functools.cached_property
  def _simulated(self):
    settings = self._settings
    number = settings["num_users"] + settings["held_out"]
    events = world.simulate(number, settings["num_events"], settings["seed"])
    return [f"u{row:06d}" for row in range(number)], events


def _item_id(index) -> str:
  return f"{index:04d}"


def synthetic(
  path: str | os.PathLike,
  *,
  num_users: int = 4096,
  held_out: int = 512,
  num_events: int = 24,
  future_horizon: int = 3,
  seed: int = 0,
) -> str:
  """Builds the synthetic data set unless `path` holds it; returns the path."""
  return prepare(
    Synthetic,
    path,
    num_users=num_users,
    held_out=held_out,
    num_events=num_events,
    future_horizon=future_horizon,
    seed=seed,
  )


def open_or_build(
  path: str | os.PathLike, *, cache: str | os.PathLike = "runs/data", **settings
) -> Dataset:
  """Opens the data set at `path`; for "" the synthetic one of `settings`.

  Args:
    path: a prepared data set, or "".
    cache: where synthetic data sets are built, on first use, and found again,
      each in a folder named by the world's version and its settings.
    **settings: see `synthetic`.
  """
  if path:
    return load(path)
  name = "_".join(f"{key}{value}" for key, value in sorted(settings.items()))
  folder = pathlib.Path(cache) / f"synthetic{world.VERSION}_{name}"
  return load(synthetic(folder, **settings))


def prepare(builder: type[Prepared], path: str | os.PathLike, **kwargs) -> str:
  """Builds a data set at `path` unless it is there already; returns the path.

  Built beside `path` and renamed when whole, so that a killed build leaves no
  data set. The same arguments give the same bytes.

  Raises:
    UserError: `path` holds something else, or cannot be written.
  """
  target = pathlib.Path(path).expanduser()
  if target.exists() and not (target.is_dir() and not any(target.iterdir())):
    _check_settings(load(target), kwargs)
    return str(target)
  temporary = None
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = tempfile.mkdtemp(
      prefix=f".{target.name}.incomplete-", dir=target.parent
    )
    os.chmod(temporary, 0o755)
    for part in PARTS:
      _build(builder(data_dir=temporary, config=part, **kwargs))
    with contextlib.suppress(OSError):  # another process was faster
      os.rename(temporary, target)
  except OSError as error:
    raise UserError(
      f"Cannot build a data set at {target}: {error}. Expected a folder that "
      "can be written; choose another data path."
    ) from error
  finally:
    if temporary is not None:
      shutil.rmtree(temporary, ignore_errors=True)
  _check_settings(load(target), kwargs)
  return str(target)


def load(path: str | os.PathLike) -> Dataset:
  """Opens a prepared data set.

  Raises:
    UserError: anything of it is missing or damaged, all problems listed.
  """
  root = pathlib.Path(path).expanduser()
  problems, sources, settings = [], {}, []
  for part in PARTS:
    found = sorted(root.glob(f"*/{part}/*/dataset_info.json"))
    if len(found) != 1:
      problems.append(f"{len(found)} data sets named {part!r}, expected one")
      continue
    builder = tfds.builder_from_directory(found[0].parent)
    damage = _damage(builder, part)
    problems += damage
    if not damage:
      settings.append(dict(builder.info.metadata or {}))
      skip = {"image": tfds.decode.SkipDecoding()} if part == "items" else None
      sources[part] = builder.as_data_source(split=part, decoders=skip)
  if not problems and settings[0] != settings[1]:
    problems.append(f"items and users disagree: {settings[0]}, {settings[1]}")
  if problems:
    raise UserError(
      listed(
        f"{root} is no whole prepared data set. Delete it and prepare it "
        "again, or choose another data path.",
        problems,
      )
    )
  return Dataset(str(root), settings=settings[0], **sources)


def to_history(record: dict[str, Any]) -> History:
  """Returns the history in a record of the users data set."""
  return History(
    record["id"].decode(),
    tuple(item.decode() for item in record["items"]),
    np.asarray(record["timestamps"]),
    int(record["train_end"]),
    int(record["validation_start"]),
    int(record["test_start"]),
  )


def _build(builder):
  """Writes one data set; TFDS's progress would tell of a download."""
  config = tfds.download.DownloadConfig(try_download_gcs=False)
  quiet = io.StringIO()
  with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
    builder.download_and_prepare(
      download_config=config, file_format="array_record"
    )


def _damage(builder, part):
  """Returns what is wrong with the files of an opened builder."""
  if part not in builder.info.splits:
    return [f"{part}: no split {part!r}"]
  split = builder.info.splits[part]
  problems = []
  for file, length in zip(split.filepaths, split.shard_lengths, strict=True):
    try:
      reader = array_record_module.ArrayRecordReader(os.fspath(file))
      count = reader.num_records()
      reader.close()
    except Exception as error:  # whatever the reader raises
      problems.append(f"{file}: cannot be read ({error})")
    else:
      if count != length:
        problems.append(f"{file}: {count} records, expected {length}")
  return problems


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
