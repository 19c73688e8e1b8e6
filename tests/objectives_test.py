"""Objectives against values worked out by hand, and against their theory.

The exact-expectation tests sum over every possible image of a tiny policy, so
they hold to rounding, without sampling noise.
"""

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from genrec_jax import objectives
from genrec_jax.core.errors import UserError

PLAIN = {
  "ratio": "token",
  "clip_low": 0.2,
  "clip_high": 0.28,
  "kl": "k3",
  "kl_weight": 0.0,
  "aggregation": "token",
}
LN2 = math.log(2)

many = settings(max_examples=50, deadline=None, derandomize=True)
reward_values = st.floats(-10, 10, width=32)


def groups(samples=4):
  group = st.lists(reward_values, min_size=samples, max_size=samples)
  return st.lists(group, min_size=2, max_size=2).map(np.float32)


# --- advantages -----------------------------------------------------------

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


@pytest.mark.parametrize("name", list(objectives.ADVANTAGES))
def test_advantages_by_hand(name):
  values = objectives.advantages(name, jnp.array(REWARDS))
  np.testing.assert_allclose(values[0], BY_HAND[name], rtol=1e-6)
  equal = 0.5 if name == "reinforce" else 0.0
  np.testing.assert_array_equal(values[1], [equal] * 3)


@pytest.mark.parametrize("name", list(objectives.ADVANTAGES))
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_advantages_are_float32_constants(name, dtype):
  rewards = jnp.array(REWARDS, dtype)
  values = objectives.advantages(name, rewards)
  assert values.dtype == jnp.float32
  np.testing.assert_allclose(values[0], BY_HAND[name], rtol=1e-6)
  grads = jax.grad(
    lambda r: jnp.sum(objectives.advantages(name, r) * r.astype(jnp.float32))
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
  centred = objectives.advantages("dr_grpo", rewards)
  rloo = objectives.advantages("rloo", rewards)
  np.testing.assert_allclose(centred, exact - mean, atol=3e-5)
  np.testing.assert_allclose(rloo, exact - others, atol=3e-5)


@many
@given(groups(), st.floats(0.5, 20), st.floats(-5, 5))
def test_grpo_is_standardised_and_ignores_shift_and_scale(
  rewards, scale, shift
):
  values = np.asarray(objectives.advantages("grpo", rewards))
  np.testing.assert_allclose(values.mean(1), 0, atol=1e-6)
  spread = np.std(rewards, axis=1)
  squares = (values**2).mean(1)
  np.testing.assert_allclose(squares[spread > 0.0101], 1, rtol=1e-5)
  np.testing.assert_array_equal(squares[spread == 0], 0)
  if (spread > 0.021).all():
    other = objectives.advantages("grpo", np.float32(scale * rewards + shift))
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
    values = objectives.advantages(name, rewards)
    np.testing.assert_array_equal(values, np.zeros((1, 8)))


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e4 + 0.1, -7e-9, 0.0])
@pytest.mark.parametrize("samples", [1, 3, 7, 8])
def test_equal_rewards_give_exactly_zero(value, samples):
  rewards = jnp.full((2, samples), value)
  for name in ("grpo", "dr_grpo"):
    values = jax.jit(objectives.advantages, static_argnums=0)(name, rewards)
    np.testing.assert_array_equal(values, np.zeros((2, samples)))


def test_small_but_real_spread_counts_for_what_it_is():
  """A spread of 1e-4 is neither rounding nor as good as one of 0.1."""
  for half, expected in ((5e-5, 5e-3), (5e-3, 0.5), (0.01, 1), (0.05, 1)):
    rewards = jnp.array([[0.3, 0.3 + 2 * half]])
    np.testing.assert_allclose(
      objectives.advantages("grpo", rewards),
      [[-expected, expected]],
      rtol=2e-3,
    )
  # In the unit of the rewards, which the caller knows.
  np.testing.assert_allclose(
    objectives.advantages("grpo", jnp.array([[1.0, 3.0]]), floor=4.0),
    [[-0.25, 0.25]],
  )


def test_parts_of_advantages_add_up():
  rng = np.random.default_rng(0)
  a, b = np.float32(rng.normal(size=(2, 3, 4)))
  for name in objectives.ADVANTAGES:
    parts = [objectives.advantages(name, a + b, of=x) for x in (a, b)]
    np.testing.assert_allclose(
      parts[0] + parts[1], objectives.advantages(name, a + b), atol=1e-6
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", list(objectives.ADVANTAGES))
def test_a_bad_reward_is_not_hidden(name, bad):
  values = objectives.advantages(name, jnp.array([[1.0, bad], [1.0, 3.0]]))
  assert not np.isfinite(values[0]).all()
  assert np.isfinite(values[1]).all()


def test_rloo_needs_two_samples():
  with pytest.raises(UserError, match="at least 2"):
    objectives.advantages("rloo", jnp.ones((3, 1)))


# --- ratios ---------------------------------------------------------------

LOGPROBS = jnp.log(jnp.array([[[0.5, 0.25], [0.1, 0.4]]]))
BEHAVIOUR = jnp.log(jnp.array([[[0.25, 0.25], [0.4, 0.1]]]))


def test_ratios_by_hand():
  token = jnp.exp(objectives.log_ratio("token", LOGPROBS, BEHAVIOUR))
  np.testing.assert_allclose(token, [[[2, 1], [0.25, 4]]], rtol=1e-6)
  # GSPO: (pi(y) / pi_old(y)) ^ (1 / I); 2 * 1 -> sqrt 2, 0.25 * 4 -> 1.
  sequence = jnp.exp(objectives.log_ratio("sequence", LOGPROBS, BEHAVIOUR))
  root = math.sqrt(2)
  np.testing.assert_allclose(sequence, [[[root, root], [1, 1]]], rtol=1e-6)


def test_gspo_gradient_is_that_of_the_paper():
  """s_i A_i mean_t grad(logprob), arXiv 2507.18071, equation 10."""
  advantages = jnp.array([[3.0, -2.0]])

  def loss(logprobs):
    options = PLAIN | {"ratio": "sequence", "clip_low": 1, "clip_high": 9}
    return objectives.policy_loss(
      logprobs, BEHAVIOUR, None, advantages, **options
    )[0]

  ratio = np.exp(np.mean(LOGPROBS - BEHAVIOUR, -1))  # [P, G]
  expected = -(ratio * advantages / 2)[..., None] / 2  # G = 2, I = 2
  grads = jax.grad(loss)(LOGPROBS)
  np.testing.assert_allclose(
    grads, np.broadcast_to(expected, grads.shape), rtol=1e-6
  )


def test_behaviour_and_reference_are_constants():
  def loss(behaviour, reference, advantages):
    return objectives.policy_loss(
      LOGPROBS, behaviour, reference, advantages, **PLAIN | {"kl_weight": 0.1}
    )[0]

  inputs = (BEHAVIOUR, BEHAVIOUR - 0.1, jnp.array([[1.0, -1.0]]))
  for grads in jax.grad(loss, argnums=(0, 1, 2))(*inputs):
    np.testing.assert_array_equal(grads, np.zeros(grads.shape))


# --- clip -----------------------------------------------------------------


@pytest.mark.parametrize(
  ("ratio", "advantage", "value", "slope"),
  [
    (1.0, 2.0, 2.0, 2.0),
    (1.25, 2.0, 2.5, 2.0),  # above 1.2, still inside the higher bound
    (1.5, 2.0, 1.28 * 2, 0.0),  # gain stops at 1 + clip_high
    (0.5, 2.0, 1.0, 2.0),  # a fall of a good code is always corrected
    (0.9, -2.0, -1.8, -2.0),
    (0.75, -2.0, 0.8 * -2, 0.0),  # gain stops at 1 - clip_low
    (0.5, -2.0, 0.8 * -2, 0.0),
    (1.5, -2.0, -3.0, -2.0),  # a rise of a bad code is always corrected
    (3.0, 0.0, 0.0, 0.0),
  ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, value, slope):
  def surrogate(ratio):
    return objectives.clipped_surrogate(
      ratio, jnp.array([[advantage]]), 0.2, 0.28
    )[0, 0, 0]

  got, grad = jax.value_and_grad(surrogate)(jnp.array([[[ratio]]]))
  np.testing.assert_allclose(got, value, rtol=1e-6)
  np.testing.assert_allclose(grad[0, 0, 0], slope, rtol=1e-6)

  logprobs = jnp.full((1, 1, 1), math.log(ratio))
  _, metrics = objectives.policy_loss(
    logprobs, jnp.zeros((1, 1, 1)), None, jnp.array([[advantage]]), **PLAIN
  )
  assert metrics["clip_fraction"] == (slope == 0 and advantage != 0)


@many
@given(st.floats(0.01, 10), st.floats(-5, 5))
def test_surrogate_is_never_above_the_unclipped_one(ratio, advantage):
  value = objectives.clipped_surrogate(
    jnp.full((1, 1, 1), ratio), jnp.full((1, 1), advantage), 0.2, 0.28
  )
  assert value[0, 0, 0] <= np.float32(ratio) * np.float32(advantage)


# --- KL -------------------------------------------------------------------


def test_kl_by_hand():
  """The differences are ln 0.5 - ln 0.25 = ln 2, and -ln 2."""
  a, b = jnp.log(jnp.array([0.5, 0.25])), jnp.log(jnp.array([0.25, 0.5]))
  k3 = [0.5 - 1 + LN2, 2 - 1 - LN2]
  np.testing.assert_allclose(
    objectives.kl("k2", a, b), [LN2**2 / 2] * 2, rtol=1e-6
  )
  for name in ("k3", "k3_straight_through"):
    np.testing.assert_allclose(objectives.kl(name, a, b), k3, rtol=1e-6)


def test_k3_keeps_its_digits_near_zero():
  """expm1(x) - x cancels there: for 1e-5 nothing would be left in float32."""
  x = np.concatenate([np.logspace(-9, 0.9, 60), [0.0999999, 0.1, 0.1000001]])
  d = np.float32(np.concatenate([x, -x]))
  exact = np.expm1(-d.astype(np.float64)) + d
  small = np.abs(d) < 1e-3  # float64 cancels as well: its series instead
  series = d.astype(np.float64) ** 2 / 2 - d.astype(np.float64) ** 3 / 6
  exact = np.where(small, series, exact)
  np.testing.assert_allclose(
    objectives.kl("k3", d, np.zeros_like(d)), exact, rtol=3e-5
  )
  slopes = jax.vmap(jax.grad(lambda v: objectives.kl("k3", v, jnp.zeros(()))))
  np.testing.assert_allclose(
    slopes(d), -np.expm1(-d.astype(np.float64)), rtol=3e-5
  )


@many
@given(st.lists(st.floats(-30, 0, width=32), min_size=6, max_size=6))
def test_k3_and_k2_are_never_negative(values):
  logprobs, reference = np.split(np.float32(values), 2)
  for name in objectives.KLS:
    assert (objectives.kl(name, logprobs, reference) >= 0).all()


def softmax_pair():
  """Returns logits of a policy and a reference far apart, in 5 classes."""
  return jnp.array([1.0, -0.5, 0.3, 2.0, -1.0]), jnp.array(
    [0.0, 1.0, -1.0, 0.5, 0.2]
  )


def exact_kl(logits, reference):
  p, q = jax.nn.log_softmax(logits), jax.nn.log_softmax(reference)
  return jnp.sum(jnp.exp(p) * (p - q))


def expected_kl(name, logits, reference, probs):
  """The estimator's mean over codes drawn with fixed probabilities."""
  return jnp.sum(
    probs
    * objectives.kl(
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
  a, b = LOGPROBS, BEHAVIOUR - 0.3

  def grad(name):
    return jax.grad(lambda x: objectives.kl(name, x, b).sum())(a)

  np.testing.assert_allclose(grad("k3_straight_through"), a - b, rtol=1e-6)
  np.testing.assert_array_equal(grad("k3_straight_through"), grad("k2"))
  np.testing.assert_array_equal(
    objectives.kl("k3_straight_through", a, b), objectives.kl("k3", a, b)
  )


def test_k1_is_not_offered():
  with pytest.raises(UserError, match="k2, k3, k3_straight_through"):
    objectives.kl("k1", LOGPROBS, BEHAVIOUR)


# --- aggregation and loss -------------------------------------------------


def test_aggregations_by_hand():
  values = jnp.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]]])
  assert objectives.aggregate("token", values) == 4
  assert objectives.aggregate("sequence", values) == 12  # (6 + 18) / 2


@pytest.mark.parametrize(
  ("aggregation", "codes"), [("token", 1), ("sequence", 2)]
)
def test_policy_loss_by_hand(aggregation, codes):
  """P = 1, G = 2, I = 2: ratios 2, 1 | 1/4, 4 and advantages 1, -1.

  Of sequences the surrogate and the KL are I times as large, both of them.
  """
  reference = LOGPROBS - jnp.array([[[LN2, 0.0], [0.0, -LN2]]])
  options = PLAIN | {"kl_weight": 0.1, "aggregation": aggregation}
  loss, metrics = objectives.policy_loss(
    LOGPROBS, BEHAVIOUR, reference, jnp.array([[1.0, -1.0]]), **options
  )
  surrogate = (1.28 + 1 - 0.8 - 4) / 4
  kl = ((0.5 - 1 + LN2) + (2 - 1 - LN2)) / 4
  expected = {
    "policy_loss": -codes * surrogate,
    "ratio_mean": (2 + 1 + 0.25 + 4) / 4,
    "ratio_max_deviation": 3,
    "clip_fraction": 0.5,
    "kl": kl,
  }
  assert set(metrics) == set(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)
    assert metrics[name].dtype == jnp.float32
  np.testing.assert_allclose(loss, codes * (-surrogate + 0.1 * kl), rtol=1e-6)


def test_kl_metric_is_the_same_whatever_trains():
  def metric(name):
    options = PLAIN | {"kl": name, "kl_weight": 0.1}
    return objectives.policy_loss(
      LOGPROBS, BEHAVIOUR, BEHAVIOUR, jnp.ones((1, 2)), **options
    )[1]["kl"]

  assert len({float(metric(name)) for name in objectives.KLS}) == 1


def test_reference_may_be_left_out_without_kl():
  loss, metrics = objectives.policy_loss(
    LOGPROBS, BEHAVIOUR, None, jnp.ones((1, 2)), **PLAIN
  )
  assert loss == metrics["policy_loss"]
  assert "kl" not in metrics


def test_bfloat16_is_computed_in_float32():
  def run(x):
    options = PLAIN | {"kl_weight": 0.3}
    advantages = jnp.array([[1.0, -0.5]])
    return objectives.policy_loss(x[0], x[1], x[2], advantages, **options)

  half = [x.astype(jnp.bfloat16) for x in (LOGPROBS, BEHAVIOUR, LOGPROBS - 0.1)]
  loss, metrics = run(half)
  same, _ = run([x.astype(jnp.float32) for x in half])
  assert {x.dtype for x in (loss, *metrics.values())} == {jnp.dtype("float32")}
  assert loss == same
  for f in (
    lambda: objectives.log_ratio("sequence", half[0], half[1]),
    lambda: objectives.kl("k3", half[0], half[1]),
    lambda: objectives.aggregate("token", half[0]),
    lambda: objectives.clipped_surrogate(half[0], half[0][..., 0], 0.2, 0.28),
  ):
    assert f().dtype == jnp.float32


@pytest.mark.parametrize("ratio", list(objectives.RATIOS))
@pytest.mark.parametrize("kl", list(objectives.KLS))
def test_far_apart_policies_stay_finite(ratio, kl):
  """Overflow would be inf * 0 = nan where an advantage is exactly 0."""
  logprobs = jnp.array([[[-1e-3, -500.0], [-1.0, -200.0]]])
  behaviour = jnp.array([[[-500.0, -1e-3], [-jnp.inf, -1.0]]])
  reference = jnp.array([[[-jnp.inf, -1.0], [-300.0, -1e-4]]])

  def loss(x):
    options = PLAIN | {"ratio": ratio, "kl": kl, "kl_weight": 0.1}
    return objectives.policy_loss(
      x, behaviour, reference, jnp.array([[0.0, -1.0]]), **options
    )

  (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(logprobs)
  assert np.isfinite(value)
  assert np.isfinite(grads).all()
  assert all(np.isfinite(x) for x in metrics.values())


def test_nan_is_not_hidden():
  loss, _ = objectives.policy_loss(
    LOGPROBS.at[0, 0, 0].set(jnp.nan),
    BEHAVIOUR,
    None,
    jnp.ones((1, 2)),
    **PLAIN,
  )
  assert np.isnan(loss)


# --- gradients against finite differences and against theory --------------


def random_inputs(dtype):
  """Returns inputs with images clipped above, clipped below and not clipped."""
  rng = np.random.default_rng(0)
  logprobs = -rng.uniform(0.5, 3, (2, 3, 4))
  away = np.array([[-0.5, 0.5, 0.05], [0.5, -0.5, -0.05]])[..., None]
  away = away + 0.02 * rng.normal(size=logprobs.shape)
  return (
    jnp.asarray(logprobs, dtype),
    jnp.asarray(logprobs + away, dtype),
    jnp.asarray(logprobs + 0.5 * rng.normal(size=logprobs.shape), dtype),
    jnp.asarray([[1.0, -1.3, 0.4], [0.8, -0.6, 1.1]], dtype),
  )


@pytest.mark.parametrize("aggregation", list(objectives.AGGREGATIONS))
@pytest.mark.parametrize("kl", ["k2", "k3"])
@pytest.mark.parametrize("ratio", list(objectives.RATIOS))
def test_loss_gradient_against_finite_differences(ratio, kl, aggregation):
  with jax.enable_x64(True):
    logprobs, behaviour, reference, advantages = random_inputs("float64")
    options = PLAIN | {
      "ratio": ratio,
      "kl": kl,
      "kl_weight": 0.2,
      "aggregation": aggregation,
    }

    def loss(x):
      return objectives.policy_loss(
        x, behaviour, reference, advantages, **options
      )

    assert loss(logprobs)[0].dtype == jnp.float64
    assert 0 < loss(logprobs)[1]["clip_fraction"] < 1
    check_grads(
      lambda x: loss(x)[0], (logprobs,), order=1, modes=["rev"], rtol=1e-6
    )


@pytest.mark.parametrize("aggregation", list(objectives.AGGREGATIONS))
@pytest.mark.parametrize("ratio", list(objectives.RATIOS))
def test_gradient_at_ratio_one_is_reinforce(ratio, aggregation):
  """Through a softmax: grad(loss) = -grad of aggregate(A logprob)."""
  rng = np.random.default_rng(1)
  logits = jnp.asarray(rng.normal(size=(2, 3, 4, 5)), jnp.float32)
  codes = jnp.asarray(rng.integers(0, 5, (2, 3, 4)))
  advantages = jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)

  def logprobs_of(logits):
    logprobs = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(logprobs, codes[..., None], -1)[..., 0]

  def loss(logits):
    return objectives.policy_loss(
      logprobs_of(logits),
      logprobs_of(jax.lax.stop_gradient(logits)),
      None,
      advantages,
      **PLAIN | {"ratio": ratio, "aggregation": aggregation},
    )

  def reinforce(logits):
    return -objectives.aggregate(
      aggregation, advantages[..., None] * logprobs_of(logits)
    )

  grads, metrics = jax.grad(loss, has_aux=True)(logits)
  np.testing.assert_allclose(grads, jax.grad(reinforce)(logits), atol=1e-7)
  assert metrics["ratio_max_deviation"] == 0
  assert metrics["clip_fraction"] == 0


class TinyPolicy:
  """Draws 2 codes of 3 values, the second given the first: 9 images."""

  codes = jnp.array(list(itertools.product(range(3), repeat=2)))
  rewards = jnp.array([0.3, -1.0, 2.0, 0.5, 0.1, -0.4, 1.5, 0.0, 0.7])

  @staticmethod
  def params(dtype="float32"):
    rng = np.random.default_rng(2)
    return {
      "first": jnp.asarray(rng.normal(size=3), dtype),
      "second": jnp.asarray(rng.normal(size=(3, 3)), dtype),
    }

  @classmethod
  def logprobs(cls, params):
    """Returns [9, 2], the log-probabilities of each image's codes."""
    first = jax.nn.log_softmax(params["first"])[cls.codes[:, 0]]
    second = jax.nn.log_softmax(params["second"])
    return jnp.stack([first, second[cls.codes[:, 0], cls.codes[:, 1]]], 1)

  @classmethod
  def expected_reward(cls, params):
    return jnp.sum(jnp.exp(cls.logprobs(params).sum(1)) * cls.rewards)


@pytest.mark.parametrize(
  ("advantage", "factor"), [("reinforce", 1), ("rloo", 1), ("dr_grpo", 0.5)]
)
def test_expected_gradient_is_that_of_the_expected_reward(advantage, factor):
  """Every pair of images as one group, weighted by its probability.

  RLOO is unbiased; Dr. GRPO's baseline contains the sample itself, which
  shrinks the gradient by (G - 1) / G and does not turn it.
  """
  params = TinyPolicy.params()
  pairs = jnp.array(list(itertools.product(range(9), repeat=2)))  # [81, 2]
  whole = TinyPolicy.logprobs(params).sum(1)
  weight = jnp.exp(whole[pairs].sum(1))
  np.testing.assert_allclose(weight.sum(), 1, rtol=1e-5)
  advantages = objectives.advantages(advantage, TinyPolicy.rewards[pairs])

  def loss(params):
    logprobs = TinyPolicy.logprobs(params)[pairs]  # [81, G, I]
    losses, _ = jax.vmap(
      lambda lp, a: objectives.policy_loss(
        lp[None],
        jax.lax.stop_gradient(lp)[None],
        None,
        a[None],
        **PLAIN | {"aggregation": "sequence"},
      )
    )(logprobs, advantages)
    return jnp.sum(weight * losses)

  got = jax.grad(loss)(params)
  true = jax.grad(TinyPolicy.expected_reward)(params)
  for name in params:
    np.testing.assert_allclose(got[name], -factor * true[name], atol=1e-6)


def test_gradient_steps_raise_the_expected_reward():
  """Off-policy inner steps through ratio and clip climb as well."""
  params = TinyPolicy.params()
  before = TinyPolicy.expected_reward(params)
  behaviour = TinyPolicy.logprobs(params)
  weight = jnp.exp(behaviour.sum(1))
  advantages = TinyPolicy.rewards - before

  def loss(params):
    # The 9 images as groups of one, each weighted by how often it is drawn.
    return objectives.policy_loss(
      TinyPolicy.logprobs(params)[:, None],
      behaviour[:, None],
      behaviour[:, None],
      (9 * weight * advantages)[:, None],
      **PLAIN | {"kl_weight": 0.01, "kl": "k3_straight_through"},
    )[0]

  for _ in range(4):
    grads = jax.grad(loss)(params)
    params = jax.tree.map(lambda p, g: p - 0.2 * g, params, grads)
  assert TinyPolicy.expected_reward(params) > before + 0.02


# --- errors ---------------------------------------------------------------


@pytest.mark.parametrize(
  ("call", "expected"),
  [
    (lambda x: objectives.advantages("ppo", x), "grpo, dr_grpo, rloo"),
    (lambda x: objectives.log_ratio("word", x, x), "token, sequence"),
    (lambda x: objectives.aggregate("batch", x), "token, sequence"),
    (lambda x: objectives.clipped_surrogate(x, x[0], 0, 0.2), "clip_low=0"),
    (lambda x: objectives.clipped_surrogate(x, x[0], 0.2, -1), "clip_high=-1"),
  ],
)
def test_unknown_names_and_bad_bounds(call, expected):
  with pytest.raises(UserError, match=expected):
    call(jnp.ones((2, 2, 2)))


@pytest.mark.parametrize(
  "change",
  [{"kl_weight": 0.1}, {"kl_weight": -1.0}, {"kl_weight": math.nan}],
)
def test_kl_weight_needs_a_reference_and_a_range(change):
  with pytest.raises(UserError, match="kl_weight"):
    objectives.policy_loss(
      LOGPROBS, BEHAVIOUR, None, jnp.ones((1, 2)), **PLAIN | change
    )


def test_an_unknown_kl_is_an_error_even_with_weight_zero():
  with pytest.raises(UserError, match="k3_straight"):
    objectives.policy_loss(
      LOGPROBS, BEHAVIOUR, None, jnp.ones((1, 2)), **PLAIN | {"kl": "k1"}
    )


def test_all_wrong_shapes_are_listed():
  with pytest.raises(ValueError, match=r"behaviour.*reference.*advantages"):
    objectives.policy_loss(
      LOGPROBS,
      BEHAVIOUR[:, :1],
      BEHAVIOUR[..., :1],
      jnp.ones((1, 2, 1)),
      **PLAIN,
    )
