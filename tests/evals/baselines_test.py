import dataclasses

import numpy as np
import pytest

from genrec_jax import rows
from genrec_jax.evals import baselines, held_out


@pytest.fixture
def prepared(batches, judge):
  return held_out.prepare(batches(known=True), judge.embed_targets, 4)


def test_copy_last_takes_the_newest_real_item(batches):
  batch, _ = next(batches(known=True))
  found = baselines.copy_last(batch)
  np.testing.assert_array_equal(found[0], batch.history[0, 2])
  np.testing.assert_array_equal(found[1:], batch.history[1:, -1])


def test_last_index_of_nothing_is_the_first():
  mask = np.asarray([[False, False], [True, False], [False, True]])
  np.testing.assert_array_equal(baselines.last_index(mask), [0, 0, 1])


def test_real_next_item(batches):
  batch, _ = next(batches(known=True))
  found = baselines.real_next_item(batch)
  np.testing.assert_array_equal(found, batch.future[:, 0])


def test_random_items_are_seeded_and_spread_over_the_catalogue():
  catalogue = [np.full((2, 2, 3), i, np.uint8) for i in range(50)]
  found = baselines.random_items(catalogue, 40, 5, seed=0)
  assert found.shape == (40, 5, 2, 2, 3)
  again = baselines.random_items(catalogue, 40, 5, seed=0)
  np.testing.assert_array_equal(found, again)
  assert len(np.unique(found)) > 40


def test_baselines(prepared, judge, catalogue):
  found = baselines.score_all(
    judge,
    prepared,
    catalogue,
    num_samples=4,
    seed=0,
    reconstruct=lambda images: 255 - images,
  )
  assert list(found) == list(rows.BASELINES)
  np.testing.assert_allclose(
    found["vq_ceiling"]["text_clip"], -1, atol=1e-5
  )  # the test's CLIP takes a negative to the other side
  means = {
    row: {name: values.mean() for name, values in metrics.items()}
    for row, metrics in found.items()
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


def test_batches_have_random_items_of_their_own(
  prepared, judge, catalogue, monkeypatch
):
  seeds = []
  sample = baselines.random_items

  def random_items(*args, seed):
    seeds.append(seed)
    return sample(*args, seed=seed)

  monkeypatch.setattr(baselines, "random_items", random_items)
  baselines.score_all(judge, prepared, catalogue, num_samples=4, seed=7)
  assert seeds == [7, 8, 9]


def test_copy_last_is_undefined_without_a_history(prepared, judge, catalogue):
  held = prepared[0]
  mask = held.batch.history_mask.copy()
  mask[1] = False
  held = dataclasses.replace(
    held,
    batch=held.batch.replace(history_mask=mask),
    targets=held.targets.replace(history_mask=mask),
  )
  found = baselines.score_all(
    judge,
    [held],
    catalogue,
    num_samples=4,
    seed=0,
  )
  for name in ("text_clip", "preference_match", "copy_rate"):
    assert np.isnan(found["copy_last"][name][1]), name
    assert not np.isnan(found["copy_last"][name][0]), name
  assert not np.isnan(found["real_next_item"]["text_clip"]).any()
