"""Rewards against values worked out by hand, and what must never count."""

import itertools
import math

from flax import struct
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import objectives, rewards
from genrec_jax.core.errors import UserError
from genrec_jax.core.types import Batch, Prompt
from genrec_jax.models.clip import Clip, Tower

OPTIONS = {
  "history_pool": "mean",
  "future_pool": "mean",
  "copy_threshold": 0.9,
  "recency_decay": 0.5,
}
POOLS = [
  (history, future)
  for history in ("mean", "max", "recency")
  for future in ("mean", "max", "first")
]

# What may be chosen together: all but 'group' with another than 'grpo'.
CHOICES = [
  ("group", "grpo"),
  *itertools.product(("batch", "none"), objectives.ADVANTAGES),
]

many = settings(max_examples=30, deadline=None, derandomize=True)


def at(*degrees):
  """Returns unit vectors [len, 2] at angles in the plane."""
  angles = np.radians(degrees)
  return jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], -1), "float32")


# Samples at 0 and 60 degrees. Cosines with the history (0, 60, 90, oldest
# first): 1, 1/2, 0 and 1/2, 1, cos 30. With the future (30, 180): cos 30, -1
# and cos 30, -1/2.
C30 = math.sqrt(3) / 2
IMAGES = at(0, 60)[None]
TARGETS = rewards.Targets(
  text=at(60),
  history=at(0, 60, 90)[None],
  history_mask=jnp.ones((1, 3), bool),
  future=at(30, 180)[None],
  future_mask=jnp.ones((1, 2), bool),
)


def score(images=IMAGES, targets=TARGETS, **changes):
  return rewards.score(images, targets, **OPTIONS | changes)


def assert_rewards(got, expected):
  np.testing.assert_allclose(got, [expected], rtol=1e-6, atol=1e-7)


# --- each reward by hand --------------------------------------------------


def test_text_by_hand():
  assert_rewards(score()["text"], [0.5, 1.0])


@pytest.mark.parametrize(
  ("pool", "expected"),
  [
    ("mean", [0.5, (0.5 + 1 + C30) / 3]),
    ("max", [1.0, 1.0]),
    # Weights 1/4, 1/2, 1 from the oldest to the newest, of 7/4.
    ("recency", [(0.25 + 0.25) / 1.75, (0.125 + 0.5 + C30) / 1.75]),
  ],
)
def test_history_by_hand(pool, expected):
  assert_rewards(score(history_pool=pool)["history"], expected)


@pytest.mark.parametrize(
  ("pool", "expected"),
  [
    ("mean", [(C30 - 1) / 2, (C30 - 0.5) / 2]),
    ("max", [C30, C30]),
    ("first", [C30, C30]),
  ],
)
def test_future_by_hand(pool, expected):
  assert_rewards(score(future_pool=pool)["future"], expected)


def test_future_first_is_not_future_max():
  targets = TARGETS.replace(future=at(180, 30)[None])
  assert_rewards(
    score(targets=targets, future_pool="first")["future"], [-1, -0.5]
  )
  assert_rewards(
    score(targets=targets, future_pool="max")["future"], [C30, C30]
  )


@pytest.mark.parametrize(
  ("degrees", "expected"),
  [
    (-45, 0.0),  # cos 45 = 0.71 with the nearest item: below the threshold
    (-25, 0.9 - math.cos(math.radians(25))),  # 0.906: a small excess
    (0, 0.9 - 1),  # a copy: the largest excess
    (60, 0.9 - 1),  # of any item, not only the first
  ],
)
def test_copy_by_hand(degrees, expected):
  assert_rewards(score(at(degrees)[None])["copy"], [expected])


def test_copy_is_zero_at_the_threshold():
  value = score(at(0)[None], copy_threshold=1.0)["copy"]
  np.testing.assert_array_equal(value, [[0.0]])
  assert not np.signbit(value).any()


@many
@given(st.floats(0, 360), st.floats(-1, 1))
def test_copy_is_minus_the_excess(angle, threshold):
  nearest = max(math.cos(math.radians(angle - x)) for x in (0, 60, 90))
  got = score(at(angle)[None], copy_threshold=threshold)["copy"]
  assert_rewards(got, [-max(nearest - threshold, 0)])


def test_recency_without_decay_is_the_mean():
  np.testing.assert_allclose(
    score(history_pool="recency", recency_decay=1.0)["history"],
    score(history_pool="mean")["history"],
    rtol=1e-6,
  )


# --- masks ----------------------------------------------------------------


def random_problem(seed, seen, ahead, width=6):
  """Returns images and targets with the given masks, unit vectors."""
  rng = np.random.default_rng(seed)

  def unit(*shape):
    x = rng.normal(size=(*shape, width))
    return np.float32(x / np.linalg.norm(x, axis=-1, keepdims=True))

  seen, ahead = np.atleast_2d(seen), np.atleast_2d(ahead)
  prompts = len(seen)
  return unit(prompts, 4), rewards.Targets(
    text=unit(prompts),
    history=unit(prompts, seen.shape[1]),
    history_mask=seen,
    future=unit(prompts, ahead.shape[1]),
    future_mask=ahead,
  )


masks = st.tuples(
  st.integers(0, 2**16),
  st.lists(st.booleans(), min_size=5, max_size=5),
  st.lists(st.booleans(), min_size=3, max_size=3),
)


@many
@given(
  masks, st.sampled_from(POOLS), st.sampled_from([7.0, math.nan, math.inf])
)
def test_masked_items_never_count(problem, pools, junk):
  images, targets = random_problem(*problem)
  spoilt = targets.replace(
    history=np.where(targets.history_mask[..., None], targets.history, junk),
    future=np.where(targets.future_mask[..., None], targets.future, junk),
  )
  options = {"history_pool": pools[0], "future_pool": pools[1]}
  clean = score(images, targets, copy_threshold=0.0, **options)
  dirty = score(images, spoilt, copy_threshold=0.0, **options)
  for name, values in clean.items():
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(dirty[name], values, err_msg=name)


@many
@given(masks, st.sampled_from(POOLS))
def test_masked_items_are_as_good_as_absent(problem, pools):
  """Against plain numpy over the real items only, wherever the gaps are."""
  images, targets = random_problem(*problem)
  got = score(
    images,
    targets,
    history_pool=pools[0],
    future_pool=pools[1],
    copy_threshold=0.2,
    recency_decay=0.7,
  )
  seen = targets.history[targets.history_mask]
  ahead = targets.future[targets.future_mask]
  for g, image in enumerate(images[0]):
    near, next_ = seen @ image, ahead @ image
    decays = 0.7 ** np.arange(len(near))[::-1]
    history = {
      "mean": lambda near=near: near.mean(),
      "max": lambda near=near: near.max(),
      "recency": lambda n=near, d=decays: (n * d).sum() / d.sum(),
    }[pools[0]]
    future = {
      "mean": lambda next_=next_: next_.mean(),
      "max": lambda next_=next_: next_.max(),
      "first": lambda next_=next_: next_[0],
    }[pools[1]]
    expected = {
      "text": targets.text[0] @ image,
      "history": history() if len(near) else 0.0,
      "future": future() if len(next_) else 0.0,
      "copy": min(0.2 - near.max(), 0.0) if len(near) else 0.0,
    }
    for name, value in expected.items():
      np.testing.assert_allclose(
        got[name][0, g], value, atol=1e-6, err_msg=name
      )


@pytest.mark.parametrize(("history_pool", "future_pool"), POOLS)
@pytest.mark.parametrize("length", [0, 3])
def test_a_user_without_items_teaches_nothing(
  history_pool, future_pool, length
):
  """All masked, or no slot at all: 0 for all, so advantages are exactly 0."""
  nothing = np.zeros((1, length), bool)
  images, targets = random_problem(0, nothing, nothing)
  raw = score(
    images, targets, history_pool=history_pool, future_pool=future_pool
  )
  for name in ("history", "future", "copy"):
    np.testing.assert_array_equal(raw[name], np.zeros((1, 4)))
  weights = {"text": 0.0, "history": 1.0, "future": 1.0, "copy": 1.0}
  for normalise, name in CHOICES:
    values, _ = rewards.advantages(
      raw, weights, normalise=normalise, advantage=name
    )
    np.testing.assert_array_equal(values, np.zeros((1, 4)))


def test_prompts_do_not_mix():
  seen = [[True, True], [False, False], [False, True]]
  images, targets = random_problem(3, seen, seen)
  together = score(images, targets)
  for p in range(3):
    alone = score(
      images[p : p + 1], jax.tree.map(lambda x, p=p: x[p : p + 1], targets)
    )
    for name, values in alone.items():
      np.testing.assert_allclose(values[0], together[name][p], atol=1e-6)


# --- numbers --------------------------------------------------------------


def test_bfloat16_is_computed_in_float32():
  images, targets = random_problem(1, [True] * 3, [True] * 2, width=64)
  half, half_targets = jax.tree.map(
    lambda x: x.astype(jnp.bfloat16) if x.dtype == np.float32 else x,
    (images, targets),
  )
  back, back_targets = jax.tree.map(
    lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x,
    (half, half_targets),
  )
  low, high = score(half, half_targets), score(back, back_targets)
  for name, values in low.items():
    assert values.dtype == jnp.float32
    np.testing.assert_array_equal(values, high[name])
    found = rewards.advantages(
      {name: values.astype(jnp.bfloat16)},
      {name: 2.0},
      normalise="none",
      advantage="dr_grpo",
    )
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}


def test_cosines_ask_for_full_precision():
  """A TPU multiplies float32 in bfloat16 unless told otherwise."""
  graph = str(jax.make_jaxpr(score)(IMAGES, TARGETS))
  assert graph.count("dot_general") == 3  # text, history, future
  assert graph.count("Precision.HIGHEST") >= 3


# --- advantages -----------------------------------------------------------

# Deviations within the groups: 1, 0 and 0.1, 0.2.
RAW = {
  "text": jnp.array([[1.0, 3.0], [5.0, 5.0]]),
  "copy": jnp.array([[0.0, -0.2], [0.0, -0.4]]),
}
WEIGHTS = {"text": 2.0, "copy": 0.5}


def advantages(normalise, advantage, raw=RAW, weights=WEIGHTS):
  return rewards.advantages(
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
      advantages(normalise, name), expected, rtol=2e-6, err_msg=name
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
      advantages("group", "grpo", raw, weights) * np.sqrt(2),
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
    advantages("group", "grpo", raw, {"text": 1.0, "copy": 1.0}),
    [(x + y) / np.sqrt(2)],
    rtol=1e-5,
  )


def random_rewards(seed=0, prompts=8, samples=4):
  """Returns rewards of unlike spreads, and groups of unlike spreads."""
  rng = np.random.default_rng(seed)
  groups = np.linspace(0.2, 2, prompts)[:, None]
  return {
    name: np.float32(0.3 + scale * groups * rng.normal(size=(prompts, samples)))
    for name, scale in zip(rewards.NAMES, (0.2, 0.05, 0.1, 0.02), strict=True)
  }


ONES = dict.fromkeys(rewards.NAMES, 1.0)


@pytest.mark.parametrize("normalise", ["batch", "none"])
def test_the_four_advantages_are_four(normalise):
  """No two point the same way: GRPO weighs groups, REINFORCE has no baseline.

  RLOO is Dr. GRPO times G / (G - 1), as it should be, and nothing else.
  """
  raw = random_rewards()
  found = {
    name: np.float64(advantages(normalise, name, raw, ONES)).ravel()
    for name in objectives.ADVANTAGES
  }
  np.testing.assert_allclose(found["rloo"], found["dr_grpo"] * 4 / 3, rtol=1e-5)
  for one, other in itertools.combinations(("grpo", "dr_grpo", "reinforce"), 2):
    a, b = found[one], found[other]
    assert abs(a @ b) < 0.95 * np.linalg.norm(a) * np.linalg.norm(b), one


@pytest.mark.parametrize("normalise", ["group", "batch"])
def test_a_weight_means_the_same_whatever_the_spread(normalise):
  raw = random_rewards()
  values = advantages(normalise, "grpo", raw, ONES)
  scaled = raw | {"text": 3 * raw["text"], "history": raw["history"] - 0.2}
  np.testing.assert_allclose(
    advantages(normalise, "grpo", scaled, ONES), values, atol=1e-4
  )
  other = advantages("none", "grpo", scaled, ONES)
  assert np.abs(other - advantages("none", "grpo", raw, ONES)).max() > 0.1


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
    a, b = advantages(normalise, advantage, raw, {"text": 1.0})
    np.testing.assert_allclose(b, factor * a, rtol=1e-5)


def test_the_batch_is_that_of_all_devices():
  """Half of the devices hold groups that spread by a tenth."""
  raw = random_rewards(prompts=16)
  raw = {k: v * np.repeat([0.1, 1], 8)[:, None] for k, v in raw.items()}
  raw = jax.tree.map(np.float32, raw)
  mesh = jax.make_mesh((8,), ("data",))
  spread = jax.device_put(raw, jax.NamedSharding(mesh, jax.P("data")))
  run = jax.jit(
    lambda raw: rewards.advantages(
      raw, ONES, normalise="batch", advantage="dr_grpo"
    )
  )
  whole = rewards.advantages(raw, ONES, normalise="batch", advantage="dr_grpo")
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    run(spread),
    whole,
  )


# --- the penalty of a copy ------------------------------------------------

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
      advantages(normalise, advantage, clean, ONES)[0, 0]
      - advantages(normalise, advantage, raw, ONES)[0, 0]
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
  values = advantages(
    "group",
    "grpo",
    penalised(excess),
    ONES | {"text": 0.0, "history": 0.0, "future": 0.0},
  )
  np.testing.assert_allclose(values[0, 0], penalty, rtol=1e-4)
  np.testing.assert_allclose(values[0, 1:], -penalty / 7, rtol=1e-4)
  np.testing.assert_array_equal(values[1], np.zeros(8))


# --- what each reward contributes -----------------------------------------


@pytest.mark.parametrize(("normalise", "advantage"), CHOICES)
def test_contributions_are_shares(normalise, advantage):
  raw = random_rewards()
  weights = ONES | {"history": 0.0, "copy": 0.3}
  values, metrics = rewards.advantages(
    raw, weights, normalise=normalise, advantage=advantage
  )
  shares = {k: metrics[f"reward/{k}_contribution"] for k in raw}
  np.testing.assert_allclose(sum(shares.values()), 1, rtol=1e-5)
  assert shares["history"] == 0
  # Without a reward's term the advantage, divided as before, lacks its part.
  if advantage != "grpo":
    units = {
      k: rewards.NORMALISATIONS[normalise](jnp.asarray(v))
      for k, v in raw.items()
    }
    rest = objectives.advantages(
      advantage,
      sum(weights[k] * raw[k] / units[k] for k in raw if k != "text"),
    )
    square = np.mean(values**2)
    np.testing.assert_allclose(
      shares["text"], np.mean((values - rest) * values) / square, rtol=1e-4
    )


def test_contributions_by_hand():
  """Text is worth +-2, copy -+0.5 and -+0.5, of +-1.5 and -+0.5."""
  _, metrics = rewards.advantages(
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
    values, metrics = rewards.advantages(
      dict.fromkeys(ONES, jnp.full((2, 3), 0.3)),
      weights,
      normalise="group",
      advantage="grpo",
    )
    np.testing.assert_array_equal(values, np.zeros((2, 3)))
    for name in ONES:
      assert metrics[f"reward/{name}_contribution"] == 0


# --- what is refused ------------------------------------------------------


def test_a_reward_of_weight_zero_is_left_out():
  broken = RAW | {"text": jnp.full((2, 2), jnp.nan)}
  weights = {"text": 0.0, "copy": 1.0}
  for normalise, advantage in CHOICES:
    np.testing.assert_array_equal(
      advantages(normalise, advantage, broken, weights),
      advantages(normalise, advantage, {"copy": RAW["copy"]}, {"copy": 1.0}),
    )
  np.testing.assert_array_equal(
    advantages("none", "reinforce", broken, weights), RAW["copy"]
  )


def test_a_bad_reward_is_not_hidden():
  broken = RAW | {"copy": RAW["copy"].at[0, 0].set(jnp.nan)}
  for normalise, advantage in CHOICES:
    values = advantages(normalise, advantage, broken)
    assert not np.isfinite(values[0]).all()


def test_rewards_that_cancel_leave_no_noise():
  """History max and copy may be exact opposites: nothing is to be learned."""
  seen = np.float32([[0.913, 0.9271, 0.9502, 0.9913]])
  raw = {"history": seen, "copy": np.float32(0.9) - seen}
  for normalise in ("group", "batch", "none"):
    np.testing.assert_array_equal(
      advantages(normalise, "grpo", raw, {"history": 1.0, "copy": 1.0}),
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
    advantages(
      normalise, advantage, {"text": jnp.ones((2, samples))}, {"text": 1.0}
    )


def test_everything_else_is_allowed():
  for normalise, advantage in [*CHOICES, ("none", "reinforce")]:
    for samples in (2, 8):
      assert not rewards.contradictions(
        advantage=advantage, normalise=normalise, num_samples=samples
      )
  assert not rewards.contradictions(
    advantage="reinforce", normalise="none", num_samples=1
  )


def test_each_reward_has_one_weight():
  with pytest.raises(UserError, match=r"\['copy', 'text'\]"):
    advantages("none", "grpo", RAW, {"text": 1.0})
  with pytest.raises(UserError, match="novelty"):
    advantages("none", "grpo", RAW, {"text": 1.0, "copy": 1.0, "novelty": 1.0})
  assert set(score()) == set(rewards.NAMES)


def test_score_lists_every_bad_option():
  with pytest.raises(UserError) as error:
    score(
      history_pool="median",
      future_pool="last",
      copy_threshold=90,
      recency_decay=0.0,
    )
  for part in ("median", "last", "copy_threshold=90", "recency_decay=0.0"):
    assert part in str(error.value)


def test_statistics_by_hand():
  metrics = rewards.statistics(RAW)
  expected = {
    "reward/text_mean": 14 / 4,
    "reward/text_std": (1 + 0) / 2,
    "reward/text_zero_spread": 0.5,
    "reward/copy_mean": -0.6 / 4,
    "reward/copy_std": (0.1 + 0.2) / 2,
    "reward/copy_zero_spread": 0.0,
  }
  assert set(metrics) == set(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)
    assert metrics[name].shape == ()


# --- targets --------------------------------------------------------------


def batch(prompts=2, items=3, ahead=2, size=8):
  rng = np.random.default_rng(0)

  def images(n):
    return rng.integers(0, 256, (prompts, n, size, size, 3), np.uint8)

  return Batch(
    prompt=Prompt(
      ids=np.zeros((prompts, 4), np.int32),
      mask=np.ones((prompts, 4), bool),
      images=np.zeros((prompts, items, size, size, 3), np.uint8),
    ),
    history=images(items),
    history_mask=np.array([[True, True, False]] * prompts),
    future=images(ahead),
    future_mask=np.array([[True, False]] * prompts),
    title_ids=np.tile(np.array([1, 5, 9, 7], np.int32), (prompts, 1)),
    title_mask=np.tile(np.array([True, True, True, False]), (prompts, 1)),
  )


@struct.dataclass
class MeanColour:
  """A reward model that embeds an image as its mean colour."""

  def embed_images(self, params, pixels):
    assert pixels.dtype == jnp.float32
    return (params * pixels.mean((-3, -2))).astype(jnp.bfloat16)

  def embed_texts(self, params, ids, mask):
    total = jnp.where(mask, ids, 0).sum(-1)
    return jnp.stack([total] * 3, -1).astype(jnp.bfloat16)


def test_targets_are_each_image_in_its_place():
  given_batch = batch()
  targets = rewards.embed_targets(MeanColour(), 1.0, given_batch)
  for name, images in (
    ("history", given_batch.history),
    ("future", given_batch.future),
  ):
    got = getattr(targets, name)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, (images / 255.0).mean((-3, -2)), rtol=1e-2)
  np.testing.assert_array_equal(targets.text, np.full((2, 3), 15.0))
  np.testing.assert_array_equal(targets.history_mask, given_batch.history_mask)
  np.testing.assert_array_equal(targets.future_mask, given_batch.future_mask)


def test_targets_are_constants():
  @struct.dataclass
  class Learned(MeanColour):
    def embed_texts(self, params, ids, mask):
      return params * super().embed_texts(params, ids, mask)

  def total(scale):
    targets = rewards.embed_targets(Learned(), scale, batch())
    return targets.history.sum() + targets.future.sum() + targets.text.sum()

  assert jax.grad(total)(1.0) == 0


def test_with_a_real_clip_a_copy_is_found():
  """The history image itself has cosine 1 with itself, and is penalised."""
  tower = Tower(width=16, mlp_width=32, num_layers=1, num_heads=2)
  clip = Clip(
    vision=tower,
    text=tower,
    projection_dim=8,
    image_size=8,
    patch_size=4,
    vocab_size=10,
    max_position_embeddings=4,
    eos_token_id=9,
  )
  params = clip.init(jax.random.key(0))
  given_batch = batch()

  @jax.jit
  def run(params, batch):
    targets = rewards.embed_targets(clip, params, batch)
    drawn = batch.history[:, :2].astype(jnp.float32) / 255
    return targets, rewards.score(
      clip.embed_images(params, drawn),
      targets,
      **OPTIONS | {"history_pool": "max", "copy_threshold": 0.95},
    )

  targets, raw = run(params, given_batch)
  np.testing.assert_allclose(
    np.linalg.norm(targets.history, axis=-1), 1, rtol=1e-5
  )
  np.testing.assert_allclose(raw["history"], np.ones((2, 2)), rtol=1e-5)
  np.testing.assert_allclose(raw["copy"], np.full((2, 2), -0.05), rtol=1e-3)
  assert {x.shape for x in raw.values()} == {(2, 2)}
