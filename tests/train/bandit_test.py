"""The steps of SFT and RL by hand, on a generator whose logits are a table."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import rl as rl_config
from genrec_jax import objectives, rewards, sampling
from genrec_jax.core.types import TrainState
from genrec_jax.models import janus
from genrec_jax.sampling import Sampling
from genrec_jax.targets import embed_targets
from genrec_jax.testing import tiny_clip, tiny_janus
from genrec_jax.train import rl, sft
from genrec_jax.train.plan import make_plan
from tests.bandit import Angles, Bandit, bandit_batch
from tests.train.gradients import KEEP, gradient
from tests.train.options import rl_options

MODEL, CLIP, PROMPTS = Bandit(), Angles(), 4
SAMPLE = Sampling(num_samples=5, guidance=2.0)
STEP = {
  "model": MODEL,
  "clip": CLIP,
  "optimizer": optax.chain(KEEP, optax.sgd(0.0)),
  "to_rollout_layout": lambda params: params,
}
OPTIONS = rl_options(sample=SAMPLE, copy_weight=0.0, kl_weight=0.0)


@pytest.fixture(scope="module")
def params():
  return MODEL.init(jax.random.key(0), PROMPTS + 1)


def begin(params, optimizer, step=0):
  return TrainState(jnp.int32(step), params, optimizer.init(params))


def run(params, step=0, reference=None, **options):
  """Takes one step, number `step`."""
  made_of = STEP | {key: options.pop(key) for key in STEP.keys() & options}
  frozen = {"generator_rest": {}, "clip": {}, "reference": reference}
  batch = bandit_batch(PROMPTS, made_of["model"])
  state = begin(params, made_of["optimizer"], step)
  one = functools.partial(
    rl.train_step, **made_of, options=dataclasses.replace(OPTIONS, **options)
  )
  state, metrics = jax.jit(one)(state, frozen, batch)
  return state, jax.device_get(metrics)


def sampled(params, **sample):
  """Samples what the first step samples."""
  key = jax.random.fold_in(jax.random.key(OPTIONS.seed), 0)
  prompt = bandit_batch(PROMPTS).prompt
  return sampling.sample_images(
    MODEL, params, prompt, key, dataclasses.replace(SAMPLE, **sample)
  )


def log_probs(params, codes, guidance):
  """Returns the log-probabilities of codes [P, G, I]."""
  table = params["table"]["embedding"].reshape(-1, 1, 3, 8)
  logits = table[:1] + guidance * (table[1:] - table[:1])
  scores = jnp.broadcast_to(jax.nn.log_softmax(logits), (*codes.shape, 8))
  return jnp.take_along_axis(scores, codes[..., None], -1)[..., 0]


def advantages(codes):
  batch = bandit_batch(PROMPTS)
  images = CLIP.embed_images({}, MODEL.decode_pixels({}, codes))
  raw = rewards.score(images, embed_targets(CLIP, {}, batch), OPTIONS.rewards)
  total = sum(OPTIONS.weights[name] * raw[name] for name in raw)
  return total - total.mean(1, keepdims=True)


@pytest.mark.parametrize("scoring", ["guided", "conditional"])
def test_inner_epochs_by_hand(params, scoring):
  """One rollout, one old policy, one optimizer."""
  # Adam's first step would turn the rounding of a slope of 0 into a sign.
  optimizer = optax.sgd(10.0, momentum=0.9)
  guidance = 2.0 if scoring == "guided" else 1.0
  codes = sampled(params).codes
  old, given = log_probs(params, codes, guidance), advantages(codes)

  def loss(params):
    return objectives.policy_loss(
      OPTIONS.objective, log_probs(params, codes, guidance), old, None, given
    )[0]

  expected, opt_state = params, optimizer.init(params)
  for _ in range(3):
    updates, opt_state = optimizer.update(jax.grad(loss)(expected), opt_state)
    expected = optax.apply_updates(expected, updates)
  state, metrics = run(
    params, optimizer=optimizer, scoring=scoring, inner_epochs=3
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-5),
    state.params,
    expected,
  )
  assert metrics["ratio_max_deviation"] > 0.01
  assert int(state.step) == 1


def test_scoring_cuts_and_tempers_as_sampling_does(params):
  for changed in (
    {"temperature": 0.7},
    {"top_k": 3},
    {"top_p": 0.6},
    {"temperature": 1.4, "top_k": 4, "top_p": 0.7},
  ):
    _, metrics = run(params, sample=dataclasses.replace(SAMPLE, **changed))
    # Log-probabilities of some units, one computation as the other.
    assert metrics["sampler_mismatch_max"] < 1e-5, changed


def test_the_unconditional_branch_learns_unless_stopped(params):
  for stop in (False, True):
    state, _ = run(params, stop_unconditional_gradient=stop)
    (slopes,) = gradient(state).values()
    assert np.any(slopes[0]) != stop
    assert np.all(np.any(slopes[1:], 1))


def test_each_step_has_its_own_noise(params):
  first, second = (run(params, step)[1] for step in (0, 1))
  assert first["reward"] == run(params, 0)[1]["reward"]
  assert first["reward"] != second["reward"]


def test_weights_multiply_the_gradient(params, monkeypatch):
  """Truncated importance weights, where the sampler was 1.5 times as sure."""
  codes = sampled(params).codes
  exact = sampled(params)
  sure = exact.replace(logprobs=exact.logprobs.at[:, 0].add(np.log(1.5)))
  unsure = exact.replace(logprobs=exact.logprobs.at[:, 0].add(np.log(0.25)))

  def slope(rollout, cap):
    monkeypatch.setattr(sampling, "sample_items", lambda *_, **__: rollout)
    state, metrics = run(params, sampler_weight_cap=cap)
    return gradient(state)["table/embedding"], metrics

  def by_hand(weight):
    factors = jnp.ones(codes.shape).at[:, 0].set(weight)
    terms = advantages(codes)[..., None] * factors

    def loss(params):
      return -jnp.mean(log_probs(params, codes, 2.0) * terms)

    return jax.grad(loss)(params)["table"]["embedding"]

  for rollout, cap, weight in (
    (exact, 2.0, 1.0),
    (sure, 0.0, 1.0),
    (sure, 2.0, 1 / 1.5),
    (unsure, 2.0, 2.0),
    (unsure, 5.0, 4.0),
  ):
    found, metrics = slope(rollout, cap)
    np.testing.assert_allclose(found, by_hand(weight), atol=1e-7)
    assert metrics["ratio_max_deviation"] == 0
  assert np.abs(by_hand(1.0) - by_hand(2.0)).max() > 1e-4
  # Of five samples one is off, by log 4, beyond the clip.
  np.testing.assert_allclose(
    metrics["sampler_mismatch_mean"], np.log(4) / 5, rtol=1e-5
  )
  np.testing.assert_allclose(
    metrics["sampler_mismatch_max"], np.log(4), rtol=1e-5
  )
  np.testing.assert_allclose(metrics["sampler_mismatch_outside"], 0.2)
  with pytest.raises(ValueError, match="sampler_weight_cap=2"):
    run(params, sampler_weight_cap=2.0, scoring="conditional")


def nats_of(params):
  """Returns the mean entropy of each prompt's codes, guided by 2: [P]."""
  table = params["table"]["embedding"].reshape(-1, 3, 8)
  logits = jax.nn.log_softmax(table[:1] + 2.0 * (table[1:] - table[:1]))
  return -jnp.sum(jnp.exp(logits) * logits, -1).mean(-1)


def test_the_entropy_bonus_pulls_up_what_lacks_some(params):
  """Its gradient by hand; in two microbatches as in one."""
  target = float(jnp.median(nats_of(params)))  # some prompts lack none
  objective = dataclasses.replace(
    OPTIONS.objective, entropy_weight=0.7, entropy_target=target
  )
  nothing = {
    name: one._replace(weight=0.0) for name, one in OPTIONS.rewards.items()
  }

  def loss(params):
    return 0.7 * jnp.maximum(target - nats_of(params), 0).mean()

  value, slopes = jax.value_and_grad(loss)(params)
  for parts in (1, 2):
    state, metrics = run(
      params, objective=objective, rewards=nothing, microbatches=parts
    )
    (found,) = gradient(state).values()
    np.testing.assert_allclose(
      found, slopes["table"]["embedding"], rtol=1e-4, atol=1e-7
    )
    np.testing.assert_allclose(
      metrics["entropy_shortfall"], value / 0.7, rtol=1e-5
    )


def test_a_scheduled_weight_is_that_of_the_state_s_step(params):
  rising = {
    name: one._replace(knots=((0, 0.0), (10, 1.0)) if name == "text" else ())
    for name, one in OPTIONS.rewards.items()
  }
  _, first = run(params, rewards=rising)
  assert first["reward/text_weight"] == 0
  assert "reward/future_weight" not in first
  _, later = run(params, step=5, rewards=rising)
  assert later["reward/text_weight"] == 0.5
  halved = {
    name: one._replace(weight=0.5) if name == "text" else one
    for name, one in OPTIONS.rewards.items()
  }
  _, expected = run(params, step=5, rewards=halved)
  np.testing.assert_allclose(later["loss"], expected["loss"], atol=1e-7)
  np.testing.assert_allclose(later["reward"], expected["reward"], rtol=1e-6)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_scheduled_kl_is_that_of_the_state_s_step(params, epochs):
  before = drifted(params, jax.random.normal(jax.random.key(8), (3 * 8,)))

  def after(step, kl_weight, *knots):
    objective = dataclasses.replace(
      OPTIONS.objective, kl_weight=kl_weight, kl_schedule=knots
    )
    state, metrics = run(
      params,
      step=step,
      reference=before,
      objective=objective,
      scoring="conditional",
      inner_epochs=epochs,
      optimizer=optax.sgd(1.0),
    )
    return state.params["table"]["embedding"], metrics

  falling = (2, 1.0), (10, 0.0)
  found, metrics = after(8, 0.8, *falling)  # three quarters of the way to 0
  expected, plain = after(8, 0.2)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(metrics["loss"], plain["loss"], rtol=1e-5)
  assert metrics["kl_weight"] == pytest.approx(0.2)
  assert "kl_weight" not in plain
  assert np.abs(found - after(8, 0.8)[0]).max() > 1e-3
  # At a weight of 0 it is no longer in the loss, and still watched.
  found, metrics = after(10, 0.8, *falling)
  expected, plain = after(10, 0.0)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
  assert metrics["kl_weight"] == 0
  assert metrics["kl"] > 0
  assert "kl" not in plain  # which has no reference


def drifted(params, drift):
  """Moves both branches so that guidance by 2 is left as it was."""
  table = params["table"]["embedding"]
  return {"table": {"embedding": table.at[0].add(drift).at[1:].add(drift / 2)}}


def test_guidance_hides_a_drift_that_the_branches_show(params):
  drift = 2 * jax.random.normal(jax.random.key(8), (3 * 8,))
  before = drifted(params, drift)
  objective = dataclasses.replace(OPTIONS.objective, kl_weight=0.5)
  found = {}
  for kl_of in ("scored", "branches"):
    state, metrics = run(
      params,
      reference=before,
      objective=objective,
      kl_of=kl_of,
      rewards={
        name: one._replace(weight=0.0) for name, one in OPTIONS.rewards.items()
      },
    )
    (slopes,) = gradient(state).values()
    found[kl_of] = metrics["loss"], slopes
    # (2 - 1) / 2 of it in the other branch: nothing is left of the guided KL.
    assert metrics["kl"] < 1e-10
    assert metrics["kl_conditional"] > 0.1
  assert abs(found["scored"][0]) < 1e-10

  codes = sampled(params).codes

  def loss(params):
    total = 0.0
    for guidance in (0.0, 1.0):  # the unconditional branch, the conditional
      now, then = (log_probs(x, codes, guidance) for x in (params, before))
      apart = then - now
      total += jnp.mean(jnp.exp(apart) - 1 - apart)
    return 0.5 * total

  value, slopes = jax.value_and_grad(loss)(params)
  np.testing.assert_allclose(found["branches"][0], value, rtol=1e-5)
  np.testing.assert_allclose(
    found["branches"][1], slopes["table"]["embedding"], rtol=1e-4, atol=1e-7
  )
  conditional = log_probs(before, codes, 1.0) - log_probs(params, codes, 1.0)
  np.testing.assert_allclose(
    metrics["kl_conditional"],
    jnp.mean(jnp.exp(conditional) - 1 - conditional),
    rtol=1e-5,
  )
  with pytest.raises(ValueError, match="kl_of='branches'"):
    run(params, kl_of="branches", scoring="conditional")


def test_the_learning_rate_counts_steps_not_updates():
  """Of a config: with any number of inner epochs it ends where it says."""
  config = rl_config.get_config("debug")
  config.optim.decay_steps = config.train.steps = 4
  config.optim.warmup_steps = 0
  config.rl.inner_epochs = 2
  plan = make_plan(
    config,
    model=tiny_janus(),
    rules=janus.RULES,
    clip=tiny_clip(),
    devices=jax.devices()[:1],
  )
  params = {"bias": jnp.zeros(1)}
  state, moved = plan.optimizer.init(params), []
  for _ in range(8):
    updates, state = plan.optimizer.update(
      params | {"bias": jnp.ones(1)}, state, params
    )
    moved.append(float(-updates["bias"][0] / config.optim.lr))
  # As 4 steps of one epoch: half a cosine, each value twice.
  cosine = [0.5 + 0.5 * np.cos(np.pi * step / 4) for step in range(4)]
  np.testing.assert_allclose(moved, np.repeat(cosine, 2), rtol=1e-4)


def test_sft_leaves_out_other_rows_in_every_step():
  prompts = 16
  params = MODEL.init(jax.random.key(1), prompts + 1)
  batch, optimizer = bandit_batch(prompts), STEP["optimizer"]
  step = jax.jit(
    functools.partial(
      sft.train_step,
      model=MODEL,
      optimizer=optimizer,
      options=sft.SFTOptions(seed=0, microbatches=1, condition_dropout=0.5),
    )
  )

  def kept(number):
    state, _ = step(
      begin(params, optimizer, number), {"generator_rest": {}}, batch
    )
    rows = gradient(state)["table/embedding"][1:]
    return tuple(np.any(rows, 1))

  found = [kept(number) for number in range(3)]
  assert kept(0) == found[0]
  assert len(set(found)) == 3
  assert all(0 < sum(rows) < prompts for rows in found)
