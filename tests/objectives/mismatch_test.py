"""The sampler's mismatch by hand, of images and of titles of any length."""

import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.objectives import Objective, mismatch

SCORED = jnp.asarray([[[-1.0, -2.0, 0.0], [-3.0, 0.0, 0.0]]])
SAMPLED = jnp.asarray([[[-1.5, -2.1, 0.0], [-3.0, 0.0, 0.0]]])
MASK = jnp.asarray([[[True, True, False], [True, False, False]]])


@pytest.mark.parametrize(
  ("ratio", "mask", "mean", "outside"),
  [
    ("token", None, 0.1, 1 / 6),
    ("token", MASK, 0.15, 1 / 4),
    # exp(.6 / 3) = 1.22 and exp(.6 / 2) = 1.35, of one sample of two.
    ("sequence", None, 0.1, 0),
    ("sequence", MASK, 0.15, 1 / 2),
  ],
)
def test_it_is_of_the_tokens_that_count(ratio, mask, mean, outside):
  objective = Objective(
    ratio=ratio,
    clip_low=0.2,
    clip_high=0.28,
    kl="k3",
    kl_weight=0.0,
    aggregation="token",
  )
  found = mismatch.sampler_mismatch(objective, SCORED, SAMPLED, mask)
  assert found.keys() == {
    f"sampler_mismatch_{name}" for name in ("mean", "max", "outside")
  }
  np.testing.assert_allclose(found["sampler_mismatch_mean"], mean, rtol=1e-5)
  np.testing.assert_allclose(found["sampler_mismatch_max"], 0.5, rtol=1e-5)
  np.testing.assert_allclose(
    found["sampler_mismatch_outside"], outside, rtol=1e-5
  )
