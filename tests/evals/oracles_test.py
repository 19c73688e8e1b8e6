import itertools

import numpy as np
import pytest

from genrec_jax.data import world, world_users
from genrec_jax.evals import oracles

USERS, HISTORY = 4000, 5
# Computed apart from this code, on 4,000 users of the world's own settings.
BEST_GUESS, IDEAL_SAMPLE = 0.870, 0.727


@pytest.fixture(scope="module")
def users():
  """Returns attributes of histories [U, N, 5] and the next wants [U, 3]."""
  events = world_users.simulate(USERS, HISTORY + 1, seed=0)
  return (
    world.attributes(events.items[:, :HISTORY]),
    events.wants[:, HISTORY],
    world.attributes(events.items[:, HISTORY]),
  )


def interval(values):
  """Returns the mean and 1.96 standard errors over users."""
  return values.mean(), 1.96 * values.std() / len(values) ** 0.5


def test_best_guess_has_the_value_that_was_computed(users):
  history, wants, _ = users
  mask = np.ones(history.shape[:2], bool)
  shown = oracles.best_guess(history, mask, np.random.default_rng(0))
  mean, half = interval(world.preference_match(shown, wants))
  assert half < 0.008
  # Both values are means over 4,000 users.
  assert abs(mean - BEST_GUESS) < half * 2**0.5


def test_ideal_sample_has_the_value_that_was_computed(users):
  history, wants, _ = users
  mask = np.ones(history.shape[:2], bool)
  rng = np.random.default_rng(0)
  shown = oracles.ideal_samples(history, mask, 4, rng)
  match = world.preference_match(shown, wants[:, None].repeat(4, 1))  # [U, G]
  mean, half = interval(match.mean(1))
  assert half < 0.008
  assert abs(mean - IDEAL_SAMPLE) < half * 2**0.5


def enumerated(shown, size, fidelity, drift):
  """The same by summing over all paths of wants: [C]."""
  n = len(shown)
  total = np.zeros(size)
  for path in np.ndindex(*[size] * (n + 1)):  # the last: at the target
    p = 1 / size
    for before, after in itertools.pairwise(path):
      p *= 1 - drift if before == after else drift / (size - 1)
    for want, value in zip(path[:n], shown, strict=True):
      p *= fidelity if want == value else (1 - fidelity) / (size - 1)
    total += p * np.where(
      np.arange(size) == path[-1], fidelity, (1 - fidelity) / (size - 1)
    )
  return total / total.sum()


def test_predictive_is_the_sum_over_all_paths():
  history = np.asarray([[[0, 0, 1, 0, 0], [2, 0, 1, 0, 0], [2, 3, 3, 0, 0]]])
  mask = np.ones((1, 3), bool)
  found = oracles.predictive(history, mask, fidelity=0.8, drift=0.15)
  for column, (attribute, p) in enumerate(
    zip(world.WANTED, found, strict=True)
  ):
    assert p.shape == (1, world.COUNTS[attribute])
    expected = enumerated(
      history[0, :, column], world.COUNTS[attribute], 0.8, 0.15
    )
    np.testing.assert_allclose(p[0], expected, rtol=1e-12)


def test_an_item_that_is_padding_tells_nothing():
  history = np.random.default_rng(0).integers(3, size=(6, 4, 5))
  mask = np.tile([True, True, False, False], (6, 1))
  cut = oracles.predictive(history[:, :2], mask[:, :2], drift=0.0)
  for a, b in zip(
    oracles.predictive(history, mask, drift=0.0), cut, strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-12)


def test_predictive_says_how_often_items_follow(users):
  """Calibrated: values of probability p follow with frequency p."""
  history, _, following = users
  found = oracles.predictive(history, np.ones(history.shape[:2], bool))
  for attribute, p in zip(world.WANTED, found, strict=True):
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-12)
    hit = p[np.arange(USERS), following[:, attribute]]
    # The mean of p at what follows is that of the sum of squares of p.
    expected, half = interval((p**2).sum(-1))
    assert abs(hit.mean() - expected) < half + interval(hit)[1]


def test_no_oracle_shows_what_was_seen():
  """All but one item of a want were seen; the last one is found."""
  free = np.asarray(list(np.ndindex(6, 3)))  # backgrounds and sizes
  history = np.zeros((1, 17, 5), np.int64)
  history[0, :, 3:] = free[:17]
  mask = np.ones((1, 17), bool)
  rng = np.random.default_rng(0)
  assert oracles.best_guess(history, mask, rng).tolist() == [[0, 0, 0, 5, 2]]
  samples = oracles.ideal_samples(history, mask, 500, rng)[0]
  seen = (samples[:, None] == history[0][None]).all(-1)
  assert not seen.any()
  assert (samples[:, :3] == 0).all(-1).mean() > 0.5
  mask[0, 3] = False  # padding was not seen
  rows = [oracles.best_guess(history, mask, rng)[0] for _ in range(40)]
  assert (np.stack(rows) == history[0, 3]).all(-1).any()


def test_scores_are_of_all_items_and_best_at_the_best_guess():
  history = np.random.default_rng(1).integers(3, size=(5, 5, 5))
  mask = np.ones((5, 5), bool)
  scores = oracles.scores(history, mask)
  np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-9)
  guess = world.item_index(
    oracles.best_guess(history, mask, np.random.default_rng(0))
  )
  np.testing.assert_allclose(
    scores[np.arange(5), guess], scores.max(-1), rtol=1e-12
  )
