"""Parts of a policy update, on a generator whose logits are a table."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import rewards, sampling
from genrec_jax.sampling import Sampling
from genrec_jax.train import policy_update
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
