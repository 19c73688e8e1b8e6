"""Which raters are left out, by rules that are fixed before the first vote."""

from typing import NamedTuple

import numpy as np

from genrec_jax.study.answers import Answers


class Rules(NamedTuple):
  """Rules of exclusion, kept in study.json.

  Of raters who press "cannot say" as often as a side, 4.5 % get past the second
  rule, and 1.6 % if they also mark one image in four; between the sides only,
  19 %: at most one miss of five, by the binomial.
  """

  completed_at_least: float = 0.8  # of a block
  # Of five: another user's image chosen, not the one of the user shown, or
  # "cannot say", or the other's marked as a copy.
  checks_missed_at_most: int = 1
  one_side_below: float = 0.9  # of what was decided; half is expected
  seconds_at_least: float = 2.0  # a pair with three questions, the median


def reasons(answers: Answers, rules: Rules) -> dict[str, list[str]]:
  """Returns why raters are left out: {rater: reasons}, for those who are."""
  found: dict[str, list[str]] = {}
  for number, rater in enumerate(answers.raters):
    why = _reasons(answers.take(answers.rater == number), rules)
    if why:
      found[rater] = why
  return found


def _reasons(own: Answers, rules: Rules) -> list[str]:
  """Returns what speaks against a rater with these answers."""
  why = []
  # Votes come at the end of a block: fewer were cut off, or made up.
  share = len(own.rater) / own.block_size
  if share < rules.completed_at_least:
    why.append(f"incomplete: {share:.0%} of the pairs of a block")
  missed = int(own.missed.sum())
  if missed > rules.checks_missed_at_most:
    why.append(f"attention: {missed} of {int(own.check.sum())} checks missed")
  # Of all answers: rows, and known answers, stand on either side as often.
  decided = own.side != 0  # [V, Q]
  if decided.any():
    left = float((own.side < 0).sum() / decided.sum())
    if max(left, 1 - left) >= rules.one_side_below:
      which = "left" if left > 0.5 else "right"
      why.append(f"one side: {max(left, 1 - left):.0%} of answers {which}")
  seconds = float(np.median(own.seconds)) if len(own.seconds) else 0.0
  if seconds < rules.seconds_at_least:
    why.append(f"too fast: {seconds:.1f} s a pair (median)")
  return why
