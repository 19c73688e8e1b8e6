"""The policy loss by hand, and against its theory.

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
from genrec_jax.objectives import Objective, policy
from genrec_jax.objectives import advantages as advantages_lib
from genrec_jax.objectives import kl as kl_lib

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


LOGPROBS = jnp.log(jnp.array([[[0.5, 0.25], [0.1, 0.4]]]))


OLD_LOGPROBS = jnp.log(jnp.array([[[0.25, 0.25], [0.4, 0.1]]]))


def test_ratios_by_hand():
  token = jnp.exp(policy.log_ratio("token", LOGPROBS, OLD_LOGPROBS))
  np.testing.assert_allclose(token, [[[2, 1], [0.25, 4]]], rtol=1e-6)
  # GSPO: (pi(y) / pi_old(y)) ^ (1 / I); 2 * 1 -> sqrt 2, 0.25 * 4 -> 1.
  sequence = jnp.exp(policy.log_ratio("sequence", LOGPROBS, OLD_LOGPROBS))
  root = math.sqrt(2)
  np.testing.assert_allclose(sequence, [[[root, root], [1, 1]]], rtol=1e-6)


def test_gspo_gradient_is_that_of_the_paper():
  """s_i A_i mean_t grad(logprob), arXiv 2507.18071, equation 10."""
  advantages = jnp.array([[3.0, -2.0]])

  def loss(logprobs):
    options = PLAIN | {"ratio": "sequence", "clip_low": 1, "clip_high": 9}
    return objectives.policy_loss(
      Objective(**options), logprobs, OLD_LOGPROBS, None, advantages
    )[0]

  ratio = np.exp(np.mean(LOGPROBS - OLD_LOGPROBS, -1))  # [P, G]
  expected = -(ratio * advantages / 2)[..., None] / 2  # G = 2, I = 2
  grads = jax.grad(loss)(LOGPROBS)
  np.testing.assert_allclose(
    grads, np.broadcast_to(expected, grads.shape), rtol=1e-6
  )


def test_old_and_reference_are_constants():
  def loss(old_logprobs, reference, advantages):
    return objectives.policy_loss(
      Objective(**PLAIN | {"kl_weight": 0.1}),
      LOGPROBS,
      old_logprobs,
      reference,
      advantages,
    )[0]

  inputs = (OLD_LOGPROBS, OLD_LOGPROBS - 0.1, jnp.array([[1.0, -1.0]]))
  for grads in jax.grad(loss, argnums=(0, 1, 2))(*inputs):
    np.testing.assert_array_equal(grads, np.zeros(grads.shape))


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
    return policy.clipped_surrogate(ratio, jnp.array([[advantage]]), 0.2, 0.28)[
      0, 0, 0
    ]

  got, grad = jax.value_and_grad(surrogate)(jnp.array([[[ratio]]]))
  np.testing.assert_allclose(got, value, rtol=1e-6)
  np.testing.assert_allclose(grad[0, 0, 0], slope, rtol=1e-6)

  logprobs = jnp.full((1, 1, 1), math.log(ratio))
  _, metrics = objectives.policy_loss(
    Objective(**PLAIN),
    logprobs,
    jnp.zeros((1, 1, 1)),
    None,
    jnp.array([[advantage]]),
  )
  assert metrics["clip_fraction"] == (slope == 0 and advantage != 0)


@many
@given(st.floats(0.01, 10), st.floats(-5, 5))
def test_surrogate_is_never_above_the_unclipped_one(ratio, advantage):
  value = policy.clipped_surrogate(
    jnp.full((1, 1, 1), ratio), jnp.full((1, 1), advantage), 0.2, 0.28
  )
  assert value[0, 0, 0] <= np.float32(ratio) * np.float32(advantage)


def test_aggregations_by_hand():
  values = jnp.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]]])
  assert policy.aggregate("token", values) == 4
  assert policy.aggregate("sequence", values) == 12  # (6 + 18) / 2


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
    Objective(**options),
    LOGPROBS,
    OLD_LOGPROBS,
    reference,
    jnp.array([[1.0, -1.0]]),
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
      Objective(**options),
      LOGPROBS,
      OLD_LOGPROBS,
      OLD_LOGPROBS,
      jnp.ones((1, 2)),
    )[1]["kl"]

  assert len({float(metric(name)) for name in kl_lib.KLS}) == 1


def test_reference_may_be_left_out_without_kl():
  loss, metrics = objectives.policy_loss(
    Objective(**PLAIN), LOGPROBS, OLD_LOGPROBS, None, jnp.ones((1, 2))
  )
  assert loss == metrics["policy_loss"]
  assert "kl" not in metrics


def test_bfloat16_is_computed_in_float32():
  def run(x):
    options = PLAIN | {"kl_weight": 0.3}
    advantages = jnp.array([[1.0, -0.5]])
    return objectives.policy_loss(
      Objective(**options), x[0], x[1], x[2], advantages
    )

  half = [
    x.astype(jnp.bfloat16) for x in (LOGPROBS, OLD_LOGPROBS, LOGPROBS - 0.1)
  ]
  loss, metrics = run(half)
  same, _ = run([x.astype(jnp.float32) for x in half])
  assert {x.dtype for x in (loss, *metrics.values())} == {jnp.dtype("float32")}
  assert loss == same
  for f in (
    lambda: policy.log_ratio("sequence", half[0], half[1]),
    lambda: kl_lib.estimate("k3", half[0], half[1]),
    lambda: policy.aggregate("token", half[0]),
    lambda: policy.clipped_surrogate(half[0], half[0][..., 0], 0.2, 0.28),
  ):
    assert f().dtype == jnp.float32


@pytest.mark.parametrize("ratio", list(policy.RATIOS))
@pytest.mark.parametrize("kl", list(kl_lib.KLS))
def test_far_apart_policies_stay_finite(ratio, kl):
  """Overflow would be inf * 0 = nan where an advantage is exactly 0."""
  logprobs = jnp.array([[[-1e-3, -500.0], [-1.0, -200.0]]])
  old_logprobs = jnp.array([[[-500.0, -1e-3], [-jnp.inf, -1.0]]])
  reference = jnp.array([[[-jnp.inf, -1.0], [-300.0, -1e-4]]])

  def loss(x):
    options = PLAIN | {"ratio": ratio, "kl": kl, "kl_weight": 0.1}
    return objectives.policy_loss(
      Objective(**options), x, old_logprobs, reference, jnp.array([[0.0, -1.0]])
    )

  (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(logprobs)
  assert np.isfinite(value)
  assert np.isfinite(grads).all()
  assert all(np.isfinite(x) for x in metrics.values())


def test_nan_is_not_hidden():
  loss, _ = objectives.policy_loss(
    Objective(**PLAIN),
    LOGPROBS.at[0, 0, 0].set(jnp.nan),
    OLD_LOGPROBS,
    None,
    jnp.ones((1, 2)),
  )
  assert np.isnan(loss)


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


@pytest.mark.parametrize("aggregation", list(policy.AGGREGATIONS))
@pytest.mark.parametrize("kl", ["k2", "k3"])
@pytest.mark.parametrize("ratio", list(policy.RATIOS))
def test_loss_gradient_against_finite_differences(ratio, kl, aggregation):
  with jax.enable_x64(True):
    logprobs, old_logprobs, reference, advantages = random_inputs("float64")
    options = PLAIN | {
      "ratio": ratio,
      "kl": kl,
      "kl_weight": 0.2,
      "aggregation": aggregation,
    }

    def loss(x):
      return objectives.policy_loss(
        Objective(**options), x, old_logprobs, reference, advantages
      )

    assert loss(logprobs)[0].dtype == jnp.float64
    assert 0 < loss(logprobs)[1]["clip_fraction"] < 1
    check_grads(
      lambda x: loss(x)[0], (logprobs,), order=1, modes=["rev"], rtol=1e-6
    )


@pytest.mark.parametrize("aggregation", list(policy.AGGREGATIONS))
@pytest.mark.parametrize("ratio", list(policy.RATIOS))
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
      Objective(**PLAIN | {"ratio": ratio, "aggregation": aggregation}),
      logprobs_of(logits),
      logprobs_of(jax.lax.stop_gradient(logits)),
      None,
      advantages,
    )

  def reinforce(logits):
    return -policy.aggregate(
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
  advantages = advantages_lib.estimate(advantage, TinyPolicy.rewards[pairs])

  def loss(params):
    logprobs = TinyPolicy.logprobs(params)[pairs]  # [81, G, I]
    losses, _ = jax.vmap(
      lambda lp, a: objectives.policy_loss(
        Objective(**PLAIN | {"aggregation": "sequence"}),
        lp[None],
        jax.lax.stop_gradient(lp)[None],
        None,
        a[None],
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
  old_logprobs = TinyPolicy.logprobs(params)
  weight = jnp.exp(old_logprobs.sum(1))
  advantages = TinyPolicy.rewards - before

  def loss(params):
    # The 9 images as groups of one, each weighted by how often it is sampled.
    return objectives.policy_loss(
      Objective(**PLAIN | {"kl_weight": 0.01, "kl": "k3_straight_through"}),
      TinyPolicy.logprobs(params)[:, None],
      old_logprobs[:, None],
      old_logprobs[:, None],
      (9 * weight * advantages)[:, None],
    )[0]

  for _ in range(4):
    grads = jax.grad(loss)(params)
    params = jax.tree.map(lambda p, g: p - 0.2 * g, params, grads)
  assert TinyPolicy.expected_reward(params) > before + 0.02


@pytest.mark.parametrize(
  ("call", "expected"),
  [
    (lambda x: advantages_lib.estimate("ppo", x), "grpo, dr_grpo, rloo"),
    (lambda x: policy.log_ratio("word", x, x), "token, sequence"),
    (lambda x: policy.aggregate("batch", x), "token, sequence"),
    (lambda x: policy.clipped_surrogate(x, x[0], 0, 0.2), "clip_low=0"),
    (lambda x: policy.clipped_surrogate(x, x[0], 0.2, -1), "clip_high=-1"),
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
      Objective(**PLAIN | change),
      LOGPROBS,
      OLD_LOGPROBS,
      None,
      jnp.ones((1, 2)),
    )


def test_an_unknown_kl_is_an_error_even_with_weight_zero():
  with pytest.raises(UserError, match="k3_straight"):
    objectives.policy_loss(
      Objective(**PLAIN | {"kl": "k1"}),
      LOGPROBS,
      OLD_LOGPROBS,
      None,
      jnp.ones((1, 2)),
    )


def test_all_wrong_shapes_are_listed():
  with pytest.raises(
    ValueError, match=r"old_logprobs.*ref_logprobs.*advantages"
  ):
    objectives.policy_loss(
      Objective(**PLAIN),
      LOGPROBS,
      OLD_LOGPROBS[:, :1],
      OLD_LOGPROBS[..., :1],
      jnp.ones((1, 2, 1)),
    )


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_masked_samples_are_those_of_their_own_lengths(ratio, aggregation):
  """The loss of samples of unequal lengths is the mean of each one's alone."""
  options = Objective(
    **PLAIN | {"ratio": ratio, "aggregation": aggregation, "kl_weight": 0.3}
  )
  lengths, advantages = [[3, 1], [4, 2]], jnp.asarray([[1.0, -2.0], [0.5, 3.0]])
  mask = jnp.asarray(np.arange(4) < np.asarray(lengths)[..., None])  # [P, G, W]
  keys = jax.random.split(jax.random.key(0), 4)
  # Far enough apart for ratios of whole samples to be clipped, too.
  logprobs, old, ref, weights = (
    jnp.where(mask, 2 * jax.random.uniform(key, mask.shape), 0.0)
    for key in keys
  )
  found, metrics = policy.policy_loss(
    options, logprobs, old, ref, advantages, weights=weights, mask=mask
  )
  alone = []
  for place in np.ndindex(2, 2):
    length = int(mask[place].sum())
    rows = (x[place][None, None, :length] for x in (logprobs, old, ref))
    alone.append(
      policy.policy_loss(
        options,
        *rows,
        advantages[place][None, None],
        weights=weights[place][None, None, :length],
      )
    )
  expected, parts = jax.tree.map(lambda *x: np.mean(x), *alone)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  for name in ("kl", "ratio_mean", "clip_fraction", "policy_loss"):
    np.testing.assert_allclose(metrics[name], parts[name], rtol=1e-5)
  assert 0 < metrics["clip_fraction"] < 1
