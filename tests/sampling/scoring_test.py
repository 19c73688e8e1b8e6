"""Scores and their gradients: in chunks, shared, and of what they see."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import sampling
from genrec_jax.core import tree
from genrec_jax.core.types import Prompt, Title
from genrec_jax.models import janus_presets
from genrec_jax.models.janus import Janus
from genrec_jax.nn import attention
from genrec_jax.sampling import Sampling, scoring
from genrec_jax.testing import PAD, tiny_janus
from tests.rounding import TINY_JANUS_TERMS, score_bound
from tests.train.gradients import assert_same_gradient


@pytest.mark.optimised
@pytest.mark.parametrize("stop", [False, True])
def test_scoring_in_chunks_changes_nothing(
  model, params, prompt, stop, monkeypatch
):
  codes = np.asarray([[[1, 4, 2, 9]] * 2, [[0, 10, 3, 3]] * 2], np.int32)
  prompt = prompt.replace(images=prompt.images[:, :0])  # compiles faster

  def total(params):
    logprobs, entropy, *_ = sampling.score_images(
      model,
      params,
      prompt,
      codes,
      Sampling(guidance=3.0, top_k=6),
      stop_unconditional_gradient=stop,
    )
    return (logprobs * np.float32(0.5) + entropy).sum(), (logprobs, entropy)

  def run():
    return jax.jit(jax.value_and_grad(total, has_aux=True))(params)

  whole = run()
  monkeypatch.setattr(scoring, "_MAX_LOGITS", 2 * model.codebook_size)
  assert scoring._num_chunks(4, model.codebook_size) == 2
  # Scores, and slopes, which a backward pass as long rounds as often again.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=0, atol=score_bound(b, 3.0, 2 * TINY_JANUS_TERMS)
    ),
    run(),
    whole,
  )


def test_few_logits_are_held_at_a_time():
  tiny, large = tiny_janus(), janus_presets.janus_pro_7b()
  assert scoring._num_chunks(tiny.image_tokens, tiny.codebook_size) == 1
  for length, vocabulary in (
    (large.image_tokens, large.image_vocabulary),
    (32, large.text_vocabulary),
  ):
    held = length // scoring._num_chunks(length, vocabulary.size)
    assert held * vocabulary.size <= scoring._MAX_LOGITS


def test_the_unconditional_gradient_can_be_stopped(model, params, prompt):
  codes = np.zeros((2, 1, 4), np.int32)

  def total(params, stop):
    return sampling.score_images(
      model,
      params,
      prompt,
      codes,
      Sampling(guidance=3.0),
      stop_unconditional_gradient=stop,
    )[0].sum()

  both = jax.jit(jax.value_and_grad(total), static_argnums=1)
  values, grads = zip(
    *(both(params, stop) for stop in (False, True)), strict=True
  )
  # Of eight codes.
  np.testing.assert_allclose(
    *values, rtol=0, atol=score_bound(values[0], guidance=3.0)
  )
  tables = [g["language"]["embed_tokens"]["embedding"] for g in grads]
  assert np.any(tables[0] != tables[1])
  if isinstance(model, Janus):
    # The pad token is read by the unconditional branch alone.
    assert np.any(tables[0][PAD] != 0)
    np.testing.assert_array_equal(tables[1][PAD], 0)


def test_gradient_of_a_score_is_its_finite_difference(model, params, prompt):
  codes = np.asarray([[[1, 4, 2, 9]], [[0, 10, 3, 3]]], np.int32)
  keys = iter(jax.random.split(jax.random.key(5), 500))
  direction = jax.tree.map(
    lambda x: jax.random.normal(next(keys), x.shape) * jnp.std(x), params
  )

  # Its codes, which histories may be read as, would jump.
  direction["tokenizer"] = jax.tree.map(jnp.zeros_like, params["tokenizer"])

  @jax.jit
  def total(step):
    moved = jax.tree.map(lambda x, d: x + step * d, params, direction)
    scores, *_ = sampling.score_images(
      model, moved, prompt, codes, Sampling(guidance=2.0, temperature=0.8)
    )
    return scores.sum()

  step = 1e-3
  slope = (total(step) - total(-step)) / (2 * step)
  np.testing.assert_allclose(jax.grad(total)(0.0), slope, rtol=2e-2)


def test_history_images_matter_and_padding_does_not(model, params, prompt):
  codes = np.asarray([[[1, 4, 2, 9]], [[0, 10, 3, 3]]], np.int32)
  score = jax.jit(
    lambda prompt: sampling.score_images(
      model, params, prompt, codes, Sampling(guidance=3.0)
    )[0]
  )
  base = np.asarray(score(prompt))
  other = prompt.images.copy()
  other[0, 1] = 255 - other[0, 1]
  changed = np.asarray(score(prompt.replace(images=other)))
  assert np.abs(changed - base)[0].max() > 1e-3
  np.testing.assert_array_equal(changed[1], base[1])

  unused = prompt.images.copy()
  unused[1, 1] = 0  # the second prompt has no slot for it
  np.testing.assert_array_equal(score(prompt.replace(images=unused)), base)

  wider = prompt.replace(
    ids=np.pad(prompt.ids, ((0, 0), (5, 0)), constant_values=PAD),
    mask=np.pad(prompt.mask, ((0, 0), (5, 0))),
  )
  bound = score_bound(base, guidance=3.0)
  np.testing.assert_allclose(score(wider), base, rtol=0, atol=bound)
  junk = np.where(prompt.mask, prompt.ids, 7).astype(np.int32)
  found = score(prompt.replace(ids=junk))
  np.testing.assert_allclose(found, base, rtol=0, atol=bound)


def test_a_shared_prefix_is_cheaper_by_xla_s_own_count():
  """Prompt 5x the answer, G = 8: at most 0.35 of the unshared FLOPs."""
  model = tiny_janus(num_layers=1, vocab_size=8)
  model = dataclasses.replace(
    model,
    vision=dataclasses.replace(model.vision, image_size=64),
    language=dataclasses.replace(model.language, width=96, mlp_width=256),
  )
  answer, samples = model.image_tokens, 8
  params = jax.eval_shape(model.init, jax.random.key(0))
  params["tokenizer"] = {}

  def policy_flops(prompts, group):
    prompt = Prompt(
      ids=jax.ShapeDtypeStruct((prompts, 5 * answer), jnp.int32),
      mask=jax.ShapeDtypeStruct((prompts, 5 * answer), jnp.bool),
      images=jax.ShapeDtypeStruct((prompts, 0, 64, 64, 3), jnp.uint8),
    )
    codes = jax.ShapeDtypeStruct((prompts, group, answer), jnp.int32)

    def loss(language, rest, prompt, codes):
      scores, *_ = sampling.score_images(
        model,
        rest | {"language": language},
        prompt,
        codes,
        Sampling(guidance=2.0),
      )
      return scores.mean()

    rest = {k: v for k, v in params.items() if k != "language"}
    lowered = jax.jit(jax.grad(loss)).lower(
      params["language"], rest, prompt, codes
    )
    return lowered.compile().cost_analysis()["flops"]

  ratio = policy_flops(2, samples) / policy_flops(2 * samples, 1)
  assert ratio <= 0.35, ratio


def test_what_padding_attends_to_reaches_nothing(
  model, params, prompt, monkeypatch
):
  """Kernels leave it undefined, but finite."""
  begun = len(model.image_begin)
  asked = prompt.replace(
    ids=prompt.ids[:, :-begun], mask=prompt.mask[:, :-begun]
  )
  rng = np.random.default_rng(0)
  codes = rng.integers(0, 16, (2, 3, 4))
  lengths = np.asarray([[0, 2, 5], [1, 5, 3]])  # 5: cut off
  title = Title(
    tokens=jnp.asarray(rng.integers(6, 24, (2, 3, 5))),
    words=jnp.asarray(np.arange(5) < lengths[..., None]),
  )
  trained, rest = tree.select(params, ("^language/",))

  def total(trained):
    scores = sampling.score_images(
      model,
      tree.merge(trained, rest),
      asked,
      codes,
      Sampling(guidance=2.0),
      title=title,
    )
    of_title = scores.title.logprobs + scores.title.entropy
    return jnp.sum(scores.logprobs + scores.entropy) + jnp.sum(of_title), scores

  def run():
    return jax.jit(jax.value_and_grad(total, has_aux=True))(trained)

  def kernel(q, k, v, real, length, num_samples):
    answers = None
    if num_samples:
      answers = real[:, length:].reshape(len(real), num_samples, -1)
    out = attention._shared_in_blocks(
      q, k, v, real[:, :length], num_samples, answers
    )
    return jnp.where(real[:, None, None, None, :, None], out, 1e3)

  (_, expected), slopes = run()
  monkeypatch.setattr(attention, "_kernel", lambda platform, q: kernel)
  (_, found), own = run()
  for one, other in ((found, expected), (found.title, expected.title)):
    bound = score_bound(other.logprobs, guidance=2.0)
    np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=0, atol=bound)
  assert_same_gradient(tree.flatten(own), tree.flatten(slopes))
