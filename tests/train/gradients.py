"""Gradients that an optimizer kept in its state, and when two are the same."""

import jax
import numpy as np
import optax

from genrec_jax.core import tree

# In front of an optimizer it keeps the gradient in the state.
KEEP = optax.trace(0.0)


def gradient(state) -> dict[str, np.ndarray]:
  """Returns what `KEEP`, the first of a chain, kept: path -> gradient."""
  return jax.device_get(tree.flatten(state.opt_state[0].trace))


def assert_same_gradient(one, two) -> None:
  """Holds entries to 1e-5, or to 1e-5 of the largest if that exceeds 1."""
  largest = max(1, *(np.abs(values).max() for values in two.values()))
  for path, values in one.items():
    np.testing.assert_allclose(
      values, two[path], rtol=0, atol=1e-5 * largest, err_msg=path
    )
