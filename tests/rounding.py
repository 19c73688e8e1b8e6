"""How far apart float32 may leave two computations of one quantity.

The order in which a sum is added differs between processors, numbers of
threads, devices and libraries, and so does whether a product is rounded before
it is added. What a difference may be follows from the sums, not from what one
machine happens to give.
"""

import jax
import numpy as np

# Ten standard deviations: each of n roundings is off by up to eps / 2 either
# way, evenly, so n of them by sqrt(n / 12) eps, and each side has its own.
# (Higham and Mary, "A new approach to probabilistic rounding error analysis",
# 2019, prove bounds of this form.) Products in TF32 or bfloat16, the next worse
# arithmetic, are off by 2**-11 and more: by 4,000 eps.
_SAFETY = 4.0
# Roundings one after the other on the longest way to a code's log-probability
# in `tiny_janus`, see `bound`: the lengths of the sums over a patch,
# in SigLIP's layer and the aligner, in two layers of the language model with
# their norms, in the head and the softmax.
TINY_JANUS_TERMS = (
  192 + 84 + 40 + 2 * (24 + 10 + 21 + 60 + 24 + 40) + 5 * 24 + 48 + 16
)


def bound(terms: int, scale: float) -> float:
  """Returns how far apart two float32 computations of one value may be.

  Args:
    terms: roundings one after the other on the longest way to the value: the
      lengths of the sums that it passes, added up.
    scale: magnitude of the largest number on the way. It is more than that of
      the value where large numbers cancel.
  """
  return _SAFETY * np.sqrt(terms) * np.finfo(np.float32).eps * scale


def score_bound(
  logprobs, guidance: float = 1.0, terms: int = TINY_JANUS_TERMS
) -> float:
  """Returns how far apart two computations of log-probabilities may be.

  Guidance takes w of one branch less w - 1 of the other, which cancel: of their
  rounding it adds 2 w - 1. Logits are taken to be as large as what they give.
  """
  size = max(1.0, float(np.abs(logprobs).max()))
  return bound(terms, (2 * guidance - 1) * size)


def assert_close(found, expected, *, terms, scale=None, err_msg=""):
  """Asserts that two trees of float32 arrays are equal but for rounding.

  Args:
    found: a tree of arrays.
    expected: one of the same structure, of float32 or better.
    terms: see `bound`.
    scale: see `bound`; the largest magnitude in each expected array if None.
    err_msg: printed with a difference.
  """
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for one, other in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    one, other = (np.asarray(x, np.float64) for x in (one, other))
    size = np.abs(other).max(initial=0) if scale is None else scale
    np.testing.assert_allclose(
      one, other, rtol=0, atol=bound(terms, size), err_msg=err_msg
    )
