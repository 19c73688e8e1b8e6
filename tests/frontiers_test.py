"""The most that a frontier leaves: mixtures whose best is known."""

import numpy as np
import pytest

from benchmarks import allowed, frontiers
from genrec_jax.data import world
from genrec_jax.evals import oracles


@pytest.fixture(scope="module")
def users():
  return allowed.simulate(30)


@pytest.fixture(scope="module")
def middle():
  """Returns centres of an encoder that has a direction for each want."""
  attrs = world.attributes(np.arange(world.NUM_ITEMS))
  embeds = [np.eye(world.COUNTS[a])[attrs[:, a]] / 3**0.5 for a in world.WANTED]
  return frontiers.centres(np.hstack(embeds))


def test_a_centre_is_the_mean_of_a_want():
  found = frontiers.centres(np.eye(world.NUM_ITEMS))
  assert found.shape == (160, world.NUM_ITEMS)
  np.testing.assert_allclose(found.max(1), 1 / 18)
  np.testing.assert_allclose(found.sum(1), 1)
  attrs = world.attributes(np.flatnonzero(found[7]))[:, world.WANTED]
  assert (attrs == frontiers.COMBINATIONS[7]).all()


def test_a_mixture_is_the_posterior(users):
  found = frontiers.mixture(users, 1)
  np.testing.assert_allclose(found.sum(1), 1)
  likely = oracles.scores(*allowed.known(users))  # [U, items]
  items = world.attributes(np.arange(world.NUM_ITEMS))[:, world.WANTED]
  same = (items == frontiers.COMBINATIONS[7]).all(-1)
  np.testing.assert_allclose(found[:, 7], likely[:, same].sum(1))


def test_what_is_hoped_for_is_what_is_met():
  users = allowed.simulate(4000)
  for power in (1, 3):
    q = frontiers.mixture(users, power)
    met = frontiers.place(q, users, np.zeros((160, 1)))[1]
    assert met == pytest.approx(allowed.sampled_match(users, power))
    assert (q * frontiers.hopes(users)).sum(1).mean() == pytest.approx(
      met, abs=0.01
    )


def test_a_place_by_hand(users, middle):
  """Of two alike and one that has two wants of three in common with them."""
  wants = frontiers.COMBINATIONS[0]  # 0, 0, 0
  assert frontiers.COMBINATIONS[1].tolist() == [0, 0, 1]
  q = np.zeros((1, 160))
  q[0, :2] = 2 / 3, 1 / 3
  one = allowed.Users(users.items[:1], users.future[:1], wants[None])
  diversity, match = frontiers.place(q, one, middle)
  # A pair differs in 4 of 9 cases, and then has a cosine of 2 / 3.
  assert diversity == pytest.approx(4 / 9 * (1 - 2 / 3))
  assert match == pytest.approx(2 / 3 + 1 / 3 * 2 / 3)


def test_the_nearest_mixture_by_hand():
  found = frontiers.onto_simplex(
    np.asarray([[0.5, 0.5], [0.9, 0.5], [2, 0.5], [0.2, 0.4]])
  )
  np.testing.assert_allclose(
    found, [[0.5, 0.5], [0.7, 0.3], [1, 0], [0.4, 0.6]]
  )


def test_the_best_of_two_by_hand():
  """0.6 q + 0.2 (1 - q) - 0.5 (q^2 + (1 - q)^2) is most at 0.7."""
  hoped = np.asarray([[0.6, 0.2], [0.2, 0.6]])
  found = frontiers.best(np.full((2, 2), 0.5), hoped, np.eye(2), 0.5)
  np.testing.assert_allclose(found, [[0.7, 0.3], [0.3, 0.7]], atol=0.01)


def test_no_power_is_above_the_best(users, middle):
  hoped, similar = frontiers.hopes(users), middle @ middle.T

  def value(q):
    return ((q * hoped).sum(1) - 0.5 * (q @ similar * q).sum(1)).mean()

  best = value(
    frontiers.best(frontiers.mixture(users, 1.5), hoped, similar, 0.5)
  )
  powers = [value(frontiers.mixture(users, p)) for p in frontiers.POWERS]
  assert best > max(powers)


def test_a_table_is_read_between_points_and_not_beyond():
  lines = frontiers.table(
    {
      "rl": [(0.4, 0.8), (0.5, 0.7)],
      "posterior": [(0.3, 1.0), (0.5, 0.8)],
      "most": [(0.45, 0.9), (0.6, 0.6)],
    }
  ).splitlines()
  assert lines == [
    "| diversity | rl | posterior | most |",
    "|---|---|---|---|",
    "| 0.400 | 0.800 | 0.900 |  |",
    "| 0.500 | 0.700 | 0.800 | 0.800 |",
  ]
