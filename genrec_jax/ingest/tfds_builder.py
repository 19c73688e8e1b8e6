"""The TFDS builder of imported data sets: from a work folder to ArrayRecord.

Data sets differ in their raw files, which are behind them once an import is
finished; left to each is its name and whom to cite, see `datasets`.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import itertools
import os
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from genrec_jax.data import index, records, tfds_writer
from genrec_jax.data.prepare import prepare
from genrec_jax.ingest import work_folder
from genrec_jax.ingest.datasets import DATASETS
from genrec_jax.ingest.work_folder import Work

_SHARD_BYTES = 2**27  # TFDS holds a shard in memory while it writes it
_EVENT_BYTES = 32  # that an event takes in a user's record, about
_BATCH = 2**16  # users or titles put into the index at a time


class Imported(
  tfds_writer.Prepared,
  tfds.core.ShardBasedBuilder,
  skip_registration=True,  # type: ignore[call-arg]  # of TFDS's, not seen by mypy
):
  """Any imported data set: its records, shard by shard."""

  def __init__(self, *, dataset: str, work: Work, **kwargs: Any):
    raw = DATASETS[dataset]
    self._work = work
    # Otherwise those of the class, which all data sets share.
    self.name = raw.builder
    self.DESCRIPTION = raw.description
    self.HOMEPAGE, self.CITATION = raw.homepage, raw.citation
    super().__init__(**kwargs)

  def _shard_iterators_per_split(self, dl_manager):
    del dl_manager
    part = self.builder_config.name
    make = {"items": _item_shards, "users": _user_shards}[part]
    return {part: make(self._work)}  # one split, of the part's name


def store(
  dataset: str,
  work: Work,
  path: str | os.PathLike,
  *,
  finish: Callable[[pathlib.Path], None] = lambda folder: None,
  **beam: Any,
) -> str:
  """Writes a finished import as a prepared data set; returns its path.

  Args:
    dataset: one of `DATASETS`.
    work: the import.
    path: the folder to be; see `prepare.prepare`.
    finish: adds files, such as the report, before the folder gets its name.
    **beam: `beam_runner` and `beam_options` of `tfds.download.DownloadConfig`,
      to write the items' shards on Apache Beam. Its workers need the work
      folder and that of `path` under the same names.

  Raises:
    UserError: see `prepare.prepare`.
  """

  def complete(folder):
    for file in folder.rglob("*.shard_infos.json"):  # Beam's, of no use here
      file.unlink()
    index.write(
      folder / index.FOLDER, work.rows_of_users(_BATCH), work.titles(_BATCH)
    )
    finish(folder)

  # `prepare` makes it twice, for items and for users.
  builder = functools.partial(Imported, dataset=dataset, work=work)
  return prepare(
    builder,
    path,
    {"dataset": dataset, **work.settings},
    finish=complete,
    **beam,
  )


@dataclasses.dataclass(frozen=True)
class _Items:
  """A shard of items, those of rows [first, stop); called, yields records.

  A class and no closure, because Beam pickles it for other machines.
  """

  work: Work
  first: int
  stop: int

  def __call__(self) -> Iterator[tuple[int, dict[str, Any]]]:
    items = self.work.items(self.first, self.stop)
    for row, item in enumerate(items, start=self.first):
      yield row, dataclasses.asdict(item)


def _item_shards(work):
  """Returns a function for each shard of items."""
  images = (work.folder / work_folder.IMAGES).iterdir()
  number = work.count(work_folder.ITEMS)
  bounds = _bounds(number, sum(file.stat().st_size for file in images))
  return [_Items(work, *pair) for pair in itertools.pairwise(bounds)]


def _user_shards(work):
  """Returns a function for each shard of users, to be called in their order."""
  # One pass over all users; each shard takes the next ones from it.
  histories = enumerate(work.histories())

  def take(number):
    for row, (history, rows) in itertools.islice(histories, number):
      yield row, records.user_record(history, rows)

  size = _EVENT_BYTES * work.count(work_folder.EVENTS)
  bounds = _bounds(work.count(work_folder.USERS), size)
  return [
    functools.partial(take, stop - start)
    for start, stop in itertools.pairwise(bounds)
  ]


def _bounds(number, size):
  """Returns where shards begin, and the end: [shards + 1] row numbers.

  Args:
    number: of records.
    size: of all of them together, in bytes.
  """
  shards = min(max(-(-size // _SHARD_BYTES), 1), number)  # rounded up
  return [number * shard // shards for shard in range(shards + 1)]
