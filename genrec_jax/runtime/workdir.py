"""A run's folder: whose it is, and files in it that are whole or absent."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from typing import Any

from genrec_jax.core import files
from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.tree import flatten
from genrec_jax.runtime import distributed

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
# Hashes that a run adds to its config, of what the folder of another key held
# when it began. Where both sides know one, the folder may have moved.
FINGERPRINT = "model.checkpoint_sha256"
DATA_FINGERPRINT = "data.sha256"
CLIP_FINGERPRINT = "clip.checkpoint_sha256"
_HASHED = {
  "model.checkpoint": FINGERPRINT,
  "data.path": DATA_FINGERPRINT,
  "clip.checkpoint": CLIP_FINGERPRINT,
}
# Keys that change no parameter of any step: where the run is, how many
# processes read, how long it goes on, how often and on whom it is evaluated.
_FREE = ("workdir", "data.workers", "train.", "eval.")
# Of `data`: what a model's prompts look like, and who was held out.
PROMPT_KEYS = ("history_length", "instruction")
WORLD_KEYS = ("num_users", "held_out", "num_events", "future_horizon", "seed")
# data.path of a run that should use the synthetic world, whatever its
# checkpoint was trained on; config.json has '' for it.
SYNTHETIC = "synthetic"
_LOCK = ".lock"
# How long a network disk may take to show what another machine wrote.
_SEEN_SECONDS = 10


def check(workdir: str, config_json: str) -> None:
  """Refuses a folder that cannot be written or holds another config's run.

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
  if "://" in workdir:
    raise UserError(
      f"workdir {workdir} is not a folder: expected one, which a bucket can be"
      " mounted as; give another with --workdir=DIR"
    )
  _probe(workdir)
  if distributed.is_first():
    _same_config(workdir, json.loads(config_json), final=False)


def _probe(workdir: str) -> None:
  """Refuses a folder that is not writable, or not one for all processes."""
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
  """Returns whose probes are not there; network disks may show them late."""
  until = time.monotonic() + _SEEN_SECONDS
  while True:
    names = set(os.listdir(workdir))
    unseen = [i for i, name in probes.items() if name not in names]
    if not unseen or time.monotonic() > until:
      return unseen
    time.sleep(0.2)


def _same_config(
  workdir: str, config: dict[str, Any], *, final: bool
) -> list[str]:
  """Refuses another config's run; returns what else differs, one line each."""
  begun = newest_step(workdir)
  path = os.path.join(workdir, CONFIG)
  if not os.path.exists(path) or begun is None:
    return []
  theirs = flatten(read_config(workdir), sep=".")
  ours = flatten(config, sep=".")
  skipped = set()
  for key, known in _HASHED.items():
    if known not in theirs:  # of a run made before it was recorded
      skipped.add(known)
    elif known in ours:
      skipped.add(key)
    else:
      skipped |= {known} if final else {known, key}
  absent = object()
  differing = {
    key: f"{key}: {_show(theirs, key)} there, {_show(ours, key)} now"
    for key in sorted((theirs.keys() | ours.keys()) - skipped)
    if theirs.get(key, absent) != ours.get(key, absent)
  }
  for key, known in _HASHED.items():
    if known in differing:
      differing[known] += f"; {ours.get(key)} is not what the run began with"
  problems = [line for key, line in differing.items() if not _is_free(key)]
  problems += _wrong_steps(workdir, theirs, ours, begun)
  if problems:
    raise UserError(
      listed(
        f"workdir {workdir} belongs to a run of another config; give another"
        " --workdir, remove this one, or restore the values:",
        problems,
      )
    )
  return [line for key, line in differing.items() if key != "workdir"]


def _wrong_steps(
  workdir: str, theirs: dict[str, Any], ours: dict[str, Any], begun: int
) -> list[str]:
  """Says why a run cannot end at another step than it was to."""
  key, until = "train.steps", "optim.decay_steps"
  steps = ours.get(key)
  if steps is None or steps == theirs.get(key):
    return []
  if steps < begun:
    return [
      f"{key}: {_show(theirs, key)} there, {steps} now, and step {begun} is"
      " saved already"
    ]
  if 0 < theirs.get(until, 0) < steps:
    return [
      f"{key}: {_show(theirs, key)} there, {steps} now, but the learning rate"
      f" is 0 from {until}={theirs[until]} on, and another {until} would have"
      " changed the steps already taken: train a new run from this one with"
      f" --config.model.checkpoint={workdir} and another --workdir"
    ]
  return []


def claim(workdir: str, config_json: str) -> None:
  """Checks the folder and writes `config.json` into it; see `check`.

  What differs without harm, such as `train.steps` of a run that is prolonged,
  is printed, and config.json has the new values from then on.
  """
  check(workdir, config_json)
  if not distributed.is_first():
    return
  changed = _same_config(workdir, json.loads(config_json), final=True)
  if changed:
    distributed.say("changed since this run began: " + "; ".join(changed))
  files.write(os.path.join(workdir, CONFIG), config_json.rstrip() + "\n")


@contextlib.contextmanager
def locked(workdir: str) -> Iterator[None]:
  """Keeps other runs from writing into a workdir while its body runs.

  The lock is the system's (`flock`), so a killed process leaves none. Of
  several processes of a run the first holds it. Readers, such as an evaluation
  of this workdir's checkpoint in a workdir of its own, are not concerned.
  Between machines it holds where the file system passes locks on, as NFS with
  its lock service, Lustre with -o flock, CephFS and Filestore do; where it
  refuses to lock, as some mounted buckets do, this says so and goes on.

  Args:
    workdir: an existing folder that can be written.

  Raises:
    UserError: another run has the lock.
  """
  if not distributed.is_first():
    yield
    return
  path = os.path.join(workdir, _LOCK)
  file = _take_lock(workdir, path)
  try:
    yield
  finally:
    if file is not None:
      # While it is held: who opens the path from here on makes a new file.
      with contextlib.suppress(OSError):
        os.remove(path)
      os.close(file)


def _take_lock(workdir: str, path: str) -> int | None:
  while True:
    # Some network disks lock only what is open for writing.
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      with contextlib.suppress(FileNotFoundError):
        # Whoever had it may have removed the file meanwhile.
        if os.path.samestat(os.fstat(file), os.stat(path)):
          os.ftruncate(file, 0)
          os.write(file, f"{os.getpid()} on {socket.gethostname()}".encode())
          return file
      os.close(file)
    except OSError as error:
      holder = os.read(file, 300).decode(errors="replace")
      os.close(file)
      if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
        distributed.say(
          f"{workdir} is on a disk that cannot be locked ({error.strerror}):"
          " see that no other run writes into it"
        )
        return None
      raise UserError(
        f"workdir {workdir} is in use by another run (process {holder}): wait"
        " for it, stop it, or give another --workdir"
      ) from None


def inherited_data(
  config: dict[str, Any], given: set[str], workdir: str
) -> tuple[dict[str, Any], str]:
  """Returns what of `data` a run takes over, and where from.

  A checkpoint that is a workdir was trained on some data set with prompts of
  some form. A run from it goes on with both, but for what the command line
  says: `data.path` of 'synthetic' is the synthetic world. A run that is resumed
  goes on with its own.

  Args:
    config: of the run, nested dicts.
    given: the keys, as 'data.path', that the command line sets.
    workdir: of the run.

  Returns:
    Values of keys of `data` that differ from the config's, and the workdir that
    they were found in; {} and '' if there is nothing to take over.
  """
  checkpoint, data = config["model"]["checkpoint"], config["data"]
  forced = {"path": ""} if data["path"] == SYNTHETIC else {}
  if not os.path.exists(os.path.join(checkpoint, CONFIG)):
    return forced, ""
  source = checkpoint if newest_step(workdir) is None else workdir
  theirs = read_config(source).get("data")
  if not isinstance(theirs, dict):  # an HF-format folder's config
    return forced, ""
  keys = ["path", "short_histories", *PROMPT_KEYS]
  path = theirs.get("path") if "data.path" not in given else data["path"]
  if forced.get("path", path) == theirs.get("path"):
    keys += WORLD_KEYS
  found = {
    key: theirs[key]
    for key in keys
    if key in theirs and key in data and f"data.{key}" not in given
  }
  found = {key: value for key, value in found.items() if value != data[key]}
  return found | forced, source


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
  """Returns the step of the newest whole checkpoint, a folder named by it."""
  folder = os.path.join(workdir, CHECKPOINTS)
  names = os.listdir(folder) if os.path.isdir(folder) else []
  return max((int(name) for name in names if name.isdecimal()), default=None)


def _is_free(key: str) -> bool:
  return any(
    key.startswith(free) if free.endswith(".") else key == free
    for free in _FREE
  )


def _show(flat: dict[str, Any], key: str) -> str:
  return json.dumps(flat[key]) if key in flat else "absent"
