"""Finished runs, told by their folders: whether a command has to run at all."""

import json
import os
from pathlib import Path
from typing import Any

from genrec_jax.config.flag import FOLDERS, each
from genrec_jax.core.tree import flatten
from genrec_jax.runtime import workdir
from genrec_jax.runtime.inheritance import ANSWER_KEYS

# What `evals.results.write` leaves; the last is written last.
_RESULTS = ("summary.json", "scores.parquet", "report.html")


def finished(folder: str, wanted: Any) -> bool:
  """Returns whether a workdir holds the results of a config.

  A run writes config.json when it begins and its results when it ends, so that
  results older than that are of a run before it.

  Args:
    folder: the workdir.
    wanted: the ConfigDict of the run, as its file and flags make it.
  """
  path = Path(folder, workdir.CONFIG)
  results = [Path(folder, name) for name in _RESULTS]
  if not path.is_file() or not all(result.is_file() for result in results):
    return False
  begun = path.stat().st_mtime_ns
  if any(result.stat().st_mtime_ns < begun for result in results):
    return False
  found = flatten(workdir.read_config(folder), sep=".")
  # Through JSON, which knows no tuples.
  expected = flatten(json.loads(wanted.to_json()), sep=".")
  checkpoint = Path(expected["model.checkpoint"], workdir.CONFIG)
  # Where it starts from says what data, prompts and answers it has.
  inherited = ("data.", *(f"model.{key}" for key in ANSWER_KEYS))
  if not checkpoint.is_file():
    inherited = ()
  return all(
    _plain(key, found.get(key)) == _plain(key, value)
    for key, value in expected.items()
    if key != "workdir" and not key.startswith(inherited)
  )


def _plain(key: str, value: Any) -> Any:
  """Returns a value as config.json has it: folders by their whole path."""
  if key not in FOLDERS or not value:
    return value
  return each(lambda p: os.path.abspath(p) if os.path.isdir(p) else p, value)
