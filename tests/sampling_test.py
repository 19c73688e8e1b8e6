"""Sampling and scoring agree, share a prefix, and see what they should see."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import sampling
from genrec_jax.core.types import Prompt
from genrec_jax.models import janus
from tests import rounding
from tests.bandit import Bandit, bandit_batch
from tests.tiny import (
  BOI,
  BOS,
  IMAGE,
  PAD,
  TERMS,
  amplified,
  score_bound,
  tiny_janus,
)


@pytest.fixture(scope="module")
def model():
  return tiny_janus()


@pytest.fixture(scope="module")
def params(model):
  return amplified(model.init(jax.random.key(0)), 1.25)


@pytest.fixture(scope="module")
def prompt():
  """Two prompts of unequal length, the second with one image less."""
  picture = [BOI, IMAGE, IMAGE, IMAGE, IMAGE, 5]
  long, short = (
    [BOS, 7, *picture, 8, *picture, 9, BOI],
    [BOS, 11, *picture, BOI],
  )
  rows = [long, [PAD] * (len(long) - len(short)) + short]
  rng = np.random.default_rng(0)
  ids = np.asarray(rows, np.int32)
  return Prompt(
    ids=ids,
    mask=ids != PAD,
    images=rng.integers(0, 256, (2, 2, 16, 16, 3), np.uint8),
  )


def repeated(prompt, times):
  return jax.tree.map(lambda x: np.repeat(x, times, axis=0), prompt)


SETTINGS = (
  {"guidance": 1.0},
  {"guidance": 3.0},
  {"guidance": 2.0, "temperature": 0.7, "top_k": 5},
  {"guidance": 1.0, "temperature": 1.3, "top_p": 0.8},
  {"guidance": 3.0, "top_k": 6, "top_p": 0.9},
)


@pytest.mark.parametrize("options", SETTINGS)
def test_scores_are_the_log_probabilities_sampled_with(
  model, params, prompt, options
):
  rollout = jax.jit(
    lambda key: sampling.sample_images(
      model, params, prompt, key, num_samples=3, **options
    )
  )(jax.random.key(1))
  assert rollout.codes.shape == rollout.logprobs.shape == (2, 3, 4)
  assert len(np.unique(rollout.codes)) > 3
  logprobs, entropy = jax.jit(
    lambda codes: sampling.score_images(model, params, prompt, codes, **options)
  )(rollout.codes)
  bound = score_bound(logprobs, options["guidance"])
  np.testing.assert_allclose(rollout.logprobs, logprobs, rtol=0, atol=bound)
  assert np.all(entropy >= 0)
  most = np.log(model.codebook_size)
  assert np.all(entropy <= most + rounding.bound(model.codebook_size, most))
  # Unshared: every sample with a copy of its prompt.
  alone, _ = jax.jit(
    lambda codes: sampling.score_images(
      model, params, repeated(prompt, 3), codes, **options
    )
  )(rollout.codes.reshape(6, 1, 4))
  np.testing.assert_allclose(
    rollout.logprobs, np.reshape(alone, (2, 3, 4)), rtol=0, atol=bound
  )


def test_guidance_of_one_is_the_formula_of_two_branches_at_one(
  model, params, prompt
):
  rollout = jax.jit(
    lambda key: sampling.sample_images(
      model, params, prompt, key, num_samples=3, guidance=1.0
    )
  )(jax.random.key(1))
  conditional, unconditional = (
    model.code_logits(params, model.embed(params, one), one.mask, rollout.codes)
    for one in (prompt, model.unconditional(prompt))
  )
  assert np.abs(conditional - unconditional).max() > 0.1
  guided = sampling.guide(conditional, unconditional, 1.0)
  expected = np.take_along_axis(
    jax.nn.log_softmax(guided), rollout.codes[..., None], -1
  )[..., 0]
  bound = score_bound(expected)
  np.testing.assert_allclose(rollout.logprobs, expected, rtol=0, atol=bound)
  scores, _ = sampling.score_images(
    model, params, prompt, rollout.codes, guidance=1.0
  )
  np.testing.assert_allclose(scores, expected, rtol=0, atol=bound)


@pytest.mark.optimised
@pytest.mark.parametrize("stop", [False, True])
def test_scoring_in_chunks_changes_nothing(
  model, params, prompt, stop, monkeypatch
):
  codes = np.asarray([[[1, 4, 2, 9]] * 2, [[0, 10, 3, 3]] * 2], np.int32)
  prompt = prompt.replace(images=prompt.images[:, :0])  # compiles faster

  def total(params):
    logprobs, entropy = sampling.score_images(
      model,
      params,
      prompt,
      codes,
      guidance=3.0,
      top_k=6,
      stop_unconditional_gradient=stop,
    )
    return (logprobs * np.float32(0.5) + entropy).sum(), (logprobs, entropy)

  def run():
    return jax.jit(jax.value_and_grad(total, has_aux=True))(params)

  whole = run()
  monkeypatch.setattr(sampling, "_MAX_LOGITS", 2 * model.codebook_size)
  assert sampling._chunks(model) == 2
  # Scores, and slopes, which a backward pass as long rounds as often again.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=0, atol=score_bound(b, 3.0, 2 * TERMS)
    ),
    run(),
    whole,
  )


def test_few_logits_are_held_at_a_time():
  assert sampling._chunks(tiny_janus()) == 1
  large = janus.janus_pro_7b()
  codes = large.image_tokens // sampling._chunks(large)
  assert codes * large.codebook_size <= sampling._MAX_LOGITS


def test_the_rollout_s_parameters_compute_the_same_in_bfloat16(
  model, params, prompt
):
  half = model.with_compute(dtype="bfloat16")
  prompt = prompt.replace(images=prompt.images[:, :0])  # compiles faster
  cast = sampling.rollout_params(half, params, lambda tree: tree)
  assert cast["language"]["norm"]["scale"].dtype == jnp.bfloat16
  assert cast["image_head"]["head"]["vision_head"]["kernel"].dtype == (
    jnp.bfloat16
  )
  draw = jax.jit(
    lambda params: sampling.sample_images(
      half, params, prompt, jax.random.key(4), num_samples=2, guidance=2.0
    )
  )
  ours, theirs = draw(cast), draw(params)
  np.testing.assert_array_equal(ours.codes, theirs.codes)
  np.testing.assert_array_equal(ours.logprobs, theirs.logprobs)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_the_cache_is_written_in_place(model, params, prompt, num_samples):
  text = (
    jax.jit(
      lambda key: sampling.sample_images(
        model, params, prompt, key, num_samples=num_samples, guidance=2.0
      )
    )
    .lower(jax.random.key(0))
    .compile()
    .as_text()
  )
  prefix = model.prefill(params, model.embed(params, prompt), prompt.mask)
  both = prefix.replace(mask=jnp.repeat(prefix.mask, 2, 0))
  cache = model.init_cache(both, num_samples)
  shape = ",".join(map(str, cache.keys[0].shape))
  copies = re.findall(rf" = f32\[{shape}\]\S* copy\(", text)
  # To hand the loop its own is one each; more are made at every code.
  assert len(copies) <= len(jax.tree.leaves(cache))


@pytest.mark.optimised
def test_images_are_decoded_each_on_its_own(model, params):
  codes = np.arange(24, dtype=np.int32).reshape(2, 3, 4) % model.codebook_size
  pixels = sampling.decode_images(model, params, codes)
  assert pixels.shape == (2, 3, 16, 16, 3)
  # A dozen convolutions of 3 x 3 x 32 values, one after another; of 0 to 1.
  rounding.assert_close(
    pixels, model.decode_pixels(params, codes), terms=12 * 288, scale=1
  )


def test_greedy_takes_the_most_likely_code_at_each_step(model, params, prompt):
  rollout = jax.jit(
    lambda key: sampling.sample_images(
      model, params, prompt, key, num_samples=1, guidance=5.0, greedy=True
    )
  )(jax.random.key(0))
  both = [
    model.code_logits(params, model.embed(params, one), one.mask, rollout.codes)
    for one in (prompt, model.unconditional(prompt))
  ]
  guided = both[1] + 5.0 * (both[0] - both[1])
  np.testing.assert_array_equal(rollout.codes, np.argmax(guided, -1))
  np.testing.assert_array_equal(rollout.logprobs, 0.0)


def test_samples_follow_the_distribution(model, params, prompt):
  rollout = jax.jit(
    lambda key: sampling.sample_images(
      model, params, prompt, key, num_samples=4000, guidance=2.0
    )
  )(jax.random.key(2))
  for row in range(2):
    first = np.asarray(rollout.codes[row, :, 0])
    counts = np.bincount(first, minlength=model.codebook_size) / len(first)
    probs = np.exp(rollout.logprobs[row, :, 0])
    for code in np.unique(first):
      expected = probs[first == code][0]
      assert abs(counts[code] - expected) < 4 * np.sqrt(expected / len(first))


def test_the_unconditional_gradient_can_be_stopped(model, params, prompt):
  codes = np.zeros((2, 1, 4), np.int32)

  def total(params, stop):
    return sampling.score_images(
      model,
      params,
      prompt,
      codes,
      guidance=3.0,
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
  # The pad token is read by the unconditional branch alone.
  pads = [g["language"]["embed_tokens"]["embedding"][PAD] for g in grads]
  assert np.any(pads[0] != 0)
  np.testing.assert_array_equal(pads[1], 0)


def test_gradient_of_a_score_is_its_finite_difference(model, params, prompt):
  codes = np.asarray([[[1, 4, 2, 9]], [[0, 10, 3, 3]]], np.int32)
  keys = iter(jax.random.split(jax.random.key(5), 500))
  direction = jax.tree.map(
    lambda x: jax.random.normal(next(keys), x.shape) * jnp.std(x), params
  )

  @jax.jit
  def total(step):
    moved = jax.tree.map(lambda x, d: x + step * d, params, direction)
    scores, _ = sampling.score_images(
      model, moved, prompt, codes, guidance=2.0, temperature=0.8
    )
    return scores.sum()

  step = 1e-3
  slope = (total(step) - total(-step)) / (2 * step)
  np.testing.assert_allclose(jax.grad(total)(0.0), slope, rtol=2e-2)


def test_history_images_matter_and_padding_does_not(model, params, prompt):
  codes = np.asarray([[[1, 4, 2, 9]], [[0, 10, 3, 3]]], np.int32)
  score = jax.jit(
    lambda prompt: sampling.score_images(
      model, params, prompt, codes, guidance=3.0
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
      scores, _ = sampling.score_images(
        model, rest | {"language": language}, prompt, codes, guidance=2.0
      )
      return scores.mean()

    rest = {k: v for k, v in params.items() if k != "language"}
    lowered = jax.jit(jax.grad(loss)).lower(
      params["language"], rest, prompt, codes
    )
    return lowered.compile().cost_analysis()["flops"]

  ratio = policy_flops(2, samples) / policy_flops(2 * samples, 1)
  assert ratio <= 0.35, ratio


def test_top_k_and_top_p_by_hand():
  probs = np.asarray([0.4, 0.3, 0.15, 0.1, 0.05])
  logits = jnp.log(probs)
  top = np.exp(sampling.log_distribution(logits, top_k=2))
  np.testing.assert_allclose(top, [4 / 7, 3 / 7, 0, 0, 0], rtol=1e-6)
  # 0.4 + 0.3 < 0.72, so the third code is needed to reach it.
  top = np.exp(sampling.log_distribution(logits, top_p=0.72))
  np.testing.assert_allclose(
    top, [0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0], rtol=1e-5
  )
  top = np.exp(sampling.log_distribution(logits, temperature=0.5))
  np.testing.assert_allclose(top, probs**2 / np.sum(probs**2), rtol=1e-5)
  # The temperature first: of probabilities 16, 9, 2.25, 1, 0.25 the first two
  # are 25 of 28.5, more than 0.8. After the cut three codes would be left.
  top = np.exp(sampling.log_distribution(logits, temperature=0.5, top_p=0.8))
  np.testing.assert_allclose(top, [16 / 25, 9 / 25, 0, 0, 0], rtol=1e-5)
  # A code that scoring insists on stays in; the others keep their ratio.
  kept = np.exp(sampling.log_distribution(logits, top_k=1, keep=jnp.int32(4)))
  np.testing.assert_allclose(kept, [8 / 9, 0, 0, 0, 1 / 9], rtol=1e-5)


def test_each_code_of_each_image_has_its_own_noise():
  """Of a uniform distribution over 64 codes few neighbours are equal."""
  model = Bandit(image_tokens=6, codebook_size=64)
  params = {"table": {"embedding": jnp.zeros((4, 6 * 64))}}
  codes = sampling.sample_images(
    model,
    params,
    bandit_batch(3, model).prompt,
    jax.random.key(0),
    num_samples=8,
    guidance=2.0,
  ).codes
  for axis in range(3):  # prompts, samples, codes
    one, other = (
      np.take(codes, range(i, codes.shape[axis] - 1 + i), axis) for i in (0, 1)
    )
    assert np.mean(one == other) < 0.1, axis


def test_the_rollout_s_copy_is_fenced():
  """Else a training pass would reuse it, and keep it alive all the while."""
  model = tiny_janus(dtype="bfloat16")
  params = jax.eval_shape(model.init, jax.random.key(0))
  gathered = []

  def gather(tree):
    gathered.append(jax.tree.map(jax.lax.cos, tree))  # marks what it returns
    return gathered[0]

  jaxpr = jax.make_jaxpr(
    lambda params: sampling.rollout_params(model, params, gather)
  )(params)
  (fence,) = (
    eqn
    for eqn in jaxpr.jaxpr.eqns
    if eqn.primitive is jax.lax.optimization_barrier_p
  )
  loop = jax.tree.leaves(jax.eval_shape(model.decode_subtree, params))
  assert len(fence.invars) == len(loop)
  marked = {
    var
    for eqn in jaxpr.jaxpr.eqns
    if eqn.primitive is jax.lax.cos_p
    for var in eqn.outvars
  }
  assert marked.issuperset(fence.invars)
  # What the loop reads are the barrier's results, nothing before it.
  assert set(fence.outvars) <= set(jaxpr.jaxpr.outvars)


@pytest.mark.parametrize(
  "options", [{"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}]
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match="expected"):
    sampling.log_distribution(jnp.zeros(3), **options)
