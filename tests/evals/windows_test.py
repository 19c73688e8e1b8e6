import numpy as np
import pytest

from genrec_jax.data import world
from genrec_jax.evals import windows


@pytest.fixture
def prepared(batches, embed):
  return windows.prepare(batches(known=True), embed.targets, 4)


def test_prepare_fills_the_last_batch(prepared):
  assert [window.count for window in prepared] == [4, 4, 2]
  for window in prepared:
    assert window.batch.future.shape[0] == 4
    assert window.targets.history.shape[:2] == (4, 5)
    assert window.wants.shape == (4, 3)
    assert len(window.names) == window.count
  np.testing.assert_array_equal(
    prepared[-1].batch.future[2], prepared[-1].batch.future[0]
  )


def test_prepare_fills_a_first_batch_that_is_short(batches, embed):
  (window,) = windows.prepare(list(batches(known=True))[-1:], embed.targets, 8)
  assert window.count == 2
  assert window.batch.future.shape[0] == 8


def test_prepare_reads_the_attributes_of_the_history(prepared):
  images = world.render(prepared[0].attributes)
  np.testing.assert_array_equal(images, prepared[0].batch.prompt.images)


def test_prepare_claims_no_truth_it_was_not_given(batches, embed):
  for window in windows.prepare(batches(known=False), embed.targets, 4):
    assert window.wants is None
    assert window.attributes is None


def test_shuffled_prompts_are_a_derangement_and_stay_whole(prepared):
  shuffled = windows.shuffled_prompts(prepared, seed=0)
  own, other = [], []
  for window, prompt in zip(prepared, shuffled, strict=True):
    assert prompt.ids.shape == window.batch.prompt.ids.shape
    own += window.batch.prompt.ids[: window.count, 0].tolist()
    other += prompt.ids[: window.count, 0].tolist()
  assert sorted(other) == sorted(own) == list(range(10))
  assert all(a != b for a, b in zip(own, other, strict=True))
  # Ids and images of a prompt move together.
  images = np.concatenate([w.batch.prompt.images[: w.count] for w in prepared])
  moved = np.concatenate(
    [p.images[: w.count] for w, p in zip(prepared, shuffled, strict=True)]
  )
  np.testing.assert_array_equal(moved, images[other])
  again = windows.shuffled_prompts(prepared, seed=0)
  np.testing.assert_array_equal(again[0].ids, shuffled[0].ids)


def test_shuffling_needs_two_users(prepared):
  lonely = [prepared[0]._replace(count=1)]
  with pytest.raises(ValueError, match="two or more"):
    windows.shuffled_prompts(lonely, seed=0)


def test_grid_has_a_row_per_user(prepared):
  samples = np.zeros((5, 2, 32, 32, 3), np.uint8)
  grid = windows.grid(prepared, samples)
  assert grid.dtype == np.uint8
  assert grid.shape[0] == 5 * 32 + 4 * 2
  # 5 of the history, 2 samples, 1 real; 2 px after each, 4 more between parts.
  assert grid.shape[1] == 8 * 32 + 7 * 2 + 2 * 4
  first = prepared[0].batch
  np.testing.assert_array_equal(grid[:32, :32], first.prompt.images[0, 0])
  np.testing.assert_array_equal(grid[:32, -32:], first.future[0, 0])
  last = prepared[1].batch  # the fifth user
  np.testing.assert_array_equal(grid[-32:, -32:], last.future[0, 0])
