"""The folder of a run: checked, claimed for one config, and read."""

import json
import os
import time
from typing import Any

from genrec_jax.core import files
from genrec_jax.core.errors import UserError
from genrec_jax.core.tree import flatten
from genrec_jax.runtime import distributed, run_config

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
# How long a network disk may take to show what another machine wrote.
_SEEN_SECONDS = 10


def check(workdir: str, config_json: str) -> None:
  """Checks that a folder can be written and holds no other config's run.

  All processes of a run call it; each must be able to write there and see what
  the others write.

  Makes the folder if absent, and nothing in it. A run without a checkpoint has
  nothing to lose: its folder may be taken over. Keys that change no parameter
  of a step already taken may differ: 'workdir', 'data.workers', 'train.*' and
  'eval.*', as long as `train.steps` does not fall behind the newest checkpoint
  or pass the end of the learning rate's schedule. So may the path of a
  checkpoint or data set whose hash is known and the same; a hash that
  `config_json` lacks is left for `claim` to compare.

  Args:
    workdir: the folder.
    config_json: the config as JSON text.

  Raises:
    UserError: says why the folder cannot be used; names differing keys.
  """
  # Locks, appends to metrics.jsonl and atomic renames need a file system.
  if "://" in workdir:
    raise UserError(
      f"workdir {workdir} is not a folder: expected one, which a bucket can be"
      " mounted as; give another with --workdir=DIR"
    )
  _probe(workdir)
  if distributed.is_first():
    _compare(workdir, json.loads(config_json), final=False)


def _probe(workdir: str) -> None:
  """Checks that a folder is writable and the same for all processes."""
  # Process ids keep two runs that start in one folder apart.
  processes = enumerate(distributed.allgather_scalar(os.getpid()))
  probes = {i: f".writable-{i}-{pid}" for i, pid in processes}
  own = os.path.join(workdir, probes[distributed.index()])
  try:
    os.makedirs(workdir, exist_ok=True)
    with open(own, "w"):
      pass
    try:
      distributed.barrier("all can write")
      unseen = _unseen(workdir, probes)
      # None removes its file before all others have looked for it.
      distributed.barrier("all have looked")
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
  """Returns the processes whose probes are absent, after waiting for them."""
  until = time.monotonic() + _SEEN_SECONDS
  while True:
    names = set(os.listdir(workdir))
    unseen = [i for i, name in probes.items() if name not in names]
    if not unseen or time.monotonic() > until:
      return unseen
    time.sleep(0.2)


def _compare(workdir: str, config: dict[str, Any], *, final: bool) -> list[str]:
  """Compares `config` with that of the run in a workdir, if any began."""
  # Without a checkpoint there is no run to protect.
  begun = newest_step(workdir)
  path = os.path.join(workdir, CONFIG)
  if not os.path.exists(path) or begun is None:
    return []
  theirs = flatten(read_config(workdir), sep=".")
  ours = flatten(config, sep=".")
  return run_config.compare(workdir, theirs, ours, begun, final=final)


def claim(workdir: str, config_json: str) -> None:
  """Checks the folder and writes `config.json` into it; see `check`.

  What differs without harm, such as `train.steps` of a run that is prolonged,
  is printed, and config.json has the new values from then on.
  """
  check(workdir, config_json)
  if not distributed.is_first():
    return
  changed = _compare(workdir, json.loads(config_json), final=True)
  if changed:
    distributed.say("changed since this run began: " + "; ".join(changed))
  files.write(os.path.join(workdir, CONFIG), config_json.rstrip() + "\n")


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


def newest_step(workdir: str) -> int | None:
  """Returns the step of the newest whole checkpoint, or None."""
  folder = os.path.join(workdir, CHECKPOINTS)
  # A checkpoint that is being written has a longer name until it is whole.
  names = os.listdir(folder) if os.path.isdir(folder) else []
  return max((int(name) for name in names if name.isdecimal()), default=None)
