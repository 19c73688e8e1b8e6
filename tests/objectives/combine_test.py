"""Advantages of several rewards: units, weights, shares, refusals."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.objectives import advantages

# What may be chosen together: all but 'group' with another than 'grpo'.
CHOICES = [
  ("group", "grpo"),
  *itertools.product(("batch", "none"), advantages.ADVANTAGES),
]


# Deviations within the groups: 1, 0 and 0.1, 0.2.
RAW = {
  "text": jnp.array([[1.0, 3.0], [5.0, 5.0]]),
  "copy": jnp.array([[0.0, -0.2], [0.0, -0.4]]),
}


WEIGHTS = {"text": 2.0, "copy": 0.5}
NAMES = ("text", "history", "future", "copy")


def combined(normalise, advantage, raw=RAW, weights=WEIGHTS):
  return advantages.combine(
    raw, weights, normalise=normalise, advantage=advantage
  )[0]


# The sums before the baseline: of raw rewards; of rewards over the means of the
# deviations, 0.5 and 0.15.
SUMS = {
  "none": [[2, 5.9], [10, 9.8]],
  "batch": [[4, 12 - 0.1 / 0.15], [20, 20 - 0.2 / 0.15]],
}


HALF = {"none": [1.95, -0.1], "batch": [4 - 0.05 / 0.15, -0.1 / 0.15]}


@pytest.mark.parametrize("normalise", ["none", "batch"])
def test_advantages_by_hand(normalise):
  def check(name, expected):
    np.testing.assert_allclose(
      combined(normalise, name), expected, rtol=2e-6, err_msg=name
    )

  (a, b), sums = HALF[normalise], SUMS[normalise]
  check("reinforce", sums)
  check("dr_grpo", [[-a, a], [-b, b]])
  check("rloo", [[-2 * a, 2 * a], [-2 * b, 2 * b]])
  check("grpo", [[-1, 1], [1, -1]])


def test_group_advantages_by_hand():
  """Standardised, text is [-1, 1] | [0, 0] and copy is [1, -1] | [1, -1]."""
  raw = {k: jnp.concatenate([v, v[:, :1]], 1) for k, v in RAW.items()}
  # With a third sample like the first: [-1, 2, -1] and [1, -2, 1], each over
  # the root of 2. Of the sum only the sign of the larger weight is left.
  for weights, sign in (
    ({"text": 2.0, "copy": 0.5}, 1),
    (
      {"text": 0.5, "copy": 2.0},
      -1,
    ),
  ):
    np.testing.assert_allclose(
      combined("group", "grpo", raw, weights) * np.sqrt(2),
      [[-sign, 2 * sign, -sign], [1, -2, 1]],
      rtol=1e-5,
    )
  # Two rewards that are not of one mind: [1, 0, -1] and [1, -2, 1] standardised
  # are these, and their sum has a mean square of 2.
  x, y = np.array([1, 0, -1]) * np.sqrt(1.5), np.array([1, -2, 1]) / np.sqrt(2)
  raw = {
    "text": jnp.array([[0.3, 0.2, 0.1]]),
    "copy": jnp.array([[-0.1, -0.7, -0.1]]),
  }
  np.testing.assert_allclose(
    combined("group", "grpo", raw, {"text": 1.0, "copy": 1.0}),
    [(x + y) / np.sqrt(2)],
    rtol=1e-5,
  )


def random_rewards(seed=0, prompts=8, samples=4):
  """Returns rewards of unlike spreads, and groups of unlike spreads."""
  rng = np.random.default_rng(seed)
  groups = np.linspace(0.2, 2, prompts)[:, None]
  return {
    name: np.float32(0.3 + scale * groups * rng.normal(size=(prompts, samples)))
    for name, scale in zip(NAMES, (0.2, 0.05, 0.1, 0.02), strict=True)
  }


ONES = dict.fromkeys(NAMES, 1.0)


@pytest.mark.parametrize("normalise", ["batch", "none"])
def test_the_four_advantages_are_four(normalise):
  """No two point the same way: GRPO weighs groups, REINFORCE has no baseline.

  RLOO is Dr. GRPO times G / (G - 1), as it should be, and nothing else.
  """
  raw = random_rewards()
  found = {
    name: np.float64(combined(normalise, name, raw, ONES)).ravel()
    for name in advantages.ADVANTAGES
  }
  np.testing.assert_allclose(found["rloo"], found["dr_grpo"] * 4 / 3, rtol=1e-5)
  for one, other in itertools.combinations(("grpo", "dr_grpo", "reinforce"), 2):
    a, b = found[one], found[other]
    assert abs(a @ b) < 0.95 * np.linalg.norm(a) * np.linalg.norm(b), one


@pytest.mark.parametrize("normalise", ["group", "batch"])
def test_a_weight_means_the_same_whatever_the_spread(normalise):
  raw = random_rewards()
  values = combined(normalise, "grpo", raw, ONES)
  scaled = raw | {"text": 3 * raw["text"], "history": raw["history"] - 0.2}
  np.testing.assert_allclose(
    combined(normalise, "grpo", scaled, ONES), values, atol=1e-4
  )
  other = combined("none", "grpo", scaled, ONES)
  assert np.abs(other - combined("none", "grpo", raw, ONES)).max() > 0.1


def test_dr_grpo_keeps_how_far_groups_spread():
  """Twice the spread, twice the advantage; under GRPO the same."""
  narrow = np.float32([[0.1, 0.3, 0.2, 0.4]])
  raw = {"text": np.concatenate([narrow, 2 * narrow])}
  for normalise, advantage, factor in (
    ("batch", "dr_grpo", 2),
    ("none", "dr_grpo", 2),
    ("batch", "grpo", 1),
    ("group", "grpo", 1),
  ):
    a, b = combined(normalise, advantage, raw, {"text": 1.0})
    np.testing.assert_allclose(b, factor * a, rtol=1e-5)


def test_the_batch_is_that_of_all_devices():
  """Half of the devices hold groups that spread by a tenth."""
  raw = random_rewards(prompts=16)
  raw = {k: v * np.repeat([0.1, 1], 8)[:, None] for k, v in raw.items()}
  raw = jax.tree.map(np.float32, raw)
  mesh = jax.make_mesh((8,), ("data",))
  spread = jax.device_put(raw, jax.NamedSharding(mesh, jax.P("data")))
  run = jax.jit(
    lambda raw: advantages.combine(
      raw, ONES, normalise="batch", advantage="dr_grpo"
    )
  )
  whole = advantages.combine(raw, ONES, normalise="batch", advantage="dr_grpo")
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    run(spread),
    whole,
  )


EXCESSES = np.float32([0, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1])


def penalised(excess, samples=8, others=1.0):
  """Returns rewards of a batch in which one sample is too near the history."""
  raw = random_rewards(prompts=2, samples=samples)
  raw = {k: np.float32(others * v) for k, v in raw.items()}
  raw["copy"] = np.zeros_like(raw["copy"])
  raw["copy"][0, 0] = -excess
  return raw


@pytest.mark.parametrize(("normalise", "advantage"), CHOICES)
@pytest.mark.parametrize("others", [1.0, 0.0])
def test_the_penalty_is_no_cliff(normalise, advantage, others):
  """What an excess costs rises with it, from nothing, without a jump.

  Also where no other reward has any spread, so that the penalty is all there
  is.
  """
  cost = []
  for excess in EXCESSES:
    raw = penalised(excess, others=others)
    clean = penalised(0.0, others=others)
    cost.append(
      combined(normalise, advantage, clean, ONES)[0, 0]
      - combined(normalise, advantage, raw, ONES)[0, 0]
    )
  assert cost[0] == 0
  assert (np.diff(cost) > -1e-6).all()
  assert cost[2] < 0.01  # of 1e-5: next to nothing
  assert cost[-1] > 5 * cost[4] > 0  # 0.1 costs far more than 0.001


@pytest.mark.parametrize(
  ("excess", "penalty"),
  [
    # 7/8 of the excess over 0.01, until the deviation sqrt(7)/8 of the excess
    # is 0.01: from 0.0302 on it is the standardised -sqrt(7).
    (1e-5, -7 / 8 * 1e-3),
    (1e-3, -7 / 8 * 0.1),
    (0.02, -7 / 8 * 2),
    (0.05, -math.sqrt(7)),
  ],
)
def test_the_penalty_by_hand(excess, penalty):
  """Of a sum that has no other part."""
  values = combined(
    "group",
    "grpo",
    penalised(excess),
    ONES | {"text": 0.0, "history": 0.0, "future": 0.0},
  )
  np.testing.assert_allclose(values[0, 0], penalty, rtol=1e-4)
  np.testing.assert_allclose(values[0, 1:], -penalty / 7, rtol=1e-4)
  np.testing.assert_array_equal(values[1], np.zeros(8))


@pytest.mark.parametrize(("normalise", "advantage"), CHOICES)
def test_contributions_are_shares(normalise, advantage):
  raw = random_rewards()
  weights = ONES | {"history": 0.0, "copy": 0.3}
  values, metrics = advantages.combine(
    raw, weights, normalise=normalise, advantage=advantage
  )
  shares = {k: metrics[f"reward/{k}_contribution"] for k in raw}
  np.testing.assert_allclose(sum(shares.values()), 1, rtol=1e-5)
  assert shares["history"] == 0
  # Without a reward's term the advantage, divided as before, lacks its part.
  if advantage != "grpo":
    units = {
      k: advantages.NORMALISATIONS[normalise](jnp.asarray(v), None)
      for k, v in raw.items()
    }
    rest = advantages.estimate(
      advantage,
      sum(weights[k] * raw[k] / units[k] for k in raw if k != "text"),
    )
    square = np.mean(values**2)
    np.testing.assert_allclose(
      shares["text"], np.mean((values - rest) * values) / square, rtol=1e-4
    )


def test_contributions_by_hand():
  """Text is worth +-2, copy -+0.5 and -+0.5, of +-1.5 and -+0.5."""
  _, metrics = advantages.combine(
    {"text": RAW["text"], "copy": RAW["copy"].at[0, 1].set(-0.4)},
    {"text": 2.0, "copy": 2.5},
    normalise="none",
    advantage="dr_grpo",
  )
  expected = {
    "reward/text_weighted_mean": 2 * 14 / 4,
    "reward/copy_weighted_mean": -2.5 * 0.8 / 4,
    # Parts: text 2 and 0, copy -0.5 and -0.5; whole 1.5 and -0.5.
    "reward/text_contribution": (2 * 1.5) / (1.5**2 + 0.5**2),
    "reward/copy_contribution": (-0.5 * 1.5 + 0.5**2) / (1.5**2 + 0.5**2),
  }
  assert set(metrics) == set(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    assert metrics[name].shape == ()


def test_contributions_of_nothing_are_nothing():
  for weights in (ONES, dict.fromkeys(ONES, 0.0)):
    values, metrics = advantages.combine(
      dict.fromkeys(ONES, jnp.full((2, 3), 0.3)),
      weights,
      normalise="group",
      advantage="grpo",
    )
    np.testing.assert_array_equal(values, np.zeros((2, 3)))
    for name in ONES:
      assert metrics[f"reward/{name}_contribution"] == 0


def test_a_reward_of_weight_zero_is_left_out():
  broken = RAW | {"text": jnp.full((2, 2), jnp.nan)}
  weights = {"text": 0.0, "copy": 1.0}
  for normalise, advantage in CHOICES:
    np.testing.assert_array_equal(
      combined(normalise, advantage, broken, weights),
      combined(normalise, advantage, {"copy": RAW["copy"]}, {"copy": 1.0}),
    )
  np.testing.assert_array_equal(
    combined("none", "reinforce", broken, weights), RAW["copy"]
  )


def test_a_bad_reward_is_not_hidden():
  broken = RAW | {"copy": RAW["copy"].at[0, 0].set(jnp.nan)}
  for normalise, advantage in CHOICES:
    values = combined(normalise, advantage, broken)
    assert not np.isfinite(values[0]).all()


def test_rewards_that_cancel_leave_no_noise():
  """History max and copy may be exact opposites: nothing is to be learned."""
  seen = np.float32([[0.913, 0.9271, 0.9502, 0.9913]])
  raw = {"history": seen, "copy": np.float32(0.9) - seen}
  for normalise in ("group", "batch", "none"):
    np.testing.assert_array_equal(
      combined(normalise, "grpo", raw, {"history": 1.0, "copy": 1.0}),
      np.zeros((1, 4)),
    )


@pytest.mark.parametrize(
  ("normalise", "advantage", "samples", "message"),
  [
    ("group", "dr_grpo", 4, "normalise='batch' with 'dr_grpo', or advantage="),
    ("group", "rloo", 4, "normalise='batch' with 'rloo', or advantage="),
    ("group", "reinforce", 4, "normalise='batch' with 'reinforce', or"),
    ("group", "grpo", 1, "advantage='reinforce' with normalise='none'"),
    ("none", "grpo", 1, "advantage='reinforce' with normalise='none'"),
    ("batch", "dr_grpo", 1, "advantage='reinforce' with normalise='none'"),
    ("none", "rloo", 1, "advantage='reinforce' with normalise='none'"),
    ("batch", "reinforce", 1, "use normalise='none'"),
    ("std", "grpo", 4, "normalise='std': expected one of group, batch, none"),
    ("none", "ppo", 4, "'ppo': expected one of grpo, dr_grpo, rloo, reinforce"),
  ],
)
def test_what_means_nothing_is_refused(normalise, advantage, samples, message):
  with pytest.raises(UserError, match=message):
    combined(
      normalise, advantage, {"text": jnp.ones((2, samples))}, {"text": 1.0}
    )


def test_everything_else_is_allowed():
  for normalise, advantage in [*CHOICES, ("none", "reinforce")]:
    for samples in (2, 8):
      assert not advantages.contradictions(
        advantage=advantage, normalise=normalise, num_samples=samples
      )
  assert not advantages.contradictions(
    advantage="reinforce", normalise="none", num_samples=1
  )


def test_each_reward_has_one_weight():
  with pytest.raises(UserError, match=r"\['copy', 'text'\]"):
    combined("none", "grpo", RAW, {"text": 1.0})
  with pytest.raises(UserError, match="novelty"):
    combined("none", "grpo", RAW, {"text": 1.0, "copy": 1.0, "novelty": 1.0})


def test_bfloat16_rewards_are_combined_in_float32():
  raw = {"text": jnp.asarray([[0.1, 0.3]], jnp.bfloat16)}
  found = advantages.combine(
    raw, {"text": 2.0}, normalise="none", advantage="dr_grpo"
  )
  assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}
