"""Turns a data set's raw files and images into a data set to train on.

    python tools/prepare_data.py --dataset=movielens --raw=DIR --out=DIR
        [--images=DIR --min_rating=4 --k_core=5 --image_size=384]

`main.py --config.data.path=OUT` trains on it. What was kept and dropped is
printed as a table and, with examples, written to OUT/import_report.html;
docs/data.md says which files each data set needs. A stopped run goes on when it
is started again; OUT appears when it is whole and not before.
"""

from collections.abc import Mapping
import functools
import json
import math
import os
from pathlib import Path
import sys
from typing import Any

from absl import flags

from genrec_jax.core.errors import UserError, listed
from genrec_jax.ingest.datasets import DATASETS
from genrec_jax.runtime import cli, path_flags

_DATASET = flags.DEFINE_enum(
  "dataset", None, list(DATASETS), "Whose raw files they are.", required=True
)
_RAW = path_flags.path_flag(
  "raw", None, "Folder of the raw files.", required=True
)
_OUT = path_flags.path_flag(
  "out", None, "Folder to write, absent or empty.", required=True
)
_IMAGES = path_flags.path_flag(
  "images",
  None,
  "Folder of the item images; by default 'images' in --raw, or as docs/data.md"
  " says. Files are named like the items.",
)
_IMAGE_LIST = path_flags.path_flag(
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
  "processes",
  os.cpu_count() or 1,
  "For images, threads for tables.",
  lower_bound=1,
)
_MEMORY = flags.DEFINE_float(
  "memory_gb",
  2,
  "For tables; what is more goes to disk, next to --out.",
  lower_bound=0.2,
)
_BEAM = flags.DEFINE_string(
  "beam",
  None,
  "Encode and write item images on Apache Beam, with these flags of its own,"
  " such as '--runner=FlinkRunner --flink_master=HOST:8081'.",
)
# The last flags are for --dataset=generic only, one for each file and column.
_FILES = {
  name: path_flags.path_flag(name, None, f"generic: {text}, within --raw.")
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
    ("image", "", "column of image paths within --images, next to the titles."),
    ("title_item", "", "column of item ids next to the titles, if it differs."),
  )
}


def main() -> None:
  """Prepares a data set."""
  # These take seconds to import: the flags' own errors come sooner.
  from genrec_jax.ingest import beam, job, tfds_builder, work_folder
  from genrec_jax.ingest import report as report_lib

  raw = _raw()
  settings = _settings(raw)
  out = _out(raw.images)
  beam_options = beam.parse(_BEAM.value) if _BEAM.value is not None else {}
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    # Refuses anything but this very data set.
    work = work_folder.Work(out, settings)  # not read where a data set is
    tfds_builder.store(_DATASET.value, work, out)
    print(
      f"{out} is there already, prepared from files of the same names and"
      " sizes; delete it to prepare it again"
    )
    report = out / report_lib.JSON
    if report.is_file():
      _print_report(json.loads(report.read_text()))
    return
  with work_folder.claim(out) as folder:
    spread = functools.partial(beam.spread, **beam_options)
    work = job.make(
      raw,
      folder,
      settings,
      processes=_PROCESSES.value,
      memory_gb=_MEMORY.value,
      spread=spread if beam_options else None,
      on_step=_print_step,
    )
    _print_report(work.report)  # while records are written it can be read
    _print_step("writing records")
    tfds_builder.store(
      _DATASET.value,
      work,
      out,
      finish=lambda target: report_lib.write(target, work),
      **beam_options,
    )
  print(f"{out}: whole; see {out / report_lib.HTML}")


def _raw():
  """Opens what the flags say is to be read.

  Raises:
    UserError: lists the flags that are invalid; or a file is missing.
  """
  from genrec_jax.ingest import raw_data

  _check_flags()
  tables: dict[str, Any] = {}
  # What is known of the others without flags.
  if _DATASET.value == "generic":
    tables = {name: flag.value for name, flag in _FILES.items()}
    tables["columns"] = {role: flag.value for role, flag in _COLUMNS.items()}
  return raw_data.open_raw(
    _DATASET.value,
    Path(_RAW.value),
    images=Path(_IMAGES.value) if _IMAGES.value else None,
    image_list=Path(_IMAGE_LIST.value) if _IMAGE_LIST.value else None,
    **tables,
  )


def _settings(raw: Any) -> dict[str, Any]:
  """Returns what decides the bytes of the data set."""
  from genrec_jax.ingest import raw_data

  least = _MIN_RATING.value
  if least is not None and not raw.interactions.has("rating"):
    raise UserError(
      f"--min_rating={least:g}: {raw.interactions.path} has no column of "
      "ratings. Leave the flag out, or name the column with --rating_column "
      "where --dataset=generic."
    )
  return raw_data.settings(
    raw,
    dataset=_DATASET.value,
    min_rating=DATASETS[_DATASET.value].min_rating if least is None else least,
    k_core=_K_CORE.value,
    future_horizon=_HORIZON.value,
    image_size=_SIZE.value,
  )


def _out(images: Path) -> Path:
  """Returns the folder to write.

  Raises:
    UserError: it holds something else, or is among what is read.
  """
  from genrec_jax.core import duckdb_file

  out = Path(_OUT.value).expanduser().absolute()
  duckdb_file.pattern(out)  # raises, if DuckDB cannot open files in it
  if out.resolve().is_relative_to(images):
    raise UserError(
      f"--out={out} is within the images folder {images}, all of which is "
      "read as images: choose a folder elsewhere"
    )
  # Before hours of work; `tfds_builder.store` checks the data set itself.
  other = out.exists() and (not out.is_dir() or any(out.iterdir()))
  if other and not any(out.glob("*/*/*/dataset_info.json")):
    raise UserError(
      f"--out={out} holds something that is no data set: expected a folder "
      "that is absent or empty; choose another"
    )
  return out


def _check_flags() -> None:
  """Raises a UserError that lists the invalid flags."""
  from genrec_jax.ingest import raw_data

  folder, generic = Path(_RAW.value), _DATASET.value == "generic"
  problems = []
  if folder.is_file():
    problems.append(
      f"--raw={folder} is a file: expected a folder, of the unpacked archive"
    )
  elif problem := raw_data.unreadable(folder):
    problems.append(f"--raw={folder}: expected a folder ({problem})")
  for flag in (*_FILES.values(), *_COLUMNS.values()):
    if not generic and flag.present:  # would be ignored without a word
      problems.append(f"--{flag.name}: only for --dataset=generic")
  for flag in _FILES.values():
    if generic and not flag.value:
      problems.append(f"--{flag.name}: expected a file in --raw")
  for flag in (_MIN_RATING, _MEMORY):
    if flag.value is not None and not math.isfinite(flag.value):
      problems.append(f"--{flag.name}={flag.value}: expected a number")
  if _IMAGE_LIST.value and not Path(_IMAGE_LIST.value).exists():
    problems.append(f"--image_list={_IMAGE_LIST.value}: expected a file")
  if problems:
    raise UserError(listed("invalid flags:", problems))


def _print_step(step: str) -> None:
  print(f"{step} ...", flush=True)


def _print_report(report: Mapping[str, Any]) -> None:
  """Prints what was kept and dropped, and, apart, what looks wrong."""
  from genrec_jax.ingest import report as report_lib

  print(report_lib.table(report), flush=True)
  for text in report.get("warnings", ()):  # not in older data sets
    print(f"WARNING: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
  cli.run(main)
