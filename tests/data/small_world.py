"""Small synthetic world of the tests of data, and the files of a data set."""

import os
import pathlib

SMALL = {
  "num_users": 30,
  "held_out": 10,
  "num_events": 12,
  "future_horizon": 2,
}


def files_of(root: str | os.PathLike[str]) -> list[pathlib.Path]:
  """Returns the paths of all files, relative to `root`, sorted."""
  root = pathlib.Path(root)
  return sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())
