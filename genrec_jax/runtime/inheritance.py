"""Keys that a run takes over from the workdir it starts from."""

import os
from typing import Any

from genrec_jax.runtime.workdir import CONFIG, newest_step, read_config

# Of `data`: what a model's prompts look like, and who was held out.
PROMPT_KEYS = ("history_length", "instruction")
# Of `model`: what its answers are.
ANSWER_KEYS = ("answer", "title_tokens")
WORLD_KEYS = ("num_users", "held_out", "num_events", "future_horizon", "seed")
# data.path of a run that should use the synthetic world, whatever its
# checkpoint was trained on; config.json has '' for it.
SYNTHETIC = "synthetic"


def inherited_data(
  config: dict[str, Any], given: set[str], workdir: str
) -> tuple[dict[str, Any], str]:
  """Returns the keys of `data` that a run takes over, and their source.

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
  data, source = config["data"], _source(config, workdir)
  forced = {"path": ""} if data["path"] == SYNTHETIC else {}
  if not source:
    return forced, ""
  theirs = read_config(source).get("data")
  if not isinstance(theirs, dict):  # an HF-format folder's config
    return forced, ""
  keys = ["path", "short_histories", *PROMPT_KEYS]
  if "data.path" not in given:  # users that are named, not prompts of a file
    keys.append("prompts")
  path = theirs.get("path") if "data.path" not in given else data["path"]
  # On the same data the same users must stay held out.
  if forced.get("path", path) == theirs.get("path"):
    keys += WORLD_KEYS
  found = {
    key: theirs[key]
    for key in keys
    if key in theirs and key in data and f"data.{key}" not in given
  }
  found = {key: value for key, value in found.items() if value != data[key]}
  return found | forced, source


def inherited_answer(
  config: dict[str, Any], given: set[str], workdir: str
) -> tuple[dict[str, Any], str]:
  """Returns the keys of `model` that a run takes over, and their source.

  A model goes on with the answers that it was trained to give.

  Args:
    config: of the run, nested dicts.
    given: the keys, as 'model.answer', that the command line sets.
    workdir: of the run.

  Returns:
    As `inherited_data`.
  """
  source = _source(config, workdir)
  theirs = read_config(source).get("model") if source else None
  if not isinstance(theirs, dict):
    return {}, ""
  found = {
    key: theirs[key]
    for key in ANSWER_KEYS
    if key in theirs and f"model.{key}" not in given
  }
  own = config["model"]
  return {k: v for k, v in found.items() if v != own.get(k)}, source


def _source(config: dict[str, Any], workdir: str) -> str:
  """Returns the workdir whose run this one goes on from; '' for none."""
  checkpoint = config["model"]["checkpoint"]
  if not checkpoint or not os.path.exists(os.path.join(checkpoint, CONFIG)):
    return ""
  # A resumed run goes on as it began, whatever its checkpoint says now.
  return checkpoint if newest_step(workdir) is None else workdir
