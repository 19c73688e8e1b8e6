"""Prepared data sets: opening, checks, and the fingerprint.

A prepared data set is two TFDS data sets under one folder: `items` (id, title,
encoded image) and `users` (id, items, timestamps, where the splits begin); a
large one has an index next to them. Records are in ArrayRecord files, read
without TensorFlow.
"""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import os
import pathlib
from typing import Any

from array_record.python import array_record_module
import tensorflow_datasets as tfds

from genrec_jax.core.errors import UserError
from genrec_jax.data import index as index_lib
from genrec_jax.data import records, world

# A fingerprint reads so many bytes at so many places of a file, or all of a
# small one, so that 100 GB of images take seconds.
_PIECE_BYTES, _PIECES = 2**16, 64


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A prepared data set, open; records are read when indexed."""

  path: str
  items: Sequence[dict[str, Any]]  # see `records`; images as encoded bytes
  users: Sequence[dict[str, Any]]  # see `records`
  settings: dict[str, Any]  # what it was built with

  @functools.cached_property
  def index(self) -> index_lib.Index:
    """Item rows, splits and titles, without reading records."""
    folder = pathlib.Path(self.path, index_lib.FOLDER)
    if folder.is_dir():  # a large data set's
      return index_lib.read(folder)
    return index_lib.of_records(self.items, self.users)


def load(path: str | os.PathLike) -> Dataset:
  """Opens a prepared data set.

  Raises:
    UserError: anything of it is missing or damaged, all problems listed.
  """
  root = pathlib.Path(path).expanduser()
  dataset, problems = inspect(root)
  if dataset is None:
    raise UserError(_no_data_set(root, problems))
  return dataset


def fingerprint(path: str | os.PathLike) -> str:
  """Returns a hash of a prepared data set, wherever it lies: 16 hex digits.

  It covers the names and sizes of all files that are read, and their contents:
  all of a file up to 4 MiB, of a larger one 64 pieces of 64 KiB, evenly spread,
  the first and the last bytes among them. So it sees other users, items, titles
  or another order of them, but may miss one image of thousands that was
  replaced by another of the same size in bytes. For "", the synthetic world, it
  is the world's version.

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
      continue  # TFDS's descriptions, which name modules of this package
    size = file.stat().st_size
    digest.update(f"{file.relative_to(root)} {size}\n".encode())
    with open(file, "rb") as opened:
      for start in _piece_starts(size):
        opened.seek(start)
        digest.update(opened.read(_PIECE_BYTES))
  return digest.hexdigest()[:16]


def _piece_starts(size: int) -> Sequence[int]:
  """Returns where the pieces of a file begin that a fingerprint reads."""
  if size <= _PIECE_BYTES * _PIECES:
    return range(0, size, _PIECE_BYTES)
  last = size - _PIECE_BYTES
  return [last * piece // (_PIECES - 1) for piece in range(_PIECES)]


def inspect(root: pathlib.Path) -> tuple[Dataset | None, list[str]]:
  """Returns the data set in a folder, or None and what is wrong with it."""
  folders, problems = _folders(root)
  sources: dict[str, Any] = {}
  settings = []  # of each part
  for folder in folders:
    part = folder.parent.name
    builder = tfds.builder_from_directory(folder)
    damage = _damage(builder, part)
    problems += damage
    if not damage:
      settings.append(dict(builder.info.metadata or {}))
      # Images stay encoded: most are read once, in a process that decodes.
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
  for part in records.PARTS:
    # TFDS's layout: name of the data set / its config / version.
    infos = sorted(root.glob(f"*/{part}/*/dataset_info.json"))
    folders += [file.parent for file in infos[:1]]
    if len(infos) != 1:
      problems.append(f"{len(infos)} data sets named {part!r}, expected one")
  return folders, problems


def _no_data_set(root: pathlib.Path, problems: Sequence[str]) -> str:
  """Returns a line on why a path is no whole data set, and what to do."""
  give = (
    "give --config.data.path=DIR of a folder that tools/prepare_data.py made"
  )
  if not root.exists():
    return f"no data set at {root}: there is no such folder; {give}"
  if not root.is_dir():
    return f"{root} is a file, no prepared data set; {give}"
  # A folder above or below is often meant; few are looked at.
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


def _damage(builder: Any, part: str) -> list[str]:
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


def _index_damage(root: pathlib.Path, sources: dict[str, Any]) -> list[str]:
  """Returns what is wrong with the index, if there is one."""
  folder = root / index_lib.FOLDER
  if not folder.is_dir():
    return []
  try:
    index = index_lib.read(folder)
  except (OSError, ValueError) as error:
    return [f"{folder}: {error}"]
  return [
    f"{folder}: {count} {part}, expected {len(sources[part])}"
    for part, count in (
      ("users", len(index.splits)),
      ("items", len(index.title_starts) - 1),
    )
    if part in sources and len(sources[part]) != count
  ]
