"""Reward gradients through the image: slopes, and the steps they make."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genrec_jax import rewards, sampling
from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding
from genrec_jax.core.types import TrainState
from genrec_jax.hf import load
from genrec_jax.objectives.pathwise import RELAXATIONS, Pathwise
from genrec_jax.sampling import Sampling
from genrec_jax.targets import embed_targets
from genrec_jax.testing import amplified, random_batch, tiny_clip, tiny_janus
from genrec_jax.train import policy_update, rl, slopes
from genrec_jax.train.policy_update import Experience
from tests import rounding
from tests.bandit import Angles, Bandit, bandit_batch
from tests.train.gradients import KEEP, gradient
from tests.train.options import rl_options

PROMPTS = 4
BANDIT, ANGLES = Bandit(), Angles()
RAW = Pathwise(
  share=1.0, relaxation="expectation", temperature=1.0, normalise="none"
)
OPTIONS = rl_options(
  sample=Sampling(num_samples=5, guidance=2.0),
  kl_weight=0.0,
  pathwise=RAW,
)


@pytest.fixture(scope="module")
def table():
  return BANDIT.init(jax.random.key(0), PROMPTS + 1)


def step(params, mesh=None, **options):
  """Takes a step of the bandit that moves nothing: (gradient, metrics)."""
  optimizer = optax.chain(KEEP, optax.sgd(0.0))
  one = functools.partial(
    rl.train_step,
    model=BANDIT,
    clip=ANGLES,
    optimizer=optimizer,
    to_rollout_layout=lambda params: params,
    options=dataclasses.replace(OPTIONS, **options),
  )
  state = TrainState(jnp.int32(0), params, optimizer.init(params))
  frozen, batch = {"generator_rest": {}, "clip": {}}, bandit_batch(PROMPTS)
  if mesh is not None:
    one = sharding.trace_with_mesh(mesh, one)
    batch = sharding.put_batch(mesh, batch)
    # As the step returns it, for one compilation.
    state = jax.device_put(state, jax.NamedSharding(mesh, jax.P()))
  one = jax.jit(one)
  state, metrics = one(state, frozen, batch)
  one(state, frozen, batch)
  assert one._cache_size() == 1
  return gradient(state)["table/embedding"], jax.device_get(metrics)


def chances(params, guidance):
  rows = params["table"]["embedding"].reshape(-1, 1, 3, 8)
  return jax.nn.softmax(rows[:1] + guidance * (rows[1:] - rows[:1]))


@pytest.mark.parametrize("scoring", ["guided", "conditional"])
def test_the_gradient_is_that_of_a_relaxed_image(table, scoring):
  """Of the rewards of images whose vectors move with the distribution's mean.

  By finite differences, of a function that knows no surrogate.
  """
  found, metrics = step(table, scoring=scoring)
  codes = sampling.sample_images(
    BANDIT,
    table,
    bandit_batch(PROMPTS).prompt,
    jax.random.fold_in(jax.random.key(OPTIONS.seed), 0),
    OPTIONS.sample,
  ).codes
  targets = embed_targets(ANGLES, {}, bandit_batch(PROMPTS))
  book = BANDIT.code_vectors({})  # [C, 1]
  guidance = 2.0 if scoring == "guided" else 1.0

  @jax.jit
  def reward(params):
    moved = (chances(params, guidance) - chances(table, guidance)) @ book
    pixels = BANDIT.decode_vectors(params, book[codes] + moved)
    raw = rewards.score(
      ANGLES.embed_images({}, pixels), targets, OPTIONS.rewards
    )
    total = sum(OPTIONS.weights[name] * raw[name] for name in raw)
    return total.mean() / 3  # the aggregation 'token' is a mean over 3 codes

  np.testing.assert_allclose(3 * reward(table), metrics["reward"], rtol=1e-5)
  along = jax.random.normal(jax.random.key(4), (3, *found.shape))
  numeric = []
  for direction in along:
    step_size = 0.05  # the second order cancels, the third is 1e-4 of it
    high, low = (
      reward(
        {"table": {"embedding": table["table"]["embedding"] + h * direction}}
      )
      for h in (step_size, -step_size)
    )
    # Rewards of about 1 are rounded by 1e-7, over 0.1.
    numeric.append((high - low) / (2 * step_size))
  exact = -np.sum(found[None] * along, (1, 2))
  np.testing.assert_allclose(exact, numeric, rtol=5e-3, atol=2e-5)
  assert np.abs(exact).max() > 1e-3


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_both_is_a_mixture_of_the_two_gradients(table, relaxation):
  found = {}
  for share in (0.25, 1.0, None):
    how = None
    if share:
      how = dataclasses.replace(RAW, share=share, relaxation=relaxation)
    found[share] = step(table, pathwise=how)
  expected = 0.75 * found[None][0] + 0.25 * found[1.0][0]
  np.testing.assert_allclose(found[0.25][0], expected, atol=1e-7)
  assert np.abs(found[1.0][0] - found[None][0]).max() > 1e-3
  # Of the score estimator's step nothing speaks of slopes.
  assert found[0.25][1].keys() - found[None][1].keys() == {
    "slope_norm",
    "pathwise_loss",
  }
  metrics = found[0.25][1]
  np.testing.assert_allclose(
    metrics["loss"],
    metrics["policy_loss"] + 0.25 * metrics["pathwise_loss"],
    atol=1e-7,
  )
  # Without samples' advantages, nothing is left of the policy's loss.
  assert found[1.0][1]["policy_loss"] == 0


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_microbatches_equal_the_whole(table, relaxation):
  how = dataclasses.replace(RAW, relaxation=relaxation)
  whole, parts = (step(table, pathwise=how, microbatches=m) for m in (1, 2))
  np.testing.assert_allclose(parts[0], whole[0], atol=1e-7)
  np.testing.assert_allclose(
    parts[1]["pathwise_loss"], whole[1]["pathwise_loss"], rtol=1e-5
  )


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_eight_devices_step_as_one(table, relaxation):
  how = dataclasses.replace(RAW, share=0.5, relaxation=relaxation)
  found, metrics = step(table, mesh_lib.make_mesh(4, 2), pathwise=how)
  expected, single = step(table, pathwise=how)
  np.testing.assert_allclose(found, expected, atol=1e-7)
  np.testing.assert_allclose(
    metrics["pathwise_loss"], single["pathwise_loss"], rtol=1e-5
  )


def test_the_unconditional_branch_learns_unless_stopped(table):
  for stop in (False, True):
    found, _ = step(table, stop_unconditional_gradient=stop)
    assert np.any(found[0]) != stop
    assert np.all(np.any(found[1:], 1))


def test_weights_of_the_sampler_weigh_slopes_too(table):
  """Where it was 1.5 times less sure than training is."""
  codes = jax.random.randint(jax.random.key(1), (PROMPTS, 5, 3), 0, 8)
  prompt = bandit_batch(PROMPTS).prompt
  given = slopes.pathwise.Slopes(jnp.ones((PROMPTS, 5, 3, 1)), None)

  def loss(cap, less):
    options = dataclasses.replace(OPTIONS, sampler_weight_cap=cap)
    score = policy_update.make_score(BANDIT, {}, options)
    own = score(table, prompt, codes).logprobs
    experience = Experience(
      prompt, codes, own - less, jnp.zeros((PROMPTS, 5)), given
    )
    _, metrics = policy_update.epoch_loss(
      table,
      experience,
      own,
      None,
      score=score,
      epoch=jnp.int32(0),
      options=options,
    )
    return metrics["pathwise_loss"]

  plain = loss(0.0, np.log(1.5))
  assert abs(plain) > 1e-4
  np.testing.assert_allclose(loss(2.0, np.log(1.5)), 1.5 * plain, rtol=1e-5)
  np.testing.assert_allclose(loss(2.0, np.log(4)), 2 * plain, rtol=1e-5)


def test_noise_is_new_in_each_step_and_is_the_samples_own():
  codes = jnp.zeros((2, 3, 3), jnp.int32)
  options = dataclasses.replace(
    OPTIONS, pathwise=dataclasses.replace(RAW, relaxation="gumbel")
  )
  first, second = (
    slopes.find(
      BANDIT,
      {},
      functools.partial(ANGLES.embed_images, {}),
      codes,
      jnp.ones((2, 3, 2)),
      jax.random.key(seed),
      options,
    )[0]
    for seed in (0, 1)
  )
  data = [np.asarray(jax.random.key_data(x.keys)) for x in (first, second)]
  assert data[0].shape[:3] == codes.shape
  assert len(np.unique(np.concatenate(data).reshape(-1, 2), axis=0)) == 36


MODEL, CLIP = tiny_janus(), tiny_clip()


@pytest.fixture(scope="module")
def params():
  return amplified(MODEL.init(jax.random.key(0)), 1.25)


@pytest.fixture(scope="module")
def clip_params():
  return CLIP.init(jax.random.key(1))


CODES = jax.random.randint(jax.random.key(2), (8, 2, 4), 0, 16)
GIVEN = jax.random.normal(jax.random.key(3), (8, 2, 8))  # [P, G, E']


def through_the_image(params, clip_params, codes, given, parts=1):
  embed = functools.partial(CLIP.embed_images, clip_params)
  return slopes.code_slopes(MODEL, params, embed, codes, given, parts)


def test_slopes_of_codes_are_those_of_finite_differences():
  """Through the bundled VQ decoder and CLIP, along a direction per image."""
  loaded = load.load_generator("tiny_sft", dtype="float32")
  clip, clip_params, _ = load.load_clip("tiny_clip", dtype="float32")
  embed = functools.partial(clip.embed_images, clip_params)
  size, length = loaded.model.codebook_size, loaded.model.image_tokens
  codes = jax.random.randint(jax.random.key(2), (2, 2, length), 0, size)
  given = jax.random.normal(jax.random.key(3), (2, 2, clip.embed_dim))
  vectors = loaded.model.code_vectors(loaded.params)[codes]
  along = jax.random.normal(jax.random.key(4), vectors.shape)

  @jax.jit
  def gain(h):
    pixels = loaded.model.decode_vectors(loaded.params, vectors + h * along)
    return jnp.sum(embed(pixels) * given, -1)  # [P, G]

  @jax.jit
  def slope(codes, given):
    found = slopes.code_slopes(
      loaded.model, loaded.params, embed, codes, given, 1
    )
    return jnp.sum(found * along, (-2, -1))

  h = 5e-4
  numeric = (gain(h) - gain(-h)) / (2 * h)
  exact = slope(codes, given)
  # Sums of products of about 1 are rounded by 1e-6, over 1e-3; beyond that
  # there is curvature, and there are pixels that pass 0 or 1 within the step.
  scale = np.abs(exact).max()
  assert scale > 0.05
  np.testing.assert_allclose(numeric, exact, rtol=0, atol=0.02 * scale)


def test_where_nothing_moves_the_image_is_the_sampled_one(params):
  vectors = MODEL.code_vectors(params)[CODES]
  np.testing.assert_array_equal(
    MODEL.decode_vectors(params, vectors), MODEL.decode_pixels(params, CODES)
  )


@pytest.mark.parametrize("parts", [1, 2])
def test_eight_devices_find_the_slopes_of_one(params, clip_params, parts):
  expected = jax.jit(through_the_image)(params, clip_params, CODES, GIVEN)
  mesh = mesh_lib.make_mesh(4, 2)
  rows = sharding.put_batch(mesh, (np.asarray(CODES), np.asarray(GIVEN)))
  found = jax.jit(
    sharding.trace_with_mesh(
      mesh, functools.partial(through_the_image, parts=parts)
    )
  )(params, clip_params, *rows)
  rounding.assert_close(found, expected, terms=24 * 288)


def learned(model, params, codes, vectors, pathwise):
  """Returns the gradient of a surrogate alone, as one vector."""
  options = dataclasses.replace(OPTIONS, pathwise=pathwise)
  keys = jax.random.split(jax.random.key(5), codes.shape)
  given = slopes.pathwise.Slopes(vectors, keys)
  still = jnp.zeros(codes.shape)
  experience = Experience(
    random_batch(8).prompt, codes, still, jnp.zeros(codes.shape[:2]), given
  )
  score = policy_update.make_score(model, {}, options)

  def loss(params):
    return policy_update.epoch_loss(
      params,
      experience,
      still,
      None,
      score=score,
      epoch=jnp.int32(0),
      options=options,
    )[0]

  found = jax.jit(jax.grad(loss))(params)
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(found)])


def test_bfloat16_has_the_gradient_of_float32(params, clip_params):
  vectors = through_the_image(params, clip_params, CODES, GIVEN)
  how = dataclasses.replace(RAW, relaxation="second_order")
  exact, rounded = (
    learned(MODEL.with_compute(dtype=dtype), params, CODES, vectors, how)
    for dtype in ("float32", "bfloat16")
  )
  assert np.isfinite(rounded).all()
  cosine = exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded)
  assert cosine > 0.99
