"""Prepared data sets: TFDS builders that write ArrayRecord, without TensorFlow.

A prepared data set is two TFDS data sets under one folder: `items` (id, title,
encoded image) and `users` (id, items, timestamps, where the parts begin); a
large one has an index beside them. The folder appears under its name only when
all is whole. What a build that was stopped had finished is used by the next.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import io
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any, ClassVar

from array_record.python import array_record_module
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer
from tensorflow_datasets.proto import tf_example_pb2

from genrec_jax.core.errors import UserError, listed
from genrec_jax.data import index as index_lib
from genrec_jax.data import world
from genrec_jax.data.histories import History
from genrec_jax.data.histories import build as build_histories
from genrec_jax.runtime import distributed

PARTS = ("items", "users")
_MARKER = "incomplete.json"
# Of a file in a fingerprint: so many bytes at so many places, all of a small
# one, so that 100 GB of images take seconds.
_PIECE_BYTES, _PIECES = 2**16, 64


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
    if folder.is_dir():  # a large data set's
      return index_lib.read(folder)
    return index_lib.of_records(self.items, self.users)


class Prepared:
  """What every prepared data set has; goes before a TFDS builder's class."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = tuple(tfds.core.BuilderConfig(name=name) for name in PARTS)
  # Nothing is downloaded. Looking for a list of checksums beside the code, as
  # TFDS does otherwise, needs importlib_resources, which it does not declare.
  url_infos: ClassVar[dict[str, Any]] = {}
  HOMEPAGE: ClassVar[str | None] = None
  CITATION: ClassVar[str | None] = None
  # Features beyond those every data set has.
  EXTRA: ClassVar[dict[str, dict[str, Any]]] = {"items": {}, "users": {}}

  def __init__(self, *, settings, **kwargs):
    self.settings = settings  # what it is built with; JSON
    super().__init__(**kwargs)

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


def user_record(history: History, rows: np.ndarray) -> dict[str, Any]:
  """Returns a record of the users data set.

  Args:
    history: of the user.
    rows: where its items are in the other data set, [L] int64.
  """
  return {
    "id": history.user,
    "items": list(history.items),
    "rows": rows,
    "timestamps": history.timestamps,
    "train_end": history.train_end,
    "validation_start": history.validation_start,
    "test_start": history.test_start,
  }


class Synthetic(Prepared, tfds.core.GeneratorBasedBuilder):
  """Items and users of a small world whose truth is known."""

  EXTRA: ClassVar = {
    "items": {"attributes": tfds.features.Tensor(shape=(5,), dtype=np.int64)},
    "users": {"wants": tfds.features.Tensor(shape=(None, 3), dtype=np.int64)},
  }

  def _split_generators(self, dl_manager):
    del dl_manager
    return {self.builder_config.name: self._generate_examples()}

  def _generate_examples(self):
    if self.builder_config.name == "items":
      for index in range(world.NUM_ITEMS):
        yield index, self._item(index)
      return
    for row, history in enumerate(self._histories()):
      rows = np.asarray([int(item) for item in history.items], np.int64)
      yield row, user_record(history, rows) | {"wants": self._wants(history)}

  def _item(self, index):
    attributes = world.attributes(index)
    png = io.BytesIO()
    Image.fromarray(world.render(attributes)).save(png, "PNG")
    return {
      "id": _item_id(index),
      "title": world.title(attributes),
      "image": png.getvalue(),
      "attributes": attributes,
    }

  def _histories(self):
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
      future_horizon=self.settings["future_horizon"],
      held_out=users[self.settings["num_users"] :],
    )

  def _wants(self, history):
    """Returns what the user wanted at each event, in the history's order."""
    _, events = self._simulated
    row = int(history.user[1:])
    wants = dict(
      zip(events.items[row].tolist(), events.wants[row], strict=True)
    )
    return np.stack([wants[int(item)] for item in history.items])

  @functools.cached_property
  def _simulated(self):
    settings = self.settings
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
  settings = {
    "num_users": num_users,
    "held_out": held_out,
    "num_events": num_events,
    "future_horizon": future_horizon,
    "seed": seed,
  }
  return prepare(Synthetic, path, settings)


def open_or_build(
  path: str | os.PathLike, *, cache: str | os.PathLike = "runs/data", **settings
) -> Dataset:
  """Opens the data set at `path`; for "" the synthetic one of `settings`.

  Of several processes the first builds; the others build only what they do not
  see then, each on a disk of its own.

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
  if distributed.is_first():
    synthetic(folder, **settings)
  distributed.barrier("the first process has built the data")
  return load(synthetic(folder, **settings))


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
  dataset, problems = _open(target)
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
    for part in PARTS:
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


def fingerprint(path: str | os.PathLike) -> str:
  """Returns a hash of a prepared data set, wherever it lies: 16 hex digits.

  It covers what it was prepared with and names and sizes of all files that are
  read; of their contents all up to 4 MiB a file, of larger ones 64 pieces of
  64 KiB, evenly spread, the first and the last bytes among them. So it sees
  other users, items, titles or another order of them, but may miss one image
  of thousands that was replaced by another of the same size in bytes. Of "",
  the synthetic world, it is the version.

  Raises:
    UserError: there is no data set.
  """
  if not path:
    return f"synthetic{world.VERSION}"
  root, digest = pathlib.Path(path).expanduser(), hashlib.sha256()
  folders, problems = _folders(root)
  if problems:
    raise UserError(_no_data_set(root, problems))
  files = [file for folder in folders for file in folder.iterdir()]
  files += (root / index_lib.FOLDER).glob("*")
  for file in sorted(files):
    if file.name in ("dataset_info.json", "features.json"):
      continue  # TFDS's own words for it, and names of our modules
    size = file.stat().st_size
    digest.update(f"{file.relative_to(root)} {size}\n".encode())
    last, pieces = max(size - _PIECE_BYTES, 0), _PIECES - 1
    starts = [last * i // pieces for i in range(pieces + 1)]
    if size <= _PIECE_BYTES * _PIECES:
      starts = range(0, size, _PIECE_BYTES)
    with open(file, "rb") as opened:
      for start in starts:
        opened.seek(start)
        digest.update(opened.read(_PIECE_BYTES))
  return digest.hexdigest()[:16]


def load(path: str | os.PathLike) -> Dataset:
  """Opens a prepared data set.

  Raises:
    UserError: anything of it is missing or damaged, all problems listed.
  """
  root = pathlib.Path(path).expanduser()
  dataset, problems = _open(root)
  if dataset is None:
    raise UserError(_no_data_set(root, problems))
  return dataset


def _open(root: pathlib.Path) -> tuple[Dataset | None, list[str]]:
  """Returns a data set, or what is wrong with it."""
  folders, problems = _folders(root)
  sources, settings = {}, []
  for folder in folders:
    part = folder.parent.name
    builder = tfds.builder_from_directory(folder)
    damage = _damage(builder, part)
    problems += damage
    if not damage:
      settings.append(dict(builder.info.metadata or {}))
      skip = {"image": tfds.decode.SkipDecoding()} if part == "items" else None
      sources[part] = builder.as_data_source(split=part, decoders=skip)
  if not problems and settings[0] != settings[1]:
    problems.append(f"items and users disagree: {settings[0]}, {settings[1]}")
  problems += _index_damage(root, sources)
  if problems:
    return None, problems
  return Dataset(str(root), settings=settings[0], **sources), []


def _folders(root: pathlib.Path) -> tuple[list[pathlib.Path], list[str]]:
  """Returns the folders of the parts that are there, and what is missing."""
  folders, problems = [], []
  for part in PARTS:
    found = sorted(root.glob(f"*/{part}/*/dataset_info.json"))
    folders += [file.parent for file in found[:1]]
    if len(found) != 1:
      problems.append(f"{len(found)} data sets named {part!r}, expected one")
  return folders, problems


def _no_data_set(root: pathlib.Path, problems: Sequence[str]) -> str:
  """Says in one line why a path is no whole data set, and what to do."""
  give = (
    "give --config.data.path=DIR of a folder that tools/prepare_data.py made"
  )
  if not root.exists():
    return f"no data set at {root}: there is no such folder; {give}"
  if not root.is_dir():
    return f"{root} is a file, no prepared data set; {give}"
  for other in (*root.parents[:3], *sorted(root.glob("*/"))[:100]):
    if not _folders(other)[1]:
      return (
        f"{root} is not itself a prepared data set, {other} is: give"
        f" --config.data.path={other}"
      )
  if not any(root.glob("*/*/*/dataset_info.json")):
    return (
      f"{root} is no prepared data set ({problems[0]}); raw data becomes one"
      f" with tools/prepare_data.py --raw={root} --out=DIR, then {give}"
    )
  return (
    f"{root} is no whole prepared data set ({'; '.join(problems)}); copy it"
    f" again, or prepare it anew in another folder and {give}"
  )


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


def _build(builder, **beam):
  """Writes one data set; TFDS's progress would tell of a download."""
  config = tfds.download.DownloadConfig(try_download_gcs=False, **beam)
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


def _index_damage(root, sources):
  """Returns what is wrong with the index, if there is one."""
  folder = root / index_lib.FOLDER
  if not folder.is_dir():
    return []
  try:
    found = index_lib.read(folder)
  except (OSError, ValueError) as error:
    return [f"{folder}: {error}"]
  return [
    f"{folder}: {count} {part}, expected {len(sources[part])}"
    for part, count in (
      ("users", len(found.splits)),
      ("items", len(found.title_starts) - 1),
    )
    if part in sources and len(sources[part]) != count
  ]


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
