"""Answers in words are those of transformers, and end where they should."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from genrec_jax import sampling, testing
from genrec_jax.core.types import Prompt
from genrec_jax.sampling import Sampling
from tests.hf import tiny_janus

WORDS = 12


@pytest.fixture(scope="module")
def prompt():
  """Three prompts of unequal length: with two images, one and none."""
  return Prompt(*tiny_janus.prompts(True))


@functools.cache
def compiled(end_ids, **options):
  _, model, params = tiny_janus.pair()
  answer = jax.jit(
    lambda params, prompt: sampling.answer(
      model,
      params,
      prompt,
      jax.random.key(0),
      Sampling(**options),
      end_ids=end_ids,
      max_tokens=WORDS,
    )
  )
  return functools.partial(answer, params)


def expected(prompt, end_ids):
  """Returns what transformers writes: [3, W], padded after an end."""
  theirs, _, _ = tiny_janus.pair()
  used = [prompt.images[0, 0], prompt.images[0, 1], prompt.images[1, 0]]
  pixels = np.stack(used).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
  with torch.no_grad():
    out = theirs.generate(
      input_ids=torch.tensor(prompt.ids, dtype=torch.long),
      attention_mask=torch.tensor(prompt.mask),
      pixel_values=torch.tensor(pixels),
      generation_mode="text",
      max_new_tokens=WORDS,
      do_sample=False,
      guidance_scale=None,
      eos_token_id=list(end_ids),
      pad_token_id=tiny_janus.PAD,
    ).numpy()[:, prompt.ids.shape[1] :]
  return np.pad(
    out,
    ((0, 0), (0, WORDS - out.shape[1])),
    constant_values=tiny_janus.PAD,
  )


def test_greedy_answers_are_those_of_transformers(prompt):
  tokens = np.asarray(
    compiled(greedy=True, end_ids=(testing.EOS,))(prompt).tokens
  )
  assert tokens.shape == (3, 1, WORDS)
  assert len(np.unique(tokens)) > 6
  np.testing.assert_array_equal(tokens[:, 0], expected(prompt, (testing.EOS,)))
  # Tokens that do occur end two of the answers, the second at its first.
  ends = (int(tokens[0, 0, 5]), int(tokens[1, 0, 0]))
  answers = compiled(greedy=True, end_ids=ends)(prompt)
  found = np.where(answers.mask, answers.tokens, tiny_janus.PAD)
  np.testing.assert_array_equal(found[:, 0], expected(prompt, ends))
  lengths = np.sum(answers.mask, -1)[:, 0]
  assert lengths[0] <= 6
  assert lengths[1] == 1
  last = np.take_along_axis(found[:, 0], lengths[:, None] - 1, 1)[:, 0]
  assert all(last[i] in ends or lengths[i] == WORDS for i in range(3))
  assert np.all(np.asarray(answers.tokens)[~np.asarray(answers.mask)] == 0)


def test_sampled_answers_follow_the_distribution(prompt):
  _, model, params = tiny_janus.pair()
  options = {"temperature": 0.7, "top_k": 5, "top_p": 0.9}
  answers = compiled(num_samples=600, end_ids=(), **options)(prompt)
  assert np.all(answers.mask)
  tokens = np.asarray(answers.tokens)

  @jax.jit
  def score(params, prompt, tokens):  # uncached: the whole row at once
    ids = jnp.concatenate([prompt.ids, tokens], 1)
    mask = jnp.pad(prompt.mask, ((0, 0), (0, WORDS)), constant_values=True)
    embeds = model.embed(params, prompt.replace(ids=ids, mask=mask))
    hidden = model.hidden_states(params, embeds, mask)[:, -WORDS - 1 : -1]
    return Sampling(**options).logprobs(
      model.text_vocabulary.logits(params, hidden)
    )

  # Each token of one sample was possible, in its place ...
  logprobs = np.asarray(score(params, prompt, tokens[:, 7]))
  taken = np.take_along_axis(logprobs, tokens[:, 7, :, None], -1)
  assert np.all(taken > -10)
  # ... and first tokens are as frequent as they are likely.
  for row in range(3):
    counts = np.bincount(tokens[row, :, 0], minlength=logprobs.shape[-1]) / 600
    probs = np.exp(logprobs[row, 0])
    assert np.all(np.abs(counts - probs) <= 4 * np.sqrt(probs / 600))
  assert not np.array_equal(tokens[:, 0], tokens[:, 1])


def test_an_answer_takes_no_guidance(prompt):
  with pytest.raises(ValueError, match=r"guidance=2.0 of an answer"):
    compiled(end_ids=(), guidance=2.0)(prompt)
