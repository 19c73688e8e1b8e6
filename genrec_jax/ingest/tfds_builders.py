"""TFDS builders of the benchmarks: from an import's tables to ArrayRecord.

What differs between benchmarks, their raw files, is behind them once an import
is finished; see `prepared`. Left to each is its name and whom to cite.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import itertools
import os
import pathlib
from typing import Any

import duckdb
import numpy as np
import tensorflow_datasets as tfds

from genrec_jax.data import index, records, tfds_writer
from genrec_jax.data.histories import Splits
from genrec_jax.ingest import job
from genrec_jax.ingest.readers.source import literal

_SHARD_BYTES = 2**27  # TFDS holds a shard in memory while it writes it
_EVENT_BYTES = 32  # of a user's record, about
_USERS = 2**16  # put into the index at a time


class Benchmark(
  tfds_writer.Prepared, tfds.core.ShardBasedBuilder, skip_registration=True
):
  """What all benchmarks share: their records, shard by shard."""

  def __init__(self, *, work: job.Work, **kwargs):
    self._work = work
    super().__init__(**kwargs)

  def _shard_iterators_per_split(self, dl_manager):
    del dl_manager
    part = self.builder_config.name
    make = {"items": _item_shards, "users": _user_shards}[part]
    return {part: make(self._work)}


class MovieLens(Benchmark, skip_registration=True):
  """MovieLens: films that people rated; posters are the user's own."""

  HOMEPAGE = "https://grouplens.org/datasets/movielens/"
  CITATION = """@article{harper2015movielens,
  title={The MovieLens Datasets: History and Context},
  author={Harper, F. Maxwell and Konstan, Joseph A.},
  journal={ACM Transactions on Interactive Intelligent Systems},
  volume={5},
  number={4},
  year={2015}
}"""


class Amazon(Benchmark, skip_registration=True):
  """Amazon Reviews 2023: products that people reviewed, by category."""

  HOMEPAGE = "https://amazon-reviews-2023.github.io/"
  CITATION = """@article{hou2024bridging,
  title={Bridging Language and Items for Retrieval and Recommendation},
  author={Hou, Yupeng and Li, Jiacheng and He, Zhankui and Yan, An and
    Chen, Xiusi and McAuley, Julian},
  journal={arXiv preprint arXiv:2403.03952},
  year={2024}
}"""


class PixelRec(Benchmark, skip_registration=True):
  """PixelRec: videos that people watched, with their covers."""

  HOMEPAGE = "https://github.com/westlake-repl/PixelRec"
  CITATION = """@article{cheng2023image,
  title={An Image Dataset for Benchmarking Recommender Systems with Raw
    Pixels},
  author={Cheng, Yu and Pan, Yunzhu and Zhang, Jiaqi and Ni, Yongxin and
    Sun, Aixin and Yuan, Fajie},
  journal={arXiv preprint arXiv:2309.06789},
  year={2023}
}"""


class MicroLens(Benchmark, skip_registration=True):
  """MicroLens: short videos that people commented on, with their covers."""

  HOMEPAGE = "https://github.com/westlake-repl/MicroLens"
  CITATION = """@article{ni2023content,
  title={A Content-Driven Micro-Video Recommendation Dataset at Scale},
  author={Ni, Yongxin and Cheng, Yu and Liu, Xiangyan and Fu, Junchen and
    Li, Youhua and He, Xiangnan and Zhang, Yongfeng and Yuan, Fajie},
  journal={arXiv preprint arXiv:2309.15379},
  year={2023}
}"""


class Generic(Benchmark, skip_registration=True):
  """Any interactions of users with items that have titles and images."""


BUILDERS = {
  "movielens": MovieLens,
  "amazon": Amazon,
  "pixelrec": PixelRec,
  "microlens": MicroLens,
  "generic": Generic,
}


def store(
  dataset: str,
  work: job.Work,
  path: str | os.PathLike,
  *,
  finish: Callable[[pathlib.Path], None] = lambda folder: None,
  **beam: Any,
) -> str:
  """Writes a finished import as a prepared data set; returns its path.

  Args:
    dataset: one of `BUILDERS`.
    work: the import.
    path: the folder to be; see `tfds_writer.prepare`.
    finish: adds files, such as the report, before the folder gets its name.
    **beam: `beam_runner` and `beam_options` of `tfds.download.DownloadConfig`,
      to write the items' shards on Apache Beam. Its workers need the work
      folder and that of `path` under the same names.

  Raises:
    UserError: see `tfds_writer.prepare`.
  """

  def complete(folder):
    for file in folder.rglob("*.shard_infos.json"):  # Beam's, of no use here
      file.unlink()
    index.write(folder / index.FOLDER, _index_users(work), _index_titles(work))
    finish(folder)

  builder = functools.partial(BUILDERS[dataset], work=work)
  return tfds_writer.prepare(
    builder,
    path,
    {"dataset": dataset, **work.settings},
    finish=complete,
    **beam,
  )


@dataclasses.dataclass(frozen=True)
class _Items:
  """Yields the records of the items in rows [first, stop); can be pickled."""

  work: job.Work
  first: int
  stop: int

  def __call__(self) -> Iterator[tuple[int, dict[str, Any]]]:
    items = self.work.items(self.first, self.stop)
    for row, item in enumerate(items, start=self.first):
      yield row, dataclasses.asdict(item)


def _item_shards(work):
  """Returns a function for each shard of items."""
  images = (work.folder / job.IMAGES).iterdir()
  number = _count(work, job.ITEMS)
  bounds = _bounds(number, sum(file.stat().st_size for file in images))
  return [_Items(work, *pair) for pair in itertools.pairwise(bounds)]


def _user_shards(work):
  """Returns a function for each shard of users, to be called in their order."""
  histories = enumerate(work.histories())

  def take(number):
    for row, (history, rows) in itertools.islice(histories, number):
      yield row, records.user_record(history, rows)

  size = _EVENT_BYTES * _count(work, job.EVENTS)
  bounds = _bounds(_count(work, job.USERS), size)
  return [
    functools.partial(take, stop - start)
    for start, stop in itertools.pairwise(bounds)
  ]


def _bounds(number, size):
  """Returns where shards of `number` records of `size` bytes in all begin."""
  shards = min(max(-(-size // _SHARD_BYTES), 1), number)
  return [number * shard // shards for shard in range(shards + 1)]


def _count(work, table):
  with duckdb.connect() as connection:
    rows = connection.execute(
      "SELECT count(*) FROM read_parquet(?)", [literal(work.folder / table)]
    )
    return rows.fetchone()[0]


def _index_users(work):
  """Yields lengths, splits and item rows of some users at a time."""
  users, events = (
    literal(work.folder / table) for table in (job.USERS, job.EVENTS)
  )
  with duckdb.connect() as connection:
    for start in range(0, _count(work, job.USERS), _USERS):
      found = connection.execute(
        f"SELECT length, {', '.join(Splits._fields)} FROM "
        "read_parquet(?) LIMIT ? OFFSET ?",
        [users, _USERS, start],
      ).fetchnumpy()
      lengths = found.pop("length")
      rows = connection.execute(
        "SELECT item_row FROM read_parquet(?) WHERE user_row >= ? AND "
        "user_row < ?",
        [events, start, start + _USERS],
      ).fetchnumpy()["item_row"]
      yield lengths, np.stack(list(found.values()), axis=1), rows


def _index_titles(work):
  """Yields the titles of some items at a time."""
  with duckdb.connect() as connection:
    query = "SELECT title FROM read_parquet(?)"
    rows = connection.execute(query, [literal(work.folder / job.ITEMS)])
    while batch := rows.fetchmany(_USERS):
      yield [title for (title,) in batch]
