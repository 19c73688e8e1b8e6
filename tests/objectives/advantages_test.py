"""Advantages of one reward against values worked out by hand."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.objectives import advantages

many = settings(max_examples=50, deadline=None, derandomize=True)


reward_values = st.floats(-10, 10, width=32)


def groups(samples=4):
  group = st.lists(reward_values, min_size=samples, max_size=samples)
  return st.lists(group, min_size=2, max_size=2).map(np.float32)


# Means 3 and 0.5. Squares 4 + 1 + 9 = 14: population std sqrt(14 / 3).
REWARDS = [[1.0, 2.0, 6.0], [0.5, 0.5, 0.5]]


BY_HAND = {
  "grpo": [
    -2 / math.sqrt(14 / 3),
    -1 / math.sqrt(14 / 3),
    3 / math.sqrt(14 / 3),
  ],
  "dr_grpo": [-2.0, -1.0, 3.0],
  "rloo": [1 - 4.0, 2 - 3.5, 6 - 1.5],
  "reinforce": [1.0, 2.0, 6.0],
}


@pytest.mark.parametrize("name", list(advantages.ADVANTAGES))
def test_advantages_by_hand(name):
  values = advantages.estimate(name, jnp.array(REWARDS))
  np.testing.assert_allclose(values[0], BY_HAND[name], rtol=1e-6)
  equal = 0.5 if name == "reinforce" else 0.0
  np.testing.assert_array_equal(values[1], [equal] * 3)


@pytest.mark.parametrize("name", list(advantages.ADVANTAGES))
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_advantages_are_float32_constants(name, dtype):
  rewards = jnp.array(REWARDS, dtype)
  values = advantages.estimate(name, rewards)
  assert values.dtype == jnp.float32
  np.testing.assert_allclose(values[0], BY_HAND[name], rtol=1e-6)
  grads = jax.grad(
    lambda r: jnp.sum(advantages.estimate(name, r) * r.astype(jnp.float32))
  )(rewards)
  # d(A r)/dr = A alone: no gradient passes through A.
  np.testing.assert_allclose(
    np.float32(grads), np.float32(values.astype(dtype)), rtol=1e-2
  )


@many
@given(groups())
def test_group_advantages_match_float64(rewards):
  exact = rewards.astype(np.float64)
  mean = exact.mean(1, keepdims=True)
  others = (exact.sum(1, keepdims=True) - exact) / (exact.shape[1] - 1)
  centred = advantages.estimate("dr_grpo", rewards)
  rloo = advantages.estimate("rloo", rewards)
  np.testing.assert_allclose(centred, exact - mean, atol=3e-5)
  np.testing.assert_allclose(rloo, exact - others, atol=3e-5)


@many
@given(groups(), st.floats(0.5, 20), st.floats(-5, 5))
def test_grpo_is_standardised_and_ignores_shift_and_scale(
  rewards, scale, shift
):
  values = np.asarray(advantages.estimate("grpo", rewards))
  np.testing.assert_allclose(values.mean(1), 0, atol=1e-6)
  spread = np.std(rewards, axis=1)
  squares = (values**2).mean(1)
  np.testing.assert_allclose(squares[spread > 0.0101], 1, rtol=1e-5)
  np.testing.assert_array_equal(squares[spread == 0], 0)
  if (spread > 0.021).all():
    other = advantages.estimate("grpo", np.float32(scale * rewards + shift))
    np.testing.assert_allclose(other, values, atol=5e-3)


@many
@given(
  reward_values,
  st.lists(st.integers(-3, 3), min_size=8, max_size=8),
)
def test_rounding_noise_is_no_spread(value, steps):
  """Equal up to a few units in the last place: exactly 0, not noise / noise."""
  noise = np.float32(value) * np.float32(2.0**-23) * np.float32(steps)
  rewards = (np.float32(value) + noise)[None]
  for name in ("grpo", "dr_grpo", "rloo"):
    values = advantages.estimate(name, rewards)
    np.testing.assert_array_equal(values, np.zeros((1, 8)))


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e4 + 0.1, -7e-9, 0.0])
@pytest.mark.parametrize("samples", [1, 3, 7, 8])
def test_equal_rewards_give_exactly_zero(value, samples):
  rewards = jnp.full((2, samples), value)
  for name in ("grpo", "dr_grpo"):
    values = jax.jit(advantages.estimate, static_argnums=0)(name, rewards)
    np.testing.assert_array_equal(values, np.zeros((2, samples)))


def test_small_but_real_spread_counts_for_what_it_is():
  """A spread of 1e-4 is neither rounding nor as good as one of 0.1."""
  for half, expected in ((5e-5, 5e-3), (5e-3, 0.5), (0.01, 1), (0.05, 1)):
    rewards = jnp.array([[0.3, 0.3 + 2 * half]])
    np.testing.assert_allclose(
      advantages.estimate("grpo", rewards),
      [[-expected, expected]],
      rtol=2e-3,
    )
  # In the unit of the rewards, which the caller knows.
  np.testing.assert_allclose(
    advantages.estimate("grpo", jnp.array([[1.0, 3.0]]), floor=4.0),
    [[-0.25, 0.25]],
  )


def test_parts_of_advantages_add_up():
  rng = np.random.default_rng(0)
  a, b = np.float32(rng.normal(size=(2, 3, 4)))
  for name in advantages.ADVANTAGES:
    parts = [advantages.estimate(name, a + b, of=x) for x in (a, b)]
    np.testing.assert_allclose(
      parts[0] + parts[1], advantages.estimate(name, a + b), atol=1e-6
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", list(advantages.ADVANTAGES))
def test_a_bad_reward_is_not_hidden(name, bad):
  values = advantages.estimate(name, jnp.array([[1.0, bad], [1.0, 3.0]]))
  assert not np.isfinite(values[0]).all()
  assert np.isfinite(values[1]).all()


def test_rloo_needs_two_samples():
  with pytest.raises(UserError, match="at least 2"):
    advantages.estimate("rloo", jnp.ones((3, 1)))
