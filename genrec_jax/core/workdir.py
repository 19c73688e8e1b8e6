"""A run's folder: whose it is, and files in it that are whole or absent."""

import json
import os
from typing import Any

from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.tree import flatten

CONFIG = "config.json"


def check(workdir: str, config_json: str) -> None:
  """Refuses a folder that cannot be written or holds another config's run.

  Makes the folder if absent, and nothing in it. The key 'workdir' may differ:
  folders may be moved.

  Args:
    workdir: the folder.
    config_json: the config as JSON text.

  Raises:
    UserError: says why the folder cannot be used; names differing keys.
  """
  probe = os.path.join(workdir, f".writable-{os.getpid()}")
  try:
    os.makedirs(workdir, exist_ok=True)
    with open(probe, "w"):
      pass
    os.remove(probe)
  except OSError as error:
    raise UserError(
      f"workdir {workdir} cannot be written ({error.strerror}): give a folder"
      " that can with --workdir=DIR"
    ) from error
  path = os.path.join(workdir, CONFIG)
  if not os.path.exists(path):
    return
  with open(path) as file:
    theirs, ours = _keys(file.read()), _keys(config_json)
  absent = object()
  problems = [
    f"{key}: {_show(theirs, key)} there, {_show(ours, key)} now"
    for key in sorted(theirs.keys() | ours.keys())
    if theirs.get(key, absent) != ours.get(key, absent)
  ]
  if problems:
    raise UserError(
      listed(
        f"workdir {workdir} belongs to a run of another config; give another"
        " --workdir, remove this one, or restore the values:",
        problems,
      )
    )


def claim(workdir: str, config_json: str) -> None:
  """Checks the folder and writes `config.json` into it if it is new."""
  check(workdir, config_json)
  path = os.path.join(workdir, CONFIG)
  if not os.path.exists(path):
    write(path, config_json.rstrip() + "\n")


def read_config(workdir: str) -> dict[str, Any]:
  """Returns the config of the run that made a workdir, as nested dicts."""
  with open(os.path.join(workdir, CONFIG)) as file:
    return json.load(file)


def write(path: str, text: str) -> None:
  """Writes a text file that is never seen half written."""
  with open(f"{path}.tmp", "w") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(f"{path}.tmp", path)


def _keys(config_json: str) -> dict[str, Any]:
  flat = flatten(json.loads(config_json))
  flat.pop("workdir", None)
  return {path.replace("/", "."): value for path, value in flat.items()}


def _show(flat: dict[str, Any], key: str) -> str:
  return json.dumps(flat[key]) if key in flat else "absent"
