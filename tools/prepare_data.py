"""Turns a benchmark's raw files and images into a data set to train on.

    python tools/prepare_data.py --dataset=movielens --raw=DIR --out=DIR
        [--images=DIR --min_rating=4 --k_core=5 --image_size=384]

`main.py --config.data.path=OUT` trains on it. What was kept and dropped is told
in a table and, with examples, in OUT/import_report.html; docs/data.md says
which files each benchmark needs. A stopped run goes on when it is started
again; OUT appears when it is whole and not before.
"""

from collections.abc import Iterator
import contextlib
import fcntl
import functools
import json
import math
import os
from pathlib import Path
import shutil
import sys

from absl import flags

from genrec_jax.core.errors import UserError, listed
from genrec_jax.runtime import cli

_DATASETS = ("movielens", "amazon", "pixelrec", "microlens", "generic")
_DATASET = flags.DEFINE_enum(
  "dataset", None, _DATASETS, "Whose raw files they are.", required=True
)
_RAW = cli.path_flag("raw", None, "Folder of the raw files.", required=True)
_OUT = cli.path_flag(
  "out", None, "Folder to write, absent or empty.", required=True
)
_IMAGES = cli.path_flag(
  "images",
  None,
  "Folder of the item images; by default 'images' in --raw, or as docs/data.md"
  " says. Files are named like the items.",
)
_IMAGE_LIST = cli.path_flag(
  "image_list",
  None,
  "CSV, JSONL or Parquet file of item ids and image paths within --images, if"
  " the files are not named like the items.",
)
_MIN_RATING = flags.DEFINE_float(
  "min_rating",
  None,
  "Drop lower ratings; by default 4 for movielens and nothing for others.",
)
_K_CORE = flags.DEFINE_integer(
  "k_core",
  5,
  "Keep users and items with so many events; 1 keeps all.",
  lower_bound=1,
)
_HORIZON = flags.DEFINE_integer(
  "future_horizon",
  1,
  "Items at the end of each history to test on, and as many before them to"
  " validate on; 1 is the usual leave-last-out.",
  lower_bound=1,
)
_SIZE = flags.DEFINE_integer(
  "image_size",
  384,
  "Shorter side of stored images in pixels, at most; 384 serves Janus-Pro.",
  lower_bound=8,
  upper_bound=8192,
)
_PROCESSES = flags.DEFINE_integer(
  "processes", os.cpu_count(), "For images, threads for tables.", lower_bound=1
)
_MEMORY = flags.DEFINE_float(
  "memory_gb",
  2,
  "For tables; what is more goes to disk, beside --out.",
  lower_bound=0.2,
)
_BEAM = flags.DEFINE_string(
  "beam",
  None,
  "Encode and write item images on Apache Beam, with these flags of its own,"
  " such as '--runner=FlinkRunner --flink_master=HOST:8081'.",
)
_FILES = {
  name: cli.path_flag(name, None, f"generic: {text}, within --raw.")
  for name, text in (
    ("interactions", "file of users, items and timestamps"),
    ("titles", "file of items and titles"),
  )
}
_COLUMNS = {
  role: flags.DEFINE_string(f"{role}_column", default, f"generic: {text}")
  for role, default, text in (
    ("user", "user", "column of user ids."),
    ("item", "item", "column of item ids."),
    ("timestamp", "timestamp", "column of times: epoch numbers or dates."),
    ("rating", "", "column of ratings, if there are any."),
    ("title", "title", "column of titles."),
    ("image", "", "column of image paths within --images, beside the titles."),
    ("title_item", "", "column of item ids beside the titles, if it differs."),
  )
}
_IMAGE_LIST_COLUMNS = {
  "item": ("item_id", "item", "parent_asin", "asin", "movie_id", "id"),
  "image": ("path", "image", "file", "filename", "image_path"),
}


def main() -> None:
  """Prepares a data set."""
  # These take seconds to import: bad flags are told sooner.
  from genrec_jax.ingest import beam, job, tfds_builders
  from genrec_jax.ingest import report as report_lib

  raw = _raw()
  settings = job.settings(
    raw,
    dataset=_DATASET.value,
    min_rating=_min_rating(raw.interactions),
    k_core=_K_CORE.value,
    future_horizon=_HORIZON.value,
    image_size=_SIZE.value,
  )
  out = _out(raw)
  beam_options = beam.parse(_BEAM.value) if _BEAM.value is not None else {}
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    # Refuses anything but this very data set.
    tfds_builders.store(_DATASET.value, job.Work(out, settings), out)
    print(
      f"{out} is there already, prepared of files of the same names and sizes;"
      " delete it to prepare it again"
    )
    report = out / report_lib.JSON
    if report.is_file():
      _print_report(json.loads(report.read_text()))
    return
  with _work_folder(out) as folder:
    work = job.make(
      raw,
      folder,
      settings,
      processes=_PROCESSES.value,
      memory_gb=_MEMORY.value,
      tell=_tell,
      **(
        {"spread": functools.partial(beam.spread, **beam_options)}
        if beam_options
        else {}
      ),
    )
    _print_report(work.report)
    _tell("writing records")
    tfds_builders.store(
      _DATASET.value,
      work,
      out,
      finish=lambda target: report_lib.write(target, work),
      **beam_options,
    )
  print(f"{out}: whole; see {out / report_lib.HTML}")


def _raw():
  """Returns what the flags say is to be read.

  Raises:
    UserError: lists the flags that are wrong; or a file is missing.
  """
  from genrec_jax.ingest import job
  from genrec_jax.ingest.readers import source

  folder = Path(_RAW.value)
  _check_flags(folder)
  reader = _reader()
  if _DATASET.value == "generic":
    interactions, titles = reader.tables(
      folder,
      _FILES["interactions"].value,
      _FILES["titles"].value,
      {role: flag.value for role, flag in _COLUMNS.items()},
    )
  else:
    interactions, titles = reader.tables(folder)
  paths = None
  if _IMAGE_LIST.value:
    paths = source.find(
      Path(_IMAGE_LIST.value),
      _IMAGE_LIST_COLUMNS,
      required=tuple(_IMAGE_LIST_COLUMNS),
      advice="Rename them.",
    )
  other_ids = None
  if _DATASET.value == "movielens":
    other_ids = reader.other_ids(folder)
  return job.Raw(
    interactions, titles, _images(folder, reader.IMAGES), paths, other_ids
  )


def _out(raw):
  """Returns the folder to write.

  Raises:
    UserError: it holds something else, or is among what is read.
  """
  from genrec_jax.ingest.readers import source

  out = Path(_OUT.value).expanduser().absolute()
  source.literal(out)  # raises, if its name cannot be
  if out.resolve().is_relative_to(raw.images):
    raise UserError(
      f"--out={out} is within the images folder {raw.images}, all of which is "
      "read as images: choose a folder elsewhere"
    )
  other = out.exists() and (not out.is_dir() or any(out.iterdir()))
  if other and not any(out.glob("*/*/*/dataset_info.json")):
    raise UserError(
      f"--out={out} holds something that is no data set: expected a folder "
      "that is absent or empty; choose another"
    )
  return out


def _check_flags(folder):
  """Raises a UserError that lists what is wrong with the flags."""
  generic, problems = _DATASET.value == "generic", []
  if folder.is_file():
    problems.append(
      f"--raw={folder} is a file: expected a folder, of the unpacked archive"
    )
  elif problem := _unreadable(folder):
    problems.append(f"--raw={folder}: expected a folder ({problem})")
  for flag in (*_FILES.values(), *_COLUMNS.values()):
    if not generic and flag.present:
      problems.append(f"--{flag.name}: only for --dataset=generic")
  for flag in _FILES.values():
    if generic and not flag.value:
      problems.append(f"--{flag.name}: expected a file in --raw")
  for flag in (_MIN_RATING, _MEMORY):
    if flag.value is not None and not math.isfinite(flag.value):
      problems.append(f"--{flag.name}={flag.value}: expected a number")
  if _IMAGE_LIST.value and not Path(_IMAGE_LIST.value).expanduser().exists():
    problems.append(f"--image_list={_IMAGE_LIST.value}: expected a file")
  if problems:
    raise UserError(listed("flags to be put right:", problems))


def _reader():
  """Returns the module that knows the raw files of --dataset."""
  from genrec_jax.ingest.readers import (
    amazon,
    generic,
    microlens,
    movielens,
    pixelrec,
  )

  readers = (movielens, amazon, pixelrec, microlens, generic)
  return dict(zip(_DATASETS, readers, strict=True))[_DATASET.value]


def _images(raw, names):
  """Returns the images folder."""
  given = [_IMAGES.value] if _IMAGES.value else [raw / name for name in names]
  for path in given:
    path = Path(path).expanduser()
    if path.is_file():
      raise UserError(
        f"{path} is a file: expected a folder of images (unpack archives)"
      )
    if path.is_dir():
      if problem := _unreadable(path):
        raise UserError(f"the images folder {path} cannot be read: {problem}")
      return path.resolve()
  raise UserError(
    f"no images folder {' or '.join(map(str, given))}: give one with "
    "--images=DIR, with a file for each item, named like it"
  )


def _unreadable(folder):
  """Returns why a folder cannot be listed, '' if it can."""
  try:
    with os.scandir(folder) as entries:
      next(entries, None)
  except OSError as error:
    return error.strerror
  return ""


def _min_rating(interactions):
  least = _MIN_RATING.value
  if least is None:
    return _reader().MIN_RATING
  if not interactions.has("rating"):
    raise UserError(
      f"--min_rating={least:g}: {interactions.path} has no column of ratings. "
      "Leave the flag out, or name the column with --rating_column where "
      "--dataset=generic."
    )
  return least


@contextlib.contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
  """Makes a folder beside `out` for this process only; removes it at the end.

  It stays where the import is stopped, to be gone on with.
  """
  folder = out.with_name(f".{out.name}.work")
  try:
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
  except OSError as error:
    raise UserError(
      f"--out={out}: cannot write beside it ({error.strerror}): choose another"
    ) from None
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    raise UserError(
      f"another import to {out} is running: wait for it, or choose another"
      " --out"
    ) from None
  try:
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
  except UserError:
    if not any(folder.glob("*/*.json")):  # nothing that took time
      shutil.rmtree(folder, ignore_errors=True)
    raise
  finally:
    os.close(lock)


def _tell(step):
  print(f"{step} ...", flush=True)


def _print_report(report):
  """Prints what was kept and dropped, and, apart, what looks wrong."""
  from genrec_jax.ingest import report as report_lib

  print(report_lib.table(report), flush=True)
  for text in report.get("warnings", ()):  # not of older data sets
    print(f"WARNING: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
  cli.run(main)
