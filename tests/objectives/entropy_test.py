"""The entropy bonus by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax.objectives import entropy

# Prompts of 0.5 and 2 nats on average, over G = 1 and I = 2.
GIVEN = jnp.array([[[0.2, 0.8]], [[3.0, 1.0]]])


def test_it_is_what_each_prompt_lacks():
  np.testing.assert_allclose(entropy.shortfall(GIVEN, 1.5), (1 + 0) / 2)
  np.testing.assert_allclose(entropy.shortfall(GIVEN, 3.0), (2.5 + 1) / 2)
  assert entropy.shortfall(GIVEN, 0.4) == 0


def test_only_prompts_that_lack_some_are_pulled_up():
  slopes = jax.grad(entropy.shortfall)(GIVEN, 1.5)
  np.testing.assert_allclose(slopes, [[[-0.25, -0.25]], [[0, 0]]])


def test_prompts_add_up():
  parts = [entropy.shortfall(GIVEN[p : p + 1], 1.5) for p in range(2)]
  np.testing.assert_allclose(np.mean(parts), entropy.shortfall(GIVEN, 1.5))
