"""What the world allows: the report's scores of items by hand, and repeats."""

import numpy as np
import pytest

from benchmarks import allowed
from configs import common
from genrec_jax.core.errors import UserError
from genrec_jax.data import world, world_users
from genrec_jax.evals import oracles

WANTS = (1, 2, 3)
# Shape, colour, texture, background, size.
HISTORY = ((1, 2, 3, 0, 0), (0, 0, 0, 1, 1)) + ((4, 7, 0, 5, 2),) * 3
FUTURE = ((1, 2, 3, 4, 0), (1, 2, 0, 4, 0), (0, 2, 3, 0, 1))


@pytest.fixture
def user():
  """Returns one user of the items above."""
  return allowed.Users(
    world.item_index([HISTORY]),
    world.item_index([FUTURE]),
    np.asarray([WANTS]),
  )


def test_scores_by_hand(user):
  shown = np.asarray([[HISTORY[0], (1, 2, 0, 4, 1)]])
  # Three directions, by size: a sample's cosine is 1 with items of its size.
  embeds = np.eye(3)[world.attributes(np.arange(world.NUM_ITEMS))[:, 4]]
  found = allowed.scored(user, shown, {"clip": embeds, "judge": embeds})
  expected = {
    "preference_match": (3 / 3 + 2 / 3) / 2,
    "copy_rate": 1 / 2,
    # Attributes in common with the three: 4, 3, 3 of the copy, 3, 4, 2.
    "future_match": (10 / 15 + 9 / 15) / 2,
    "future_clip_mean": (2 / 3 + 1 / 3) / 2,
    "diversity": 1,
    "diversity_judge": 1,
  }
  assert {name: found[name].tolist() for name in expected} == {
    name: [pytest.approx(value)] for name, value in expected.items()
  }


def test_sharper_is_to_a_power():
  found = oracles.sharpened(np.asarray([[0.8, 0.2], [0.5, 0.5]]), 2)
  np.testing.assert_allclose(found, [[16 / 17, 1 / 17], [0.5, 0.5]])


def test_repeats_are_as_frequent_as_chance_of_a_model_that_does_not_know(user):
  """A user of one want, who has had 5 of its 18 items."""
  history = np.zeros((1, 5, 5), np.int64)
  history[0, :, 3] = range(5)
  users = user._replace(items=world.item_index(history))
  mask, number = np.ones((1, 5), bool), 20_000
  for power in (1, 3):
    likely = np.prod(
      [oracles.sharpened(p, power)[0, 0] for p in allowed.posterior(users)]
    )
    rng = np.random.default_rng(0)
    shown = oracles.ideal_samples(
      history, mask, number, rng, power=power, repeats=True
    )
    found = allowed.scored(users, shown, {})["copy_rate"][0]
    expected = likely * 5 / 18
    assert abs(found - expected) < 4 * (expected / number) ** 0.5
    known = oracles.ideal_samples(history, mask, number, rng, power=power)
    assert allowed.scored(users, known, {})["copy_rate"][0] == 0
    # The wants are those of the posterior either way.
    wanted = (known[0, :, :3] == 0).all(-1).mean()
    assert abs(wanted - likely) < 4 * (likely / number) ** 0.5


def test_users_are_those_of_evaluation(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  data = common.base("evaluate", "debug").data
  found = allowed.held_out(data, 8)
  total = data.num_users + data.held_out
  events = world_users.simulate(total, data.num_events, data.seed)
  for i, user in enumerate(range(data.num_users, total, 2)):
    items = events.items[user]
    order = np.lexsort((items, events.timestamps[user]))  # ties by item
    assert found.items[i].tolist() == items[order[16:21]].tolist()
    assert found.future[i].tolist() == items[order[21:]].tolist()
    assert found.following[i] == items[order[21]]
    assert found.wants[i].tolist() == events.wants[user, order[21]].tolist()
  assert len(found.items) == 8
  data.path = "data/movies"
  with pytest.raises(UserError, match=r"data\.path='data/movies'.*synthetic"):
    allowed.held_out(data, 8)


def test_a_table_has_differences_to_copying():
  rows = {
    "copy_last": {c: np.asarray([0.5, 0.7]) for c in allowed.COLUMNS},
    "other": {c: np.asarray([0.6, 0.8]) for c in allowed.COLUMNS},
  }
  rows["copy_last"]["diversity"] = np.full(2, np.nan)
  lines = allowed.table(rows).splitlines()
  assert lines[0].startswith("| | `preference_match` | `copy_rate` |")
  assert lines[0].endswith("| `future_match` - copy_last |")
  cells = " | ".join(["0.600"] * 4)
  assert lines[2] == f"| copy_last | {cells} |  | 0.600 |  |"
  assert lines[3].endswith("| 0.700 | +0.100 [+0.100, +0.100] |")
