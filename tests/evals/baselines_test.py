import numpy as np
import pytest

from genrec_jax.data import world
from genrec_jax.evals import baselines, held_out
from genrec_jax.evals.held_out import Rows


@pytest.fixture
def prepared(batches, panel):
  return held_out.prepare(batches(known=True), panel, 4)


def rows(users):
  return Rows(
    history=tuple(
      np.asarray([10 + u, 20 + u][: 1 + u % 2]) for u in range(users)
    ),
    seen=tuple(np.asarray([10 + u]) for u in range(users)),
    target=np.arange(users) + 30,
  )


def test_items_of_baselines():
  found = baselines.items(rows(4), 50, num_samples=3, seed=0)
  assert found["real_next_item"].tolist() == [[30], [31], [32], [33]]
  # The newest of one or two.
  assert found["copy_last"].tolist() == [[10], [21], [12], [23]]
  assert found["random_item"].shape == (4, 3)


def test_random_items_are_seeded_and_spread_over_the_catalogue():
  def random(seed):
    found = baselines.items(rows(40), 50, num_samples=5, seed=seed)
    return found["random_item"]

  np.testing.assert_array_equal(random(0), random(0))
  assert (random(0) != random(1)).any()
  assert len(np.unique(random(0))) > 40
  assert random(0).min() >= 0
  assert random(0).max() < 50


def test_rows_show_the_items_that_they_say(evaluator):
  found = evaluator.compare([("sft", 0.5)])
  means = {
    row: {name: np.mean(values) for name, values in metrics.items()}
    for row, metrics in found.scores.items()
  }
  assert means["real_next_item"]["text_clip"] == pytest.approx(1)
  assert means["real_next_item"]["copy_rate"] == 0
  assert means["copy_last"]["copy_rate"] == 1
  assert means["copy_last"]["history_clip_max"] == pytest.approx(1)
  chance = np.mean([1 / 5, 1 / 8, 1 / 4])
  assert means["random_item"]["preference_match"] == pytest.approx(
    chance, abs=0.12
  )
  assert means["real_next_item"]["preference_match"] > 0.7
  for metrics in means.values():
    assert 0 < metrics["diversity"] < 2


def test_the_ceiling_is_of_every_user_in_codes(prepared, panel):
  done = []
  found = baselines.vq_ceiling(
    panel,
    prepared,
    lambda images: 255 - images,
    num_samples=2,
    done=done.append,
  )
  assert done == [4, 4, 2]
  assert found.attributes.shape == (10, 1, 5)
  # The test's encoders take a negative to the other side.
  for name, embeds in found.embeds.items():
    real = held_out.join(prepared).targets[name].future[:, :1]
    np.testing.assert_allclose(embeds, -real, atol=1e-5)
  batch = prepared[1].batch
  negative = world.read(255 - batch.future[:, 0])
  np.testing.assert_array_equal(found.attributes[4:8, 0], negative)
