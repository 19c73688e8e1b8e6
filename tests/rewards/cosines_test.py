"""Cosine rewards against values by hand, and what must never count."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import groups, rewards
from genrec_jax.core.errors import UserError
from genrec_jax.models.clip import Clip, Tower
from genrec_jax.objectives import advantages
from genrec_jax.targets import Targets, embed_targets
from tests.targets_test import batch

OPTIONS = {
  "text": {"weight": 1.0},
  "history": {"weight": 1.0, "pool": "mean", "recency_decay": 0.5},
  "future": {"weight": 1.0, "pool": "mean"},
  "copy": {"weight": 1.0, "threshold": 0.9},
}


POOLS = [
  (history, future)
  for history in ("mean", "max", "recency")
  for future in ("mean", "max", "first")
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


TARGETS = Targets(
  text=at(60),
  history=at(0, 60, 90)[None],
  history_mask=jnp.ones((1, 3), bool),
  future=at(30, 180)[None],
  future_mask=jnp.ones((1, 2), bool),
)


def score(images=IMAGES, targets=TARGETS, **changes):
  """Returns all rewards; changes are options of one, as history_pool."""
  options = {name: dict(section) for name, section in OPTIONS.items()}
  sections = {
    "history_pool": "history",
    "recency_decay": "history",
    "future_pool": "future",
    "copy_threshold": "copy",
  }
  for key, value in changes.items():
    section = sections[key]
    options[section][key.removeprefix(f"{section}_")] = value
  return rewards.score(images, targets, rewards.from_options(options))


def assert_rewards(got, expected):
  np.testing.assert_allclose(got, [expected], rtol=1e-6, atol=1e-7)


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


def random_problem(seed, seen, ahead, width=6):
  """Returns images and targets with the given masks, unit vectors."""
  rng = np.random.default_rng(seed)

  def unit(*shape):
    x = rng.normal(size=(*shape, width))
    return np.float32(x / np.linalg.norm(x, axis=-1, keepdims=True))

  seen, ahead = np.atleast_2d(seen), np.atleast_2d(ahead)
  prompts = len(seen)
  return unit(prompts, 4), Targets(
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
  for normalise, name in [("group", "grpo"), ("none", "dr_grpo")]:
    values, _ = advantages.combine(
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


def test_cosines_ask_for_full_precision():
  """A TPU multiplies float32 in bfloat16 unless told otherwise."""
  graph = str(jax.make_jaxpr(score)(IMAGES, TARGETS))
  assert graph.count("dot_general") == 4  # one for each reward
  assert graph.count("Precision.HIGHEST") >= 4


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"history_pool": "median"},
      "'median': expected one of mean, max, recency",
    ),
    ({"future_pool": "last"}, "'last': expected one of mean, max, first"),
    ({"copy_threshold": 90}, "threshold=90: expected a cosine"),
    ({"recency_decay": 0.0}, r"recency_decay=0.0: expected in \(0, 1\]"),
  ],
)
def test_an_option_out_of_range_is_refused(change, message):
  with pytest.raises(UserError, match=message):
    score(**change)


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
    targets = embed_targets(clip, params, batch)
    images = batch.history[:, :2].astype(jnp.float32) / 255
    return targets, rewards.score(
      clip.embed_images(params, images),
      targets,
      rewards.from_options(
        OPTIONS
        | {
          "history": {"weight": 1.0, "pool": "max", "recency_decay": 1.0},
          "copy": {"weight": 1.0, "threshold": 0.95},
        }
      ),
    )

  targets, raw = run(params, given_batch)
  np.testing.assert_allclose(
    np.linalg.norm(targets.history, axis=-1), 1, rtol=1e-5
  )
  np.testing.assert_allclose(raw["history"], np.ones((2, 2)), rtol=1e-5)
  np.testing.assert_allclose(raw["copy"], np.full((2, 2), -0.05), rtol=1e-3)
  assert {x.shape for x in raw.values()} == {(2, 2)}


def test_diversity_by_hand():
  """Of 0, 60 and 90 degrees: 1 - the mean cosine with the two others."""
  images = at(0, 60, 90)[None]
  expected = [1 - (0.5 + 0) / 2, 1 - (0.5 + C30) / 2, 1 - (0 + C30) / 2]
  assert_rewards(rewards.REWARDS["diversity"](images, TARGETS), expected)


@many
@given(st.integers(0, 2**16), st.integers(2, 6))
def test_diversity_is_what_a_sample_adds_to_its_group(seed, samples):
  """Within a group, the leave-one-out contribution, by a factor."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(samples + 1, 5))
  x /= np.linalg.norm(x, axis=-1, keepdims=True)

  def of(group):
    pairs = group @ group.T
    count = len(group)
    return 1 - (pairs.sum() - np.trace(pairs)) / (count * (count - 1))

  without = [of(np.delete(x, i, 0)) for i in range(samples + 1)]
  adds = of(x) - np.asarray(without)
  got = rewards.REWARDS["diversity"](jnp.asarray(x, "float32")[None], TARGETS)
  np.testing.assert_allclose(got.mean(), of(x), atol=1e-5)
  factor = 2 / (samples - 1)  # 2 / (G - 2) of G = samples + 1
  np.testing.assert_allclose(
    factor * (got[0] - got.mean()), adds - adds.mean(), atol=1e-5
  )


def test_diversity_of_equal_samples_is_zero_and_teaches_nothing():
  values = rewards.REWARDS["diversity"](at(30, 30, 30, 30)[None], TARGETS)
  np.testing.assert_allclose(values, np.zeros((1, 4)), atol=1e-6)
  assert groups.zero_spread(values).all()


def test_diversity_needs_a_group():
  with pytest.raises(UserError, match="with 1 sample per prompt"):
    rewards.REWARDS["diversity"](IMAGES[:, :1], TARGETS)


def test_quality_is_the_cosine_times_the_length_of_the_text():
  targets = TARGETS.replace(text=100 * TARGETS.text)
  assert_rewards(rewards.REWARDS["quality"](IMAGES, targets), [50.0, 100.0])
