"""Parts of a policy update, on a generator whose logits are a table."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import objectives, rewards, sampling
from genrec_jax.core.types import Title
from genrec_jax.sampling import Sampling
from genrec_jax.sampling.scoring import Scores
from genrec_jax.train import policy_update, rl
from genrec_jax.train.policy_update import Experience, RefScores
from tests.bandit import Bandit, bandit_batch
from tests.train.options import rl_options

MODEL, PROMPTS = Bandit(), 4
OPTIONS = rl_options(
  seed=0,
  sample=Sampling(num_samples=3, guidance=2.0),
  rewards=rewards.from_options({"text": {"weight": 1.0}}),
)


def score(params, prompt, codes, slopes=None):
  assert slopes is None  # those of a step by samples alone
  return sampling.score_images(
    MODEL, params, prompt, codes, OPTIONS.scored, branches=True
  )


@pytest.fixture(scope="module")
def params():
  return MODEL.init(jax.random.key(0), PROMPTS + 1)


@pytest.fixture(scope="module")
def experience(params):
  prompt = bandit_batch(PROMPTS).prompt
  rollout = sampling.sample_images(
    MODEL, params, prompt, jax.random.key(1), OPTIONS.sample
  )
  values = jnp.tile(jnp.asarray([1.0, 0.0, -1.0]), (PROMPTS, 1))  # [P, G]
  return Experience(prompt, rollout.codes, rollout.logprobs, values)


def test_a_reference_scores_alike_in_any_number_of_parts(params, experience):
  whole, parts = (
    policy_update.score_reference(
      score, params, experience, dataclasses.replace(OPTIONS, microbatches=m)
    )
    for m in (1, 2)
  )
  assert isinstance(whole, RefScores)
  jax.tree.map(np.testing.assert_array_equal, whole, parts)
  expected = score(params, experience.prompt, experience.codes)
  np.testing.assert_array_equal(whole.branches, expected.branches)


def test_the_first_epoch_s_scores_are_the_old_policy_of_all(params, experience):
  own = score(params, experience.prompt, experience.codes)
  loss = functools.partial(
    policy_update.epoch_loss,
    params,
    experience,
    own.logprobs - 0.1,
    RefScores(own.logprobs, own.branches),
    score=score,
    options=OPTIONS,
  )
  _, first = loss(epoch=jnp.int32(0))
  np.testing.assert_array_equal(first["old_logprobs"], own.logprobs)
  assert first["ratio_max_deviation"] == 0
  _, second = loss(epoch=jnp.int32(1))
  np.testing.assert_array_equal(second["old_logprobs"], own.logprobs - 0.1)
  np.testing.assert_allclose(second["ratio_mean"], np.exp(0.1), rtol=1e-5)
  # The reference is the policy itself.
  assert first["kl"] == first["kl_conditional"] == 0


def test_without_a_kl_no_reference_is_asked_for(params, experience):
  _, metrics = policy_update.epoch_loss(
    params,
    experience,
    experience.sampled,
    None,
    score=score,
    epoch=jnp.int32(0),
    options=dataclasses.replace(
      OPTIONS, objective=dataclasses.replace(OPTIONS.objective, kl_weight=0.0)
    ),
  )
  assert not {"kl", "kl_conditional"} & metrics.keys()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"scoring": "sampled"}, "scoring='sampled': expected one of guided"),
    ({"kl_of": "all"}, "kl_of='all': expected one of scored, branches"),
    (
      {"scoring": "conditional", "sampler_weight_cap": 2.0},
      "sampler_weight_cap=2.0 with scoring='conditional'",
    ),
    (
      {"kl_of": "branches", "sample": Sampling()},
      "kl_of='branches' with scoring='guided' and guidance=1.0",
    ),
  ],
)
def test_options_that_do_not_go_together_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(OPTIONS, **change)


def test_conditional_scoring_leaves_guidance_out():
  conditional = dataclasses.replace(OPTIONS, scoring="conditional")
  assert OPTIONS.scored == OPTIONS.sample
  assert conditional.scored == dataclasses.replace(OPTIONS.sample, guidance=1.0)


def titles_of(lengths):
  """Returns titles [P, G, 3] of as many words each."""
  words = jnp.asarray(np.arange(3) < np.asarray(lengths)[..., None])
  return Title(tokens=jnp.zeros(words.shape, jnp.int32), words=words)


def scored(seed, shape, branches, mask=None):
  """Returns random scores, 0 where nothing is written."""
  keys = jax.random.split(jax.random.key(seed), 3)
  shapes = shape, shape, (*shape, branches)
  values = [
    -jax.random.uniform(k, s) for k, s in zip(keys, shapes, strict=True)
  ]
  if mask is not None:
    values[:2] = (jnp.where(mask, x, 0.0) for x in values[:2])
    values[2] = jnp.where(mask[..., None], values[2], 0.0)
  return Scores(values[0], -values[1], values[2])


@pytest.mark.parametrize("kl_of", ["scored", "branches"])
@pytest.mark.parametrize("cap", [0.0, 1.5])
def test_titles_and_images_each_have_their_loss_of_the_same_advantages(
  kl_of, cap
):
  title = titles_of([[0, 2], [3, 1]])
  written = title.written
  np.testing.assert_array_equal(written.sum(-1), [[1, 3], [3, 2]])
  image, own = scored(0, (2, 2, 4), 2), scored(1, (2, 2, 3), 1, written)
  ref_image, ref_own = scored(2, (2, 2, 4), 2), scored(3, (2, 2, 3), 1, written)
  sampled, title_sampled = scored(4, (2, 2, 4), 2), scored(5, (2, 2, 3), 1)
  experience = Experience(
    prompt=None,
    codes=jnp.zeros((2, 2, 4), jnp.int32),
    sampled=sampled.logprobs,
    advantages=jnp.asarray([[1.0, -1.0], [0.5, 2.0]]),
    title=title,
    title_sampled=jnp.where(written, title_sampled.logprobs, 0.0),
  )
  ref = RefScores(
    ref_image.logprobs,
    ref_image.branches,
    RefScores(ref_own.logprobs, ref_own.branches),
  )
  objective = dataclasses.replace(
    OPTIONS.objective, image_weight=0.7, title_weight=0.2
  )
  old = scored(6, (2, 2, 7), 1).logprobs
  old_title, old_image = old[..., :3], old[..., 3:]
  loss, metrics = policy_update.epoch_loss(
    None,
    experience,
    old,
    ref,
    score=lambda *_: image._replace(title=own),
    epoch=jnp.int32(1),
    options=dataclasses.replace(
      OPTIONS, objective=objective, kl_of=kl_of, sampler_weight_cap=cap
    ),
  )

  def by_hand(scores, old, ref, sampled, mask=None):
    weights = jnp.minimum(jnp.exp(old - sampled), cap) if cap else None
    pair = (scores.branches, ref.branches) if kl_of == "branches" else None
    return objectives.policy_loss(
      objective,
      scores.logprobs,
      old,
      ref.logprobs,
      experience.advantages,
      weights=weights,
      branches=pair,
      mask=mask,
    )

  of_image, _ = by_hand(image, old_image, ref, experience.sampled)
  of_title, expected = by_hand(
    own, old_title, ref.title, experience.title_sampled, written
  )
  np.testing.assert_allclose(loss, 0.7 * of_image + 0.2 * of_title, rtol=1e-5)
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[f"title_{name}"], value, rtol=1e-6)
  entropies = own.entropy.sum(-1) / written.sum(-1)
  np.testing.assert_allclose(
    metrics["title_entropy"], entropies.mean(), rtol=1e-6
  )
  np.testing.assert_allclose(metrics["entropy"], image.entropy.mean())


def test_titles_that_did_not_end_are_counted():
  title = titles_of([[0, 2], [3, 3]])
  metrics = rl.title_metrics(title)
  assert metrics == {"title_words": 2, "title_cut": 0.5}
  assert rl.title_metrics(None) == {}
