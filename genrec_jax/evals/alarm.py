"""The alarm: a reward that is being hacked, seen while a run still goes on.

A policy is rewarded for what one encoder sees. Where it finds images that
please that encoder and nobody else, the reward rises and a judge, which rewards
nothing, sees them get worse: farther from what their users went on to, farther
from what real items look like, or all alike. Every mid-run evaluation is held
against the first of the run, user by user, with the same noise.

It rings where the reward has risen on held-out users and one of these has
fallen, each beyond its 99 % bootstrap interval over users: many evaluations are
looked at, so 95 % would ring by chance.

- The future by a judge: any fall. It is what the run is for.
- Fidelity by a judge: its KID is more than FIDELITY times what it was, or than
  as often NEAR where a run begins nearer than that: of a model whose images are
  as the real ones KID is 0 but for noise, and of noise there is no multiple. RL
  of the policy alone moves images away from real ones (arXiv 2605.21195).
- Diversity by a judge: less than DIVERSITY of it is left. RL sharpens: a part
  of it goes in every healthy run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from genrec_jax.core import files
from genrec_jax.evals import intervals
from genrec_jax.evals.metrics import metric_of
from genrec_jax.runtime import distributed

FILE = "first_evaluation.npz"
REWARD = "reward"
RANG = "alarm_"  # begins the name of a metric that is 1 where it rang
FIDELITY, DIVERSITY = 2.0, 0.5
NEAR = 0.025  # KID; about what real items have that one recommender chooses
_TAIL = 0.5  # per cent on each side of a 99 % interval

# reward, future_JUDGE_mean, diversity_JUDGE: [U] of users; kid_JUDGE: [R + 1],
# the first of the set itself, the others of resamples; see `set_distances`.
Seen = Mapping[str, np.ndarray]


def fallen(first: Seen, now: Seen, *, seed: int) -> list[str]:
  """Returns the metrics that fell while the reward rose; [] is no alarm.

  Args:
    first: of the first evaluation of the run.
    now: of a later one, the same users.
    seed: of the bootstrap.
  """

  def change(name: str, times: float = 1.0) -> tuple[float, float]:
    """Returns the interval of what a metric is more than `times` before."""
    if name.startswith("kid_"):  # resampled already, the same users in both
      means = (now[name] - times * np.maximum(first[name], NEAR))[1:]
    else:
      difference = now[name] - times * first[name]
      means = intervals.resampled_means(difference[:, None], seed=seed)[:, 0]
    # A resample of one user has no KID.
    low, high = np.nanpercentile(means, [_TAIL, 100 - _TAIL])
    return float(low), float(high)

  if REWARD not in first or REWARD not in now or change(REWARD)[0] <= 0:
    return []
  found = []
  for name in first:
    if name not in now:
      continue
    if (
      (name.startswith("future_") and change(name)[1] < 0)
      or (name.startswith("kid_") and change(name, FIDELITY)[0] > 0)
      or (name.startswith("diversity_") and change(name, DIVERSITY)[1] < 0)
    ):
      found.append(name)
  return found


class Watch:
  """Holds every mid-run evaluation of a run against its first.

  The first is kept in the workdir, so that a run that was stopped and resumed
  rings where one that was not does.
  """

  def __init__(self, workdir: str, *, seed: int):
    """Takes the folder of the run, which is made by then, and its seed."""
    self._path, self._seed = Path(workdir, FILE), seed

  def look(self, step: int, seen: Seen) -> dict[str, float]:
    """Returns {'alarm_METRIC': 1.0} of what has fallen, and says so.

    Args:
      step: of the run; at step 0 it begins anew.
      seen: of the evaluation after this step.
    """
    if step == 0 or not self._path.exists():
      if distributed.is_first():
        with files.replacing(self._path) as partial, partial.open("wb") as file:
          np.savez(file, allow_pickle=False, **seen)
      return {}
    with np.load(self._path) as first:
      names = fallen(first, seen, seed=self._seed)
      fell = {name: (_mean(name, first), _mean(name, seen)) for name in names}
    if fell:
      distributed.say(f"warning: {words(step, fell)}")
    return {f"{RANG}{name}": 1.0 for name in names}


def lines(curves: Mapping[str, Sequence[tuple[int, float]]]) -> list[str]:
  """Returns the alarms of a run in words, one for each evaluation that rang.

  Args:
    curves: of its metrics.jsonl; see `curves.read`.
  """
  rang: dict[int, list[str]] = {}
  for name, points in curves.items():
    if name.startswith(f"eval/{RANG}"):
      for step, _ in points:
        rang.setdefault(step, []).append(name.removeprefix(f"eval/{RANG}"))
  return [
    words(step, {name: _values(curves, name, step) for name in names})
    for step, names in sorted(rang.items())
  ]


def words(step: int, fell: Mapping[str, tuple[float, float]]) -> str:
  """Returns a line on an alarm.

  Args:
    step: after which it rang.
    fell: {metric: (first, now)}.
  """
  parts = [
    f"{metric_of(name).title} went from {before:.3f} to {now:.3f}"
    for name, (before, now) in fell.items()
  ]
  return (
    f"the reward may be hacked: at step {step} it had risen on held-out users,"
    f" while {' and '.join(parts)}; see docs/evaluation.md"
  )


def _mean(name: str, seen: Seen) -> float:
  """Returns a metric's value: a set's own, or the mean over users."""
  values = seen[name]
  return float(values[0] if name.startswith("kid_") else np.nanmean(values))


def _values(
  curves: Mapping[str, Sequence[tuple[int, float]]], name: str, step: int
) -> tuple[float, float]:
  """Returns a metric's value at the first evaluation, and at a step."""
  points = curves[f"eval/{name}"]
  return points[0][1], dict(points)[step]
