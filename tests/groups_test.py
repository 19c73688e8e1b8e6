"""Statistics within a group by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import groups


def test_statistics_by_hand():
  rewards = jnp.asarray([[1.0, 2.0, 6.0], [0.5, 0.5, 0.5]])
  np.testing.assert_allclose(
    groups.subtract_group_mean(rewards), [[-2, -1, 3], [0, 0, 0]]
  )
  np.testing.assert_allclose(
    groups.deviation(rewards), [[np.sqrt(14 / 3)], [0]], rtol=1e-6
  )
  np.testing.assert_array_equal(groups.zero_spread(rewards), [False, True])


def test_a_group_that_holds_nan_is_not_one_of_no_spread():
  rewards = jnp.asarray([[jnp.nan, 1.0], [jnp.inf, jnp.inf]])
  np.testing.assert_array_equal(groups.zero_spread(rewards), [False, False])
  assert not np.isfinite(groups.subtract_group_mean(rewards)).any()


@pytest.mark.parametrize("narrow", ["bfloat16", "float16", "int32"])
def test_narrow_types_are_widened_and_wide_ones_kept(narrow):
  values = jnp.ones((1, 2), narrow)
  assert groups.at_least_float32(values).dtype == jnp.float32
  assert groups.at_least_float32(jnp.ones(2)).dtype == jnp.float32
  assert groups.deviation(values).dtype == jnp.float32


def test_a_mean_of_tokens_is_of_each_sample_s_own():
  values = jnp.asarray([[[1.0, 3.0, 5.0], [8.0, 9.0, 9.0]]])
  mask = jnp.asarray([[[True, True, False], [True, False, False]]])
  assert groups.mean_of_tokens(values, mask) == 5  # of 2 and 8
  assert groups.mean_of_tokens(values) == 35 / 6
