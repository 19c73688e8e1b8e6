"""A run's folder: whose it is, and files in it that are whole or absent."""

import json
import os
import time
from typing import Any

from genrec_jax.core import distributed
from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.tree import flatten

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
# A run adds to its config what model.checkpoint held when it began.
FINGERPRINT = "model.checkpoint_sha256"
# How long a network disk may take to show what another machine wrote.
_SEEN_SECONDS = 10


def check(workdir: str, config_json: str) -> None:
  """Refuses a folder that cannot be written or holds another config's run.

  All processes of a run call it; each must be able to write there and see what
  the others write.

  Makes the folder if absent, and nothing in it. A run without a checkpoint has
  nothing to lose: its folder may be taken over. The keys 'workdir' and
  'data.workers' may differ: folders may be moved, and the number of reading
  processes changes no result. `FINGERPRINT` is compared where both have it.

  Args:
    workdir: the folder.
    config_json: the config as JSON text.

  Raises:
    UserError: says why the folder cannot be used; names differing keys.
  """
  if "://" in workdir:
    raise UserError(
      f"workdir {workdir} is not a folder: expected one, which a bucket can be"
      " mounted as; give another with --workdir=DIR"
    )
  _probe(workdir)
  if distributed.is_first():
    _same_config(workdir, config_json)


def _probe(workdir: str) -> None:
  """Refuses a folder that is not writable, or not one for all processes."""
  processes = enumerate(distributed.gather(os.getpid()))
  probes = {i: f".writable-{i}-{pid}" for i, pid in processes}
  own = os.path.join(workdir, probes[distributed.index()])
  try:
    os.makedirs(workdir, exist_ok=True)
    with open(own, "w"):
      pass
    try:
      distributed.wait("all can write")
      unseen = _unseen(workdir, probes)
      distributed.wait("all have looked")
    finally:
      os.remove(own)
  except OSError as error:
    raise UserError(
      f"workdir {workdir} cannot be written ({error.strerror}): give a folder"
      " that can with --workdir=DIR"
    ) from error
  if unseen:
    raise UserError(
      f"workdir {workdir} is not the same folder for all processes: what"
      f" process {', '.join(map(str, unseen))} writes is not seen by process"
      f" {distributed.index()}, and each writes a part of every checkpoint;"
      " give a folder on a disk that all machines share"
    )


def _unseen(workdir: str, probes: dict[int, str]) -> list[int]:
  """Returns whose probes are not there; network disks may show them late."""
  until = time.monotonic() + _SEEN_SECONDS
  while True:
    names = set(os.listdir(workdir))
    unseen = [i for i, name in probes.items() if name not in names]
    if not unseen or time.monotonic() > until:
      return unseen
    time.sleep(0.2)


def _same_config(workdir: str, config_json: str) -> None:
  """Refuses a folder that holds another config's run."""
  path = os.path.join(workdir, CONFIG)
  if not os.path.exists(path) or not _has_checkpoint(workdir):
    return
  theirs, ours = _keys(read_config(workdir)), _keys(json.loads(config_json))
  if not (FINGERPRINT in theirs and FINGERPRINT in ours):
    theirs.pop(FINGERPRINT, None)
    ours.pop(FINGERPRINT, None)
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
  """Checks the folder and writes `config.json` into it; see `check`."""
  check(workdir, config_json)
  if not distributed.is_first():
    return
  path = os.path.join(workdir, CONFIG)
  if not os.path.exists(path) or not _has_checkpoint(workdir):
    write(path, config_json.rstrip() + "\n")


def read_config(workdir: str) -> dict[str, Any]:
  """Returns the config of the run that made a workdir, as nested dicts.

  Raises:
    UserError: the file is absent, damaged, or no config.
  """
  path = os.path.join(workdir, CONFIG)
  try:
    with open(path) as file:
      config = json.load(file)
  except (OSError, ValueError) as error:
    raise UserError(
      f"cannot read {path}: {error}; expected the config of a run. Put it back,"
      " or give another folder"
    ) from None
  if not isinstance(config, dict):
    raise UserError(f"{path} holds no JSON object: expected a run's config")
  return config


def write(path: str, text: str) -> None:
  """Writes a text file that is never seen half written."""
  with open(f"{path}.tmp", "w") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(f"{path}.tmp", path)


def _has_checkpoint(workdir: str) -> bool:
  """Says whether there is a whole checkpoint, a folder named by its step."""
  folder = os.path.join(workdir, CHECKPOINTS)
  return os.path.isdir(folder) and any(map(str.isdigit, os.listdir(folder)))


def _keys(config: dict[str, Any]) -> dict[str, Any]:
  flat = flatten(config)
  for free in ("workdir", "data/workers"):
    flat.pop(free, None)
  return {path.replace("/", "."): value for path, value in flat.items()}


def _show(flat: dict[str, Any], key: str) -> str:
  return json.dumps(flat[key]) if key in flat else "absent"
