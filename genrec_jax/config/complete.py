"""Completion of a config: what a run adds before it starts.

A run from a workdir takes over the data that its checkpoint was trained on, and
records what the folders that it starts from hold now, so that a resumed run
notices when they hold something else.
"""

from collections.abc import Mapping
import os
from typing import Any

from genrec_jax.config.flag import FOLDERS, each
from genrec_jax.core.tree import flatten
from genrec_jax.runtime import distributed, inheritance, run_config, workdir


def inherit_answer(config: Any, given: set[str]) -> None:
  """Takes over the answers of a checkpoint's training, before `check`.

  Rewards of titles are allowed where answers have some. What is taken over is
  printed.

  Args:
    config: of the run; changed in place.
    given: the keys that the command line sets; see `inheritance`.
  """
  taken, source = inheritance.inherited_answer(
    config.to_dict(), given, config.workdir
  )
  config.model.update(taken)
  _say_taken(source, "model", taken)


def inherit_data(config: Any, given: set[str]) -> None:
  """Takes over the data set and the prompts of a checkpoint's training.

  What is taken over is printed, and so are prompts of another form that the
  command line asks for, which an evaluation refuses.

  Args:
    config: of the run; changed in place.
    given: the keys that the command line sets; see `inheritance`.
  """
  taken, source = inheritance.inherited_data(
    config.to_dict(), given, config.workdir
  )
  config.data.update(taken)
  if not source:
    return
  _say_taken(source, "data", taken)
  theirs = workdir.read_config(source)["data"]
  others = [
    f"data.{key} was {theirs[key]!r}, is {config.data[key]!r}"
    for key in inheritance.PROMPT_KEYS
    if key in theirs and theirs[key] != config.data[key]
  ]
  if others and config.task != "evaluate":
    distributed.say(
      f"prompts differ from those that {source} was trained on:"
      f" {'; '.join(others)}"
    )


def _say_taken(source: str, section: str, taken: Mapping[str, Any]) -> None:
  # Printed: a command that says nothing of them must not hide where they are
  # from.
  if taken:
    values = [f"{section}.{key}={value!r}" for key, value in taken.items()]
    distributed.say(f"as {source} was trained: {', '.join(values)}")


def make_absolute(config: Any) -> None:
  """Makes the paths of existing folders absolute; bundled names stay."""

  def absolute(path: str) -> str:
    return os.path.abspath(path) if os.path.exists(path) else path

  keys = flatten(config.to_dict(), sep=".")
  config.update_from_flattened_dict(
    {key: each(absolute, keys[key]) for key in FOLDERS if keys.get(key)}
  )


def add_fingerprints(config: Any) -> None:
  """Records what the folders that a training run starts from hold now.

  Raises:
    UserError: one of them cannot be used.
  """
  # An evaluation resumes nothing; of several processes one hash is enough.
  if config.task == "evaluate" or not distributed.is_first():
    return
  # They import much, for which a workdir that is refused should not wait.
  from genrec_jax.data import dataset, prompts
  from genrec_jax.hf import workdir_model

  fingerprints = {
    run_config.DATA_FINGERPRINT: (
      prompts.fingerprint(config.data.prompts)
      if config.data.prompts
      else dataset.fingerprint(config.data.path)
    ),
    run_config.FINGERPRINT: workdir_model.fingerprint(config.model.checkpoint),
    run_config.CLIP_FINGERPRINT: workdir_model.fingerprint(
      config.clip.checkpoint
    ),
  }
  with config.unlocked():
    config.update_from_flattened_dict(fingerprints)
