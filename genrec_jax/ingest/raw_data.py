"""What an import reads: two tables and a folder of images, opened by name."""

from collections.abc import Iterator
import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

from genrec_jax.core.errors import UserError
from genrec_jax.ingest import image_files
from genrec_jax.ingest.datasets import DATASETS
from genrec_jax.ingest.readers.table import Table, open_table

# Of --image_list: logs of downloads call their columns so.
_LIST_COLUMNS = {
  "item": ("item_id", "item", "parent_asin", "asin", "movie_id", "id"),
  "image": ("path", "image", "file", "filename", "image_path"),
}


@dataclasses.dataclass(frozen=True)
class Raw:
  """The raw data of an import, opened."""

  interactions: Table
  titles: Table
  images: Path  # the folder
  paths: Table | None = None  # of the images by item, if not by file name
  other_ids: Table | None = None  # of the items, that files may be named by

  @functools.cached_property
  def files(self) -> list[image_files.File]:
    """What is in the images folder; listed once, which can take minutes."""
    # About 300 bytes a file: docs/data.md says so.
    return list(image_files.listing(self.images))

  def stamps(self) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Yields each table with sizes and times of its files."""
    # Not of the images, of which the listing holds sizes and times.
    for table in (self.interactions, self.titles, self.paths):
      if table:
        stats = [file.stat() for file in table.files]
        yield str(table), [(s.st_size, s.st_mtime_ns) for s in stats]


def open_raw(
  dataset: str,
  folder: Path,
  *,
  images: Path | None = None,
  image_list: Path | None = None,
  **tables: Any,
) -> Raw:
  """Opens the raw data of a data set; tables are checked, not read.

  Args:
    dataset: one of `DATASETS`.
    folder: of the raw files.
    images: the folder of the item images; None: as `DATASETS` says, in
      `folder`.
    image_list: file of item ids and image paths, if images are not named like
      the items.
    **tables: more of the reader's arguments; see `readers.generic.tables`.

  Raises:
    UserError: a file is missing or cannot be read.
  """
  known = DATASETS[dataset]
  interactions, titles = known.tables(folder, **tables)
  paths = None
  if image_list:
    paths = open_table(
      image_list,
      _LIST_COLUMNS,
      required=tuple(_LIST_COLUMNS),
      advice="Rename them.",
    )
  folders = [images] if images else [folder / n for n in known.image_folders]
  return Raw(
    interactions,
    titles,
    _images_folder(folders),
    paths,
    known.other_ids(folder),
  )


def settings(
  raw: Raw,
  *,
  dataset: str,
  min_rating: float | None,
  k_core: int,
  future_horizon: int,
  image_size: int,
) -> dict[str, Any]:
  """Returns what decides the bytes of a prepared data set, as JSON.

  The raw files enter by name and size; of the images, which may be millions,
  their number and total size.
  """
  tables = (raw.interactions, raw.titles, raw.paths)
  files = [file for file in raw.files if not file.problem]  # that are opened
  # The keys are stored in the data set and compared by later imports.
  return {
    "dataset": dataset,
    "min_rating": min_rating,
    "k_core": k_core,
    "future_horizon": future_horizon,
    "image_size": image_size,
    "raw": {
      table.path.name: sum(file.stat().st_size for file in table.files)
      for table in tables
      if table
    },
    "images": [len(files), sum(file.size for file in files)],
  }


def unreadable(folder: Path) -> str:
  """Returns why a folder cannot be listed, '' if it can."""
  try:
    with os.scandir(folder) as entries:
      next(entries, None)  # some file systems open what they cannot list
  except OSError as error:
    return error.strerror or str(error)
  return ""


def _images_folder(candidates):
  """Returns the first of some folders that is there."""
  for path in candidates:
    path = path.expanduser()
    if path.is_file():  # not the next candidate: somebody forgot to unpack it
      raise UserError(
        f"{path} is a file: expected a folder of images (unpack archives)"
      )
    if path.is_dir():
      if problem := unreadable(path):
        raise UserError(f"the images folder {path} cannot be read: {problem}")
      return path.resolve()
  raise UserError(
    f"no images folder {' or '.join(map(str, candidates))}: give one with "
    "--images=DIR, with a file for each item, named like it"
  )
