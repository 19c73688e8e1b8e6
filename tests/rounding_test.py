"""The bound on rounding holds for sums in any order, and for no worse type."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests import rounding


def in_order(values, dtype=np.float32):
  """Adds one after the other, each sum rounded: the worst order."""
  total = dtype(0)
  for value in values:
    total = dtype(total + dtype(value))
  return float(total)


@pytest.mark.parametrize("terms", [1, 10, 100, 1000])
def test_sums_in_any_order_are_within_the_bound(terms):
  rng = np.random.default_rng(terms)
  for _ in range(20):
    x, y = rng.normal(size=(2, terms)).astype(np.float32)
    exact = np.dot(x.astype(np.float64), y)
    # Partial sums are what is rounded.
    scale = np.abs(np.cumsum(x * y)).max()
    for order in (slice(None), slice(None, None, -1), rng.permutation(terms)):
      total = in_order((x * y)[order])
      rounding.assert_close(total, exact, terms=terms, scale=2 * scale)


def test_bfloat16_is_outside():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(2, 40, 40)).astype(np.float32)
  exact = x.astype(np.float64) @ y
  rounding.assert_close({"product": x @ y}, {"product": exact}, terms=40)
  rough = jnp.asarray(x, jnp.bfloat16) @ jnp.asarray(y, jnp.bfloat16)
  with pytest.raises(AssertionError):
    rounding.assert_close(np.asarray(rough, np.float32), exact, terms=40)


def test_tf32_is_outside():
  """Ten bits of mantissa, as GPUs and TPUs round products by default."""
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(2, 40, 40)).astype(np.float32)

  def round_to_ten_bits(x):
    bits = x.view(np.uint32) + np.uint32(1 << 12)
    return (bits & np.uint32(0xFFFFE000)).view(np.float32)

  with pytest.raises(AssertionError):
    rounding.assert_close(
      round_to_ten_bits(x) @ round_to_ten_bits(y),
      x.astype(np.float64) @ y,
      terms=40,
    )
