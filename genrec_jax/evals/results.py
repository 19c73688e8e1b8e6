"""Files of a finished evaluation: summary, scores, images and report."""

from typing import Any

import numpy as np

from genrec_jax.evals import (
  alarm,
  frontier,
  kept_images,
  page,
  per_user,
  summary,
  table,
  verdicts,
)
from genrec_jax.evals import curves as curves_lib
from genrec_jax.evals.evaluator import Comparison, Evaluator
from genrec_jax.evals.examples import examples
from genrec_jax.runtime import distributed, progress


def write(
  workdir: str, evaluator: Evaluator, comparison: Comparison
) -> dict[str, Any]:
  """Writes the results into a workdir and prints the table.

  All processes of a run enter it; the first writes and prints. The workdir's
  config.json and metrics.jsonl, where present, go into the page.

  Args:
    workdir: an existing folder.
    evaluator: which made the comparison.
    comparison: see `Evaluator.compare`.

  Returns:
    The summary; see `summary`.
  """
  with progress.waiting("comparing the rows"):
    found = summary.summarise(
      comparison.scores,
      seed=evaluator.seed,
      population=evaluator.population,
      warnings=evaluator.warnings,
      sets={row: sets.cells for row, sets in comparison.sets.items()},
    )
    # They are read off the intervals, so they come after these.
    found["verdicts"] = verdicts.verdicts(found)
    if curves := frontier.of_summary(comparison.curves, found, evaluator.seed):
      found["frontier"] = curves
  found["alarms"] = alarm.lines(curves_lib.read(workdir))
  if distributed.is_first():
    with progress.waiting("writing the report"):
      summary.write(workdir, found)
      # In the order of the scores, which leave out the rows that are no users.
      names = [n for held in evaluator.test for n in held.names[: held.count]]
      per_user.write(workdir, names, _per_user(comparison))
      kept_images.write(workdir, evaluator.test, comparison.images)
      users = examples(
        evaluator.test, comparison.samples, titles=comparison.titles
      )
      page.write(workdir, found, users=users)
    # Last: what is seen in the terminal is on disk by then.
    print(table.table(found), flush=True)
  return found


def _per_user(comparison: Comparison) -> dict[str, dict[str, np.ndarray]]:
  """Returns all rows' scores, and their parts in distances of sets.

  And models at other temperatures, which `compare` draws curves of.
  """
  # The real next items are the set that the others are compared with.
  sets = comparison.sets
  rows = {
    row: scores | (sets[row].parts if row in sets else {})
    for row, scores in comparison.scores.items()
  }
  colder = {
    frontier.row_name(model, temperature): scores
    for model, curve in comparison.curves.items()
    for temperature, scores in curve.items()
    if scores is not comparison.scores[model]  # the table's own
  }
  return rows | colder
