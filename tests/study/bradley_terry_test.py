import evalica
import numpy as np
import pytest
from scipy import optimize

from genrec_jax.study import bradley_terry


def tables(scores, tie, each=1000):
  """Returns the wins and ties that the model expects of pairs of rows."""
  rows = len(scores)
  wins, ties = np.zeros((rows, rows)), np.zeros((rows, rows))
  for i in range(rows):
    for j in range(i + 1, rows):
      p = bradley_terry.probabilities(scores[i], scores[j], tie)
      wins[i, j], wins[j, i] = each * p[0], each * p[1]
      ties[i, j] = ties[j, i] = each * p[2]
  return wins, ties


def fit(wins, ties, **kwargs):
  found = bradley_terry.fit(wins[None], ties[None], **kwargs)
  return found.scores[0], found.tie[0]


def test_two_rows_by_hand():
  # 30 wins to 10: the odds are 3, the scores are ln 3 apart.
  scores, tie = fit(np.asarray([[0, 30.0], [10, 0]]), np.zeros((2, 2)))
  np.testing.assert_allclose(scores, [np.log(3) / 2, -np.log(3) / 2], atol=2e-3)
  assert tie == 0


def test_ties_of_two_rows_by_hand():
  # nu is ties over the geometric mean of wins and losses: 20 / sqrt(20 x 20).
  ties = np.asarray([[0, 20.0], [20, 0]])
  scores, tie = fit(np.asarray([[0, 20.0], [20, 0]]), ties)
  np.testing.assert_allclose(scores, 0, atol=1e-9)
  assert tie == pytest.approx(1, abs=1e-3)


def test_what_the_model_expects_gives_the_scores_it_came_from():
  given = np.asarray([0.9, 0.2, -0.3, -0.8])
  scores, tie = fit(*tables(given, 0.4))
  np.testing.assert_allclose(scores, given, atol=1e-4)
  assert tie == pytest.approx(0.4, abs=1e-3)


def evalicas(solve, wins, ties):
  """Returns evalica's result from the same tables of whole numbers."""
  xs, ys, winners = [], [], []
  for i in range(len(wins)):
    for j in range(i + 1, len(wins)):
      for count, winner in (
        (wins[i, j], evalica.Winner.X),
        (wins[j, i], evalica.Winner.Y),
        (ties[i, j], evalica.Winner.Draw),
      ):
        xs += [f"{i}"] * int(count)
        ys += [f"{j}"] * int(count)
        winners += [winner] * int(count)
  return solve(xs, ys, winners, tolerance=1e-12, limit=100_000)


@pytest.mark.parametrize("seed", range(4))
def test_with_ties_it_is_newmans_as_evalica_has_it(seed):
  rng = np.random.default_rng(seed)
  wins = rng.integers(3, 40, (4, 4))
  ties = np.triu(rng.integers(1, 20, (4, 4)), 1)
  ties = ties + ties.T
  theirs = evalicas(evalica.newman, wins, ties)
  logs = np.log([theirs.scores[f"{i}"] for i in range(4)])
  scores, tie = fit(wins, ties, prior_deviation=1e3)
  np.testing.assert_allclose(scores, logs - logs.mean(), atol=1e-5)
  # Newman writes 2 v for Davidson's nu.
  assert tie == pytest.approx(2 * theirs.v, rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_without_ties_it_is_bradley_terry_as_evalica_has_it(seed):
  wins = np.random.default_rng(seed).integers(3, 40, (5, 5))
  theirs = evalicas(evalica.bradley_terry, wins, np.zeros((5, 5)))
  logs = np.log([theirs.scores[f"{i}"] for i in range(5)])
  scores, _ = fit(wins, np.zeros((5, 5)), prior_deviation=1e3)
  np.testing.assert_allclose(scores, logs - logs.mean(), atol=1e-5)


def test_it_is_the_highest_of_likelihood_and_prior():
  rng = np.random.default_rng(5)
  wins = rng.integers(0, 5, (3, 3)) * (1 - np.eye(3))
  ties = np.ones((3, 3)) - np.eye(3)

  def loss(theta):  # three scores and log nu, each normal with deviation .7
    total = (theta**2).sum() / (2 * 0.7**2)
    for i, j in ((0, 1), (0, 2), (1, 2)):
      p = bradley_terry.probabilities(theta[i], theta[j], np.exp(theta[3]))
      total -= np.log(p) @ [wins[i, j], wins[j, i], ties[i, j]]
    return total

  best = optimize.minimize(loss, np.zeros(4), tol=1e-8).x
  scores, tie = fit(wins, ties, prior_deviation=0.7)
  np.testing.assert_allclose(scores, best[:3], atol=1e-5)
  assert tie == pytest.approx(np.exp(best[3]), abs=1e-5)


def test_few_steps_of_newton_are_enough(monkeypatch):
  rng = np.random.default_rng(2)
  wins = rng.integers(1, 30, (8, 4, 4)).astype(float)
  ties = np.ones_like(wins)
  many = bradley_terry.fit(wins, ties)
  monkeypatch.setattr(bradley_terry, "_STEPS", 7)
  few = bradley_terry.fit(wins, ties)
  np.testing.assert_allclose(few.scores, many.scores, atol=1e-9)
  np.testing.assert_allclose(few.tie, many.tie, atol=1e-9)


def test_a_row_that_always_wins_has_a_score():
  scores, _ = fit(np.asarray([[0, 50.0], [0, 0]]), np.zeros((2, 2)))
  assert np.isfinite(scores).all()
  assert scores[0] > 2


def test_tables_do_not_depend_on_those_beside_them():
  rng = np.random.default_rng(1)
  wins = rng.integers(0, 30, (6, 4, 4)).astype(float)
  wins[2] = 0  # a resample without any vote
  wins[3, 0] = 500  # and one far from the others
  ties = np.zeros_like(wins)
  together = bradley_terry.fit(wins, ties).scores
  alone = [fit(*pair)[0] for pair in zip(wins, ties, strict=True)]
  np.testing.assert_allclose(together, np.stack(alone), atol=1e-6)
  np.testing.assert_allclose(together[2], 0, atol=1e-9)
