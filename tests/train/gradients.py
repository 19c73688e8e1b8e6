"""What a step leaves: gradients kept in the state, when two are the same."""

import jax
import numpy as np
import optax

from genrec_jax.core import tree
from tests import rounding
from tests.rounding import TINY_JANUS_TERMS

# Of the norm of a whole gradient, that of what may be off: the way back is as
# long as the way to a log-probability, and guidance by 2 adds the rounding of 3
# branches.
BOUND = rounding.bound(2 * TINY_JANUS_TERMS, 3)  # 6e-5
# In front of an optimizer it keeps the gradient in the state.
KEEP = optax.trace(0.0)


def gradient(state) -> dict[str, np.ndarray]:
  """Returns what `KEEP`, the first of a chain, kept: path -> gradient."""
  return jax.device_get(tree.flatten(state.opt_state[0].trace))


def assert_same_gradient(one, two) -> None:
  """Holds what differs to float32's rounding of the whole gradient, by norm.

  Also to ten times that of the parameter's own, so that no small one is wrong
  behind large ones; not to less, for in small ones much has cancelled.
  """
  assert one.keys() == two.keys()
  norms = {path: np.linalg.norm(values) for path, values in two.items()}
  whole = np.linalg.norm(list(norms.values()))
  assert whole > 0
  for path, norm in norms.items():
    off = np.linalg.norm(np.asarray(one[path]) - np.asarray(two[path]))
    assert off <= min(BOUND * whole, 10 * BOUND * norm), (
      f"{path} is off by {off:.2g}; its norm is {norm:.2g}, of all {whole:.2g}"
    )


def assert_float32(state) -> None:
  """Holds what is trained, and what the optimizer keeps of it, to float32."""
  kept = {x.dtype.name for x in jax.tree.leaves(state.params)}
  assert kept == {"float32"}
  # Beside moments it counts steps.
  kept = {x.dtype.name for x in jax.tree.leaves(state.opt_state) if x.ndim}
  assert kept == {"float32"}
