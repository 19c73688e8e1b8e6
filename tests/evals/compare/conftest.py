"""Runs as they lie on a disk, made from a few numbers."""

import json

import numpy as np
import pytest

from genrec_jax.core.tree import unflatten
from genrec_jax.evals import per_user, summary

CONFIG = {
  "task": "rl",
  "seed": 0,
  "model/checkpoint": "tiny_sft",
  "model/checkpoint_sha256": "aa",
  "clip/checkpoint": "tiny_clip",
  "data/path": "",
  "data/num_users": 100,
  "data/history_length": 5,
  "data/future_horizon": 3,
  "rl/advantage": "grpo",
  "rewards/text/weight": 0.5,
  "rewards/copy/weight": 1.0,
  "rewards/copy/threshold": 0.97,
  "eval/users_during": 8,
}
USERS = [f"u{i}" for i in range(60)]


@pytest.fixture
def make_run(tmp_path):
  """Returns a function that makes a finished run; see `write_run`."""
  return lambda name, *args, **kwargs: write_run(
    tmp_path / name, *args, **kwargs
  )


def write_run(folder, gain=0.0, *, users=USERS, config=(), steps=(0, 1, 2)):
  """Writes a run whose model is better than sft by `gain` of a match."""
  changed = CONFIG | {k.replace(".", "/"): v for k, v in dict(config).items()}
  return write_results(folder, unflatten(changed), gain, users, steps)


def write_results(folder, config, gain, users=USERS, steps=(0, 1)):
  """Writes what a run of a nested config leaves."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(config))
  # A user's level is theirs, in whatever order they come.
  levels = np.asarray([float(user[1:]) / 100 for user in users])
  noise = np.random.default_rng(config["seed"]).normal(0, 0.01, len(users))
  rows = {
    name: {
      "text_clip": levels,
      "preference_match": levels + shift,
      "copy_rate": 0 * levels,
    }
    for name, shift in (
      ("sft", 0.0),
      ("rl", gain + noise),
      ("real_next_item", 0.5),
      ("random_item", -0.5),
    )
  }
  per_user.write(str(folder), users, rows)
  found = summary.summarise(rows, seed=0, population="held-out users")
  summary.write(str(folder), found)
  lines = [
    json.dumps({"step": step, "reward": gain * step, "kl": 0.5, "seconds": 1})
    for step in steps
  ]
  (folder / "report.html").write_text("")
  (folder / "metrics.jsonl").write_text("".join(f"{x}\n" for x in lines))
  return str(folder)
