"""Groups of runs at equal diversity, of runs sampled at several temperatures.

Letters: R resamples, T temperatures, S seeds, U users.
"""

import numpy as np

from genrec_jax.evals import differences, frontier
from genrec_jax.evals.compare.groups import Group
from genrec_jax.evals.compare.runs import Run
from genrec_jax.evals.frontier import MeanGap
from genrec_jax.evals.intervals import RESAMPLES


def between(
  ours: Group,
  theirs: Group,
  *,
  axes: tuple[str, str],
  seed: int,
  resamples: int = RESAMPLES,
) -> MeanGap | None:
  """Returns by how much our alignment is above theirs at equal diversity.

  Intervals are of users, the same for both, and of seeds where a group has
  several, see `differences.between_seeds`. None: a run that was not sampled at
  other temperatures, or no diversity that both reach.

  Args:
    ours: a group.
    theirs: another, of the same users.
    axes: the metrics (alignment, diversity), see `frontier.axes`.
    seed: of the resampling.
    resamples: R.
  """
  curves = []
  for i, group in enumerate((ours, theirs)):
    tables = [_table(run, axes) for run in group.runs]
    if len({table.shape for table in tables}) > 1 or tables[0].shape[1] < 4:
      return None  # one temperature is no curve
    means = differences.seed_means(
      np.stack(tables), seed=seed, seeds_seed=[seed, i], resamples=resamples
    )  # [1 + R, 2 T]
    curves.append(means.reshape(len(means), -1, 2))
  return frontier.mean_gap(*curves)


def _table(run: Run, axes: tuple[str, str]) -> np.ndarray:
  """Returns [U, 2 T]: diversity and alignment at each temperature."""
  alignment, diversity = axes
  rows = [
    scores
    for name, scores in run.scores.items()
    if name == run.row or name.startswith(frontier.row_name(run.row, ""))
  ]
  return np.stack(
    [row[metric] for row in rows for metric in (diversity, alignment)], -1
  )
