"""The two branches of guidance as rows of one batch."""

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax.sampling import guidance


def test_branches_are_interleaved_and_separated():
  one, other = jnp.arange(6).reshape(3, 2), 10 + jnp.arange(6).reshape(3, 2)
  rows = guidance.interleave(one, other)
  # A prompt's two rows are neighbours, so they stay on the prompt's device.
  np.testing.assert_array_equal(
    rows, [[0, 1], [10, 11], [2, 3], [12, 13], [4, 5], [14, 15]]
  )
  jax.tree.map(
    np.testing.assert_array_equal, guidance.separate(rows), (one, other)
  )


def test_guidance_moves_away_from_the_unconditional_branch():
  conditional, unconditional = jnp.asarray([2.0, 0.0]), jnp.asarray([1.0, 1.0])
  np.testing.assert_array_equal(
    guidance.guide(conditional, unconditional, 3.0), [4.0, -2.0]
  )
