import numpy as np
import pytest

from genrec_jax.data import world, world_users


def test_simulation_has_the_asked_statistics():
  events = world_users.simulate(2000, 24, seed=1)
  attrs = world.attributes(events.items)
  met = attrs[..., :3] == events.wants
  np.testing.assert_allclose(met.mean((0, 1)), 0.9, atol=0.01)
  switched = events.wants[:, 1:] != events.wants[:, :-1]
  np.testing.assert_allclose(switched.mean((0, 1)), 0.06, atol=0.006)
  for a, count in ((3, 6), (4, 3)):
    share = np.bincount(attrs[..., a].ravel()) / attrs[..., a].size
    np.testing.assert_allclose(share, 1 / count, atol=0.01)
  # Off the want, the other values come equally often.
  off = attrs[..., 0] - events.wants[..., 0]
  share = np.bincount(off[~met[..., 0]] % 5, minlength=5) / (~met[..., 0]).sum()
  np.testing.assert_allclose(share, [0, 0.25, 0.25, 0.25, 0.25], atol=0.02)


def test_timestamps_never_decrease_and_sometimes_tie():
  gaps = np.diff(world_users.simulate(500, 24, seed=2).timestamps)
  assert gaps.min() == 0
  assert 0.15 < np.mean(gaps == 0) < 0.25


def test_no_user_gets_an_item_twice():
  for fidelity, drift, number in ((0.85, 0.08, 24), (1.0, 0.0, 40)):
    items = world_users.simulate(
      300, number, seed=3, fidelity=fidelity, drift=drift
    ).items
    assert all(len(set(row)) == number for row in items.tolist())
  with pytest.raises(ValueError, match="at most 2880"):
    world_users.simulate(1, 2881, seed=0)


def test_recent_history_says_more_than_the_average():
  events = world_users.simulate(2000, 24, seed=4)
  attrs = world.attributes(events.items)
  now = events.wants[:, -1]
  last = world.preference_match(attrs[:, -2], now).mean()
  first = world.preference_match(attrs[:, 0], now).mean()
  assert last > 0.75
  assert first < 0.4


def test_the_same_seed_gives_the_same_users():
  for a, b in zip(
    world_users.simulate(9, 5, seed=5),
    world_users.simulate(9, 5, seed=5),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)
  other = world_users.simulate(9, 5, seed=6).items
  assert np.any(other != world_users.simulate(9, 5, seed=5).items)
