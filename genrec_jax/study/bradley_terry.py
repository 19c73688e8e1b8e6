"""Bradley-Terry scores with ties: Davidson's model, fitted to many tables.

A row i wins against j with a probability in the ratio exp(s_i), and the two tie
in the ratio nu exp((s_i + s_j) / 2): Davidson, "On extending the Bradley-Terry
model to accommodate ties in paired comparison experiments", JASA 65, 1970. Ties
then say that two rows are near each other, and the scores are those that a
study without ties would find.
"""

import itertools
from typing import NamedTuple

import numpy as np

_STEPS = 50  # of Newton; about six are taken
_HALVINGS = 8


class Fit(NamedTuple):
  """Scores of K rows in each of B tables."""

  scores: np.ndarray  # [B, K], their mean is 0; natural logarithms of odds
  tie: np.ndarray  # [B] nu; 0 where there are no ties


def fit(
  wins: np.ndarray, ties: np.ndarray, *, prior_deviation: float = 10.0
) -> Fit:
  """Returns the most likely scores, with a weak prior.

  The likelihood is concave, so there is one maximum and Newton's steps, halved
  where one goes too far, find it. Without the prior a row that won each time
  would have no score; it moves the scores of a study by a thousandth.

  Args:
    wins: [B, K, K], how often row i won against row j.
    ties: [B, K, K], symmetric, how often they tied.
    prior_deviation: of the normal prior of scores and of log nu, in nats.
  """
  tables, rows = wins.shape[:2]
  i, j = np.asarray(list(itertools.combinations(range(rows), 2))).T  # [R] both
  # [B, R, 3]: the first won, the second won, neither.
  seen = np.stack([wins[:, i, j], wins[:, j, i], ties[:, i, j]], -1)
  total = seen.sum(-1)  # [B, R]
  design = _design(i, j, rows)  # [R, 3, K + 1]
  prior = np.full(rows + 1, prior_deviation**-2)  # [K + 1]

  def height(theta):
    likely = (seen * _log_shares(design, theta)).sum((1, 2))
    return likely - (prior * theta**2).sum(-1) / 2  # [B]

  theta = np.zeros((tables, rows + 1))
  for _ in range(_STEPS):
    p = np.exp(_log_shares(design, theta))  # [B, R, 3]
    slope = np.einsum("bro,rok->bk", seen - total[..., None] * p, design)
    mean = np.einsum("bro,rok->brk", p, design)
    bend = np.einsum("br,bro,rok,rol->bkl", total, p, design, design)
    bend -= np.einsum("br,brk,brl->bkl", total, mean, mean)
    step = np.linalg.solve(
      bend + np.diag(prior), (slope - prior * theta)[..., None]
    )[..., 0]
    # Far from the maximum the parabola is no guide: 2 nats at most, and half as
    # long as a step leads down.
    step *= np.minimum(2 / np.maximum(np.abs(step).max(-1), 1e-300), 1)[:, None]
    here = height(theta)
    for _ in range(_HALVINGS):
      down = height(theta + step) < here - 1e-12 * np.abs(here)
      if not down.any():
        break
      step[down] /= 2
    theta += step
    if np.abs(step).max() < 1e-9:
      break
  scores = theta[:, :rows]
  tie = np.where(seen[..., 2].sum(-1) > 0, np.exp(theta[:, rows]), 0.0)
  return Fit(scores - scores.mean(-1, keepdims=True), tie)


def _design(i: np.ndarray, j: np.ndarray, rows: int) -> np.ndarray:
  """Returns each outcome's weights of the scores and of log nu: [R, 3, K + 1].

  The outcomes are those of `fit`; the logarithm of each one's odds is linear.
  """
  every = np.arange(len(i))
  design = np.zeros((len(i), 3, rows + 1))
  design[every, 0, i] = design[every, 1, j] = 1
  design[every, 2, i] = design[every, 2, j] = 0.5
  design[:, 2, rows] = 1
  return design


def _log_shares(design: np.ndarray, theta: np.ndarray) -> np.ndarray:
  """Returns the logarithms of the outcomes' probabilities: [B, R, 3]."""
  utility = np.einsum("rok,bk->bro", design, theta)
  utility -= utility.max(-1, keepdims=True)
  return utility - np.log(np.exp(utility).sum(-1, keepdims=True))


def probabilities(first: float, second: float, tie: float) -> np.ndarray:
  """Returns the model's chances [3]: the first wins, the second, neither."""
  odds = np.exp([first, second, (first + second) / 2])
  odds[2] *= tie
  return odds / odds.sum()
