import numpy as np
import pytest

from genrec_jax.evals import grid as grid_lib
from genrec_jax.evals import held_out


@pytest.fixture
def prepared(batches, panel):
  return held_out.prepare(batches(known=True), panel, 4)


def test_grid_has_a_row_per_user(prepared):
  samples = np.zeros((5, 2, 32, 32, 3), np.uint8)
  grid = grid_lib.grid(prepared, samples)
  assert grid.dtype == np.uint8
  assert grid.shape[0] == 5 * 32 + 4 * 2
  # 5 of the history, 2 samples, 1 real; 2 px after each, 4 more between parts.
  assert grid.shape[1] == 8 * 32 + 7 * 2 + 2 * 4
  first = prepared[0].batch
  np.testing.assert_array_equal(grid[:32, :32], first.history[0, 0])
  np.testing.assert_array_equal(grid[:32, -32:], first.future[0, 0])
  # The first user's history has three items: what follows is light, not black.
  missing = grid[:32, 3 * 34 : 5 * 34 - 2]
  assert missing.min() > 200
  assert prepared[0].batch.prompt.images[0, 3].min() < 200
  last = prepared[1].batch  # the fifth user
  np.testing.assert_array_equal(grid[-32:, -32:], last.future[0, 0])
