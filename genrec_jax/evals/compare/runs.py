"""Finished runs, opened to be compared: the same users, or refused."""

from collections.abc import Mapping, Sequence
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.tree import flatten
from genrec_jax.evals import per_user
from genrec_jax.evals.summary import Summary, model_names
from genrec_jax.runtime import run_config, workdir

# What must be equal for numbers to be comparable: who is evaluated, on what
# horizon, and who looks. A key whose content has a hash is compared by that.
_SAME = (
  "data.path",
  "data.future_horizon",
  "clip.checkpoint",
  "eval.judges",
)
# Of the synthetic world, which a data set has none of.
_WORLD = ("data.num_users", "data.held_out", "data.num_events", "data.seed")


class Run(NamedTuple):
  """A finished run.

  Attributes:
    path: its workdir.
    config: {'data.path': value}; hashes are taken out, see `identity`.
    identity: the same without `seed`, and with hashes for the keys whose
      content has one. An evaluation of what a run trained has that run's keys,
      as 'trained.KEY', in place of its folder.
    seed: of training; of an evaluation of any other model, of its sampling.
    row: the row of its table that is compared.
    users: U, in the order of `scores`.
    scores: {row: {metric: [U] float64}}.
    summary: of its own evaluation.
  """

  path: str
  config: Mapping[str, Any]
  identity: Mapping[str, Any]
  seed: int
  row: str
  users: Sequence[str]
  scores: Mapping[str, Mapping[str, np.ndarray]]
  summary: Summary

  @property
  def own(self) -> Mapping[str, np.ndarray]:
    """The scores of the row that is compared."""
    return self.scores[self.row]


def open_runs(paths: Sequence[str], rows: Sequence[str] = ()) -> list[Run]:
  """Opens runs; the users of all come in the order of the first.

  Args:
    paths: workdirs of finished runs or evaluations.
    rows: a row of each run's table, or one for all; by default each run's own
      model, the last of its table.

  Raises:
    UserError: a run that is not finished, a row that is not there, or runs that
      cannot be compared; lists what differs.
  """
  if len(rows) not in (0, 1, len(paths)):
    raise UserError(
      f"{len(paths)} runs and {len(rows)} rows: expected one row for all runs,"
      " or one for each, as in --rows=rl,sft"
    )
  given = list(rows) * len(paths) if len(rows) == 1 else rows
  runs = [
    _open(path, given[i] if given else None) for i, path in enumerate(paths)
  ]
  if problems := [
    line for run in runs[1:] for line in _differing(runs[0], run)
  ]:
    raise UserError(
      listed(
        f"these runs cannot be compared with {runs[0].path}: expected the same"
        " users, horizon, judges and data; evaluate all of them alike with"
        " configs/evaluate.py:",
        problems,
      )
    )
  return [_in_order(run, runs[0].users) for run in runs]


def _open(path: str, row: str | None) -> Run:
  users, scores = per_user.read(path)
  config, identity = _read(path)
  checkpoint = config["model.checkpoint"]
  if config["task"] == "evaluate" and _is_workdir(checkpoint):
    # Evaluations of runs that differ in their seed are one configuration.
    del identity["model.checkpoint"]
    start, trained = (
      {f"trained.{key}": value for key, value in keys.items()}
      for keys in _read(checkpoint)
    )
    config, identity = config | start, identity | trained
    seed = identity.pop("trained.seed")
  else:
    seed = identity.pop("seed")
  summary = json.loads(Path(path, "summary.json").read_text())
  # An evaluation's task is no row; its last model is the one it was asked for.
  row = row or model_names(summary)[-1]
  if row not in scores:
    raise UserError(
      f"no row {row!r} in {path}: expected one of {', '.join(scores)}"
    )
  return Run(path, config, identity, seed, row, users, scores, summary)


def _read(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the config of a workdir, and the same with hashes for folders."""
  config = flatten(workdir.read_config(path), sep=".")
  hashes = {k: config.pop(h, None) for k, h in run_config.HASHED.items()}
  known = {key: value for key, value in hashes.items() if value is not None}
  return config, config | known


def _is_workdir(checkpoint: str) -> bool:
  """Returns whether a model is what a run made, and not in HF format."""
  # The config of a model in HF format has no task.
  known = Path(checkpoint, workdir.CONFIG).is_file()
  return known and "task" in workdir.read_config(checkpoint)


def _differing(first: Run, run: Run) -> list[str]:
  """Returns why two runs cannot be compared, a line each."""
  problems = []
  if only := set(first.users) ^ set(run.users):
    problems.append(
      f"users: {len(only)} of {len(first.users)} there and {len(run.users)}"
      " here are in one only"
    )
  world = () if first.config.get("data.path") else _WORLD
  for key in (*_SAME, *world):
    one, other = (_known(key, x, y) for x, y in ((first, run), (run, first)))
    # A key that configs of older runs lack stood for none.
    if (one or None) != (other or None):
      shown = [json.dumps(x.config.get(key)) for x in (first, run)]
      if shown[0] == shown[1]:  # the same path, which holds something else
        shown = [str(one), str(other)]
      problems.append(f"{key}: {shown[0]} there, {shown[1]} here")
  return [f"{run.path}: {problem}" for problem in problems]


def _known(key: str, run: Run, other: Run) -> Any:
  """Returns what two runs compare a key by: hashes only if both have one."""
  hashed = all(x.identity.get(key) != x.config.get(key) for x in (run, other))
  return (run.identity if hashed else run.config).get(key)


def _in_order(run: Run, users: Sequence[str]) -> Run:
  """Returns a run with its users in another order.

  Users may come in any, as with another batch size.
  """
  place = {user: i for i, user in enumerate(run.users)}
  index = np.asarray([place[user] for user in users])  # [U]
  scores = {
    row: {metric: values[index] for metric, values in found.items()}
    for row, found in run.scores.items()
  }
  return run._replace(users=users, scores=scores)
