import numpy as np
import pytest

from genrec_jax.data import world
from genrec_jax.evals import held_out


@pytest.fixture
def prepared(batches, panel):
  return held_out.prepare(batches(known=True), panel, 4)


def test_prepare_fills_the_last_batch(prepared):
  assert [held.count for held in prepared] == [4, 4, 2]
  for held in prepared:
    assert held.batch.future.shape[0] == 4
    assert held.targets["eye"].history.shape[:2] == (4, 5)
    assert held.truth.wants.shape == (4, 3)
    assert len(held.names) == held.count
  np.testing.assert_array_equal(
    prepared[-1].batch.future[2], prepared[-1].batch.future[0]
  )


def test_prepare_fills_a_first_batch_that_is_short(batches, panel):
  (held,) = held_out.prepare(list(batches(known=True))[-1:], panel, 8)
  assert held.count == 2
  assert held.batch.future.shape[0] == 8


def test_prepare_reads_the_attributes_of_the_history(prepared):
  images = world.render(prepared[0].truth.history)
  np.testing.assert_array_equal(images, prepared[0].batch.prompt.images)


def test_prepare_claims_no_truth_it_was_not_given(batches, panel):
  for held in held_out.prepare(batches(known=False), panel, 4):
    assert held.truth is None
    assert held_out.read_attributes(held, held.batch.history) is None


def test_prepare_knows_items_by_their_numbers(prepared):
  for held in prepared:
    assert len(held.rows.target) == len(held.rows.seen) == held.count
    for i, history in enumerate(held.rows.history):
      shown = held.batch.history[i][held.batch.history_mask[i]]
      np.testing.assert_array_equal(
        world.render(world.attributes(history)), shown
      )
    np.testing.assert_array_equal(
      world.render(world.attributes(held.rows.target)),
      held.batch.future[: held.count, 0],
    )
