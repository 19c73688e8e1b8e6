"""Configs of one run before and after a restart: which keys may differ."""

import json
from typing import Any

from genrec_jax.core.errors import UserError, listed

# Hashes that a run adds to its config, of what the folder of another key held
# when it began. Where both sides know one, the folder may have moved.
FINGERPRINT = "model.checkpoint_sha256"
DATA_FINGERPRINT = "data.sha256"
CLIP_FINGERPRINT = "clip.checkpoint_sha256"
HASHED = {
  "model.checkpoint": FINGERPRINT,
  "data.path": DATA_FINGERPRINT,
  "clip.checkpoint": CLIP_FINGERPRINT,
}
# Keys that change no parameter of any step: where the run is, how many
# processes read, how long it goes on, how often and on whom it is evaluated.
_FREE = ("workdir", "data.workers", "train.", "eval.")


def compare(
  workdir: str,
  theirs: dict[str, Any],
  ours: dict[str, Any],
  begun: int,
  *,
  final: bool,
) -> list[str]:
  """Returns the harmless differences of two configs, one line each.

  Args:
    workdir: of the run, for messages.
    theirs: the config of the run that began there, {'a.b': value}.
    ours: the config that is to go on.
    begun: the step of the newest checkpoint.
    final: whether `ours` has all hashes that it will have.

  Raises:
    UserError: lists the keys for which it would be another run.
  """
  # A path and its hash say the same: the hash, where both sides have one.
  skipped = set()
  for key, known in HASHED.items():
    if known not in theirs:  # of a run made before it was recorded
      skipped.add(known)
    elif known in ours:
      skipped.add(key)
    else:  # not hashed yet; with `final` it never will be: compare paths
      skipped |= {known} if final else {known, key}
  absent = object()  # None is a value that a key may have
  differing = {
    key: f"{key}: {_show(theirs, key)} there, {_show(ours, key)} now"
    for key in sorted((theirs.keys() | ours.keys()) - skipped)
    if theirs.get(key, absent) != ours.get(key, absent)
  }
  for key, known in HASHED.items():
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
  # Where a workdir lies is no part of the run: it may have been moved.
  return [line for key, line in differing.items() if key != "workdir"]


def _wrong_steps(
  workdir: str, theirs: dict[str, Any], ours: dict[str, Any], begun: int
) -> list[str]:
  """Returns why a run cannot end at another step than planned, if so."""
  key, until = "train.steps", "optim.decay_steps"
  steps = ours.get(key)
  if steps is None or steps == theirs.get(key):
    return []
  if steps < begun:
    return [
      f"{key}: {_show(theirs, key)} there, {steps} now, and step {begun} is"
      " saved already"
    ]
  if 0 < theirs.get(until, 0) < steps:  # 0: a rate that never decays
    return [
      f"{key}: {_show(theirs, key)} there, {steps} now, but the learning rate"
      f" is 0 from {until}={theirs[until]} on, and another {until} would have"
      " changed the steps already taken: train a new run from this one with"
      f" --config.model.checkpoint={workdir} and another --workdir"
    ]
  return []


def _is_free(key: str) -> bool:
  return any(
    key.startswith(free) if free.endswith(".") else key == free
    for free in _FREE
  )


def _show(flat: dict[str, Any], key: str) -> str:
  return json.dumps(flat[key]) if key in flat else "absent"
