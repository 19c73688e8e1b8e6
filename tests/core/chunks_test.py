"""Chunks of an axis: split, mapped and joined again in the axis's order."""

import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.core import chunks

X = jnp.arange(24).reshape(2, 6, 2)


@pytest.mark.parametrize("axis", [1, -2])
@pytest.mark.parametrize("strided", [False, True])
def test_joining_undoes_splitting(axis, strided):
  parts = chunks.split_chunks(X, 3, axis=axis, strided=strided)
  assert parts.shape == (3, 2, 2, 2)
  first = X[:, ::3] if strided else X[:, :2]
  np.testing.assert_array_equal(parts[0], first)
  joined = chunks.join_chunks(parts, axis=axis, strided=strided)
  np.testing.assert_array_equal(joined, X)


@pytest.mark.parametrize("strided", [False, True])
def test_a_function_sees_one_chunk_at_a_time(strided):
  seen = []

  def total(x, tree):
    seen.append(x.shape)
    return {"sum": x + tree["bias"]}

  for parts in (1, 2, 6):
    found = chunks.map_chunks(
      total, parts, X, {"bias": 10 * X}, axis=1, strided=strided
    )
    np.testing.assert_array_equal(found["sum"], 11 * X)
  assert seen == [(2, 6, 2), (2, 3, 2), (2, 1, 2)]
