"""KL estimators by hand, and against the exact KL they estimate."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.objectives import kl as kl_lib

many = settings(max_examples=50, deadline=None, derandomize=True)


LN2 = math.log(2)


LOGPROBS = jnp.log(jnp.array([[[0.5, 0.25], [0.1, 0.4]]]))


OLD_LOGPROBS = jnp.log(jnp.array([[[0.25, 0.25], [0.4, 0.1]]]))


def test_kl_by_hand():
  """The differences are ln 0.5 - ln 0.25 = ln 2, and -ln 2."""
  a, b = jnp.log(jnp.array([0.5, 0.25])), jnp.log(jnp.array([0.25, 0.5]))
  k3 = [0.5 - 1 + LN2, 2 - 1 - LN2]
  np.testing.assert_allclose(
    kl_lib.estimate("k2", a, b), [LN2**2 / 2] * 2, rtol=1e-6
  )
  for name in ("k3", "k3_straight_through"):
    np.testing.assert_allclose(kl_lib.estimate(name, a, b), k3, rtol=1e-6)


def test_k3_keeps_its_digits_near_zero():
  """expm1(x) - x cancels there: for 1e-5 nothing would be left in float32."""
  x = np.concatenate([np.logspace(-9, 0.9, 60), [0.0999999, 0.1, 0.1000001]])
  d = np.float32(np.concatenate([x, -x]))
  exact = np.expm1(-d.astype(np.float64)) + d
  small = np.abs(d) < 1e-3  # float64 cancels as well: its series instead
  series = d.astype(np.float64) ** 2 / 2 - d.astype(np.float64) ** 3 / 6
  exact = np.where(small, series, exact)
  np.testing.assert_allclose(
    kl_lib.estimate("k3", d, np.zeros_like(d)), exact, rtol=3e-5
  )
  slopes = jax.vmap(jax.grad(lambda v: kl_lib.estimate("k3", v, jnp.zeros(()))))
  np.testing.assert_allclose(
    slopes(d), -np.expm1(-d.astype(np.float64)), rtol=3e-5
  )


@many
@given(st.lists(st.floats(-30, 0, width=32), min_size=6, max_size=6))
def test_k3_and_k2_are_never_negative(values):
  logprobs, reference = np.split(np.float32(values), 2)
  for name in kl_lib.KLS:
    assert (kl_lib.estimate(name, logprobs, reference) >= 0).all()


def softmax_pair():
  """Returns logits of a policy and a reference far apart, in 5 classes."""
  return jnp.array([1.0, -0.5, 0.3, 2.0, -1.0]), jnp.array(
    [0.0, 1.0, -1.0, 0.5, 0.2]
  )


def exact_kl(logits, reference):
  p, q = jax.nn.log_softmax(logits), jax.nn.log_softmax(reference)
  return jnp.sum(jnp.exp(p) * (p - q))


def expected_kl(name, logits, reference, probs):
  """The estimator's mean over codes sampled with fixed probabilities."""
  return jnp.sum(
    probs
    * kl_lib.estimate(
      name, jax.nn.log_softmax(logits), jax.nn.log_softmax(reference)
    )
  )


def test_kl_estimators_in_expectation():
  logits, reference = softmax_pair()
  probs = jax.nn.softmax(logits)
  true = exact_kl(logits, reference)
  true_grad = jax.grad(exact_kl)(logits, reference)
  other_way = jax.grad(lambda x: exact_kl(reference, x))(logits)

  def mean(name):
    return jax.value_and_grad(expected_kl, argnums=1)(
      name, logits, reference, probs
    )

  k2, k2_grad = mean("k2")
  k3, k3_grad = mean("k3")
  both, both_grad = mean("k3_straight_through")
  np.testing.assert_allclose([k3, both], true, rtol=1e-5)
  assert abs(k2 - true) > 0.05  # biased this far from the reference
  np.testing.assert_allclose(k2_grad, true_grad, atol=1e-6)
  np.testing.assert_allclose(both_grad, true_grad, atol=1e-6)
  # k3's gradient is that of the KL the other way round.
  np.testing.assert_allclose(k3_grad, other_way, atol=1e-6)
  assert np.abs(k3_grad - true_grad).max() > 0.05


def test_straight_through_has_each_sample_gradient_of_k2():
  a, b = LOGPROBS, OLD_LOGPROBS - 0.3

  def grad(name):
    return jax.grad(lambda x: kl_lib.estimate(name, x, b).sum())(a)

  np.testing.assert_allclose(grad("k3_straight_through"), a - b, rtol=1e-6)
  np.testing.assert_array_equal(grad("k3_straight_through"), grad("k2"))
  np.testing.assert_array_equal(
    kl_lib.estimate("k3_straight_through", a, b), kl_lib.estimate("k3", a, b)
  )


def test_k1_is_not_offered():
  with pytest.raises(UserError, match="k2, k3, k3_straight_through"):
    kl_lib.estimate("k1", LOGPROBS, OLD_LOGPROBS)
