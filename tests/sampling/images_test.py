"""Sampling and scoring agree, share a prefix, and see what they should see."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import sampling
from genrec_jax.analysis import hlo, hlo_collectives, hlo_walk
from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding, tree
from genrec_jax.models import llama_prefix
from genrec_jax.models.janus import Janus
from genrec_jax.nn import attention, int8, token_attention
from genrec_jax.sampling import Sampling, images
from genrec_jax.testing import FAMILIES, tiny_janus
from tests import rounding
from tests.bandit import Bandit, bandit_batch
from tests.logits import code_logits
from tests.rounding import score_bound


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
  model, params, asked, titles, options
):
  rollout = jax.jit(
    lambda key: sampling.sample_items(
      model, params, asked, key, Sampling(num_samples=3, **options), titles
    )
  )(jax.random.key(1))
  assert rollout.codes.shape == rollout.logprobs.shape == (2, 3, 4)
  assert len(np.unique(rollout.codes)) > 3

  @jax.jit
  def score(prompt, codes, title):
    return sampling.score_images(
      model, params, prompt, codes, Sampling(**options), title=title
    )

  # Unshared: every sample with a copy of its prompt.
  apart = jax.tree.map(
    lambda x: x.reshape(6, 1, *x.shape[2:]), (rollout.codes, rollout.title)
  )
  for found in (
    score(asked, rollout.codes, rollout.title),
    score(repeated(asked, 3), *apart),
  ):
    bound = score_bound(found.logprobs, options["guidance"])
    np.testing.assert_allclose(
      rollout.logprobs.ravel(), found.logprobs.ravel(), rtol=0, atol=bound
    )
    assert np.all(found.entropy >= 0)
    most = np.log(model.codebook_size)
    assert np.all(
      found.entropy <= most + rounding.bound(model.codebook_size, most)
    )
    if titles is not None:
      bound = score_bound(found.title.logprobs)
      np.testing.assert_allclose(
        rollout.title_logprobs.ravel(),
        found.title.logprobs.ravel(),
        rtol=0,
        atol=bound,
      )


def in_parts(monkeypatch):
  """Lets four codes be sampled in loops of one, one and two of them."""
  monkeypatch.setattr(token_attention, "reads_parts", lambda: True)
  monkeypatch.setattr(images, "_STAGE", 1)
  monkeypatch.setattr(images, "_MOST_STAGES", 3)
  assert images._stages(4) == [(0, 1), (1, 2), (2, 4)]


def test_a_cache_that_is_read_in_parts_changes_no_code(
  model, params, asked, titles, monkeypatch
):
  options = Sampling(num_samples=3, guidance=2.0)

  def sample():
    key = jax.random.key(1)
    return jax.jit(
      lambda: sampling.sample_items(model, params, asked, key, options, titles)
    )()

  whole = sample()
  in_parts(monkeypatch)
  parts = sample()
  np.testing.assert_array_equal(parts.codes, whole.codes)
  np.testing.assert_allclose(parts.logprobs, whole.logprobs, atol=1e-5)


def test_of_a_cache_no_more_is_read_than_is_filled(
  model, params, asked, titles, monkeypatch
):
  attend, read = attention.attend, []

  def attending(q, k, v, mask=None, prefix=None, **rest):
    if prefix is not None:  # of the decode loops
      read.append(k.shape[-2])
    return attend(q, k, v, mask, prefix, **rest)

  in_parts(monkeypatch)
  monkeypatch.setattr(attention, "attend", attending)
  options = Sampling(num_samples=3, guidance=2.0)
  jax.eval_shape(
    lambda key: sampling.sample_items(
      model, params, asked, key, options, titles
    ),
    jax.random.key(1),
  )
  begun = titles.max_tokens + len(model.image_begin) if titles else 0
  expected = [begun + model.cache_tokens(codes) for codes in (1, 2, 4)]
  if titles:  # words, and the begin of the image
    expected = [titles.max_tokens, begun, *expected]
  assert list(dict.fromkeys(read)) == expected


def test_stages_are_of_many_codes(monkeypatch):
  assert images._stages(576) == [(0, 576)]  # a CPU would copy parts
  monkeypatch.setattr(token_attention, "reads_parts", lambda: True)
  assert images._stages(144) == [(0, 144)]
  assert images._stages(576) == [(0, 144), (144, 288), (288, 432), (432, 576)]


@pytest.mark.parametrize("shards", [1, 2])
def test_a_shared_unconditional_prefix_changes_no_code(
  model, params, asked, titles, monkeypatch, shards
):
  """Two prompts of unequal length, or two of each on either device."""
  options = Sampling(num_samples=3, guidance=2.0)
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:shards])
  # Neighbours differ in length, and the longest comes first and last.
  order = [0, 1, 1, 0][: 2 * shards]
  rows = jax.tree.map(lambda x: x[np.asarray(order)], asked)
  batch = jax.device_put(rows, jax.NamedSharding(mesh, sharding.BATCH))

  def sample(prompt):
    key = jax.random.key(1)
    return sampling.sample_items(model, params, prompt, key, options, titles)

  def compiled():
    traced = sharding.trace_with_mesh(mesh, sample)
    return jax.jit(traced).lower(batch).compile()

  apart = compiled()(batch)
  monkeypatch.setattr(llama_prefix, "_LONG", 1)
  monkeypatch.setattr(llama_prefix, "_TILE", 4)
  shared = compiled()
  found = shared(batch)
  np.testing.assert_array_equal(found.codes, apart.codes)
  bound = score_bound(apart.logprobs, options.guidance)
  np.testing.assert_allclose(found.logprobs, apart.logprobs, rtol=0, atol=bound)
  # Keys of one unconditional prefix, which no device sends to another.
  language = model.language
  width, heads = language.head_width, language.num_kv_heads
  program = hlo.parse(shared.as_text())
  read = {x.shape for loop in hlo_walk.loops(program) for x in loop.carried}
  length = -(-rows.ids.shape[1] // 4) * 4
  one = (1, heads, width, length)
  assert {one, one[1:]} & read
  moved = [x for c in hlo_collectives.find(program) for x in c.arrays]
  assert all(x.size < heads * width * length for x in moved)


def test_guidance_of_one_is_the_formula_of_two_branches_at_one(
  model, params, prompt
):
  rollout = jax.jit(
    lambda key: sampling.sample_images(
      model, params, prompt, key, Sampling(num_samples=3, guidance=1.0)
    )
  )(jax.random.key(1))
  conditional, unconditional = (
    code_logits(model, params, one, rollout.codes)
    for one in (prompt, model.unconditional(prompt))
  )
  assert np.abs(conditional - unconditional).max() > 0.1
  guided = sampling.guide(conditional, unconditional, 1.0)
  expected = np.take_along_axis(
    jax.nn.log_softmax(guided), rollout.codes[..., None], -1
  )[..., 0]
  bound = score_bound(expected)
  np.testing.assert_allclose(rollout.logprobs, expected, rtol=0, atol=bound)
  scores, *_ = sampling.score_images(
    model, params, prompt, rollout.codes, Sampling(guidance=1.0)
  )
  np.testing.assert_allclose(scores, expected, rtol=0, atol=bound)


def test_the_rollout_s_parameters_compute_the_same_in_bfloat16(
  model, params, asked, titles
):
  half = model.with_compute(dtype="bfloat16")
  prompt = asked.replace(images=asked.images[:, :0])  # compiles faster
  words = titles is not None
  cast = sampling.rollout_params(half, params, lambda tree: tree, words=words)
  if isinstance(model, Janus):
    head = cast["language"]["lm_head"]["kernel"].dtype
    assert head == (jnp.bfloat16 if words else jnp.float32)
    assert cast["image_head"]["head"]["vision_head"]["kernel"].dtype == (
      jnp.bfloat16
    )
  assert cast["language"]["norm"]["scale"].dtype == jnp.bfloat16
  draw = jax.jit(
    lambda params: sampling.sample_items(
      half,
      params,
      prompt,
      jax.random.key(4),
      Sampling(num_samples=2, guidance=2.0),
      titles,
    )
  )
  jax.tree.map(np.testing.assert_array_equal, draw(cast), draw(params))


@pytest.mark.parametrize("num_samples", [1, 3])
def test_the_cache_is_written_in_place(
  model, params, asked, titles, num_samples
):
  options = Sampling(num_samples=num_samples, guidance=2.0)
  compiled = (
    jax.jit(
      lambda key: sampling.sample_items(
        model, params, asked, key, options, titles
      )
    )
    .lower(jax.random.key(0))
    .compile()
  )
  words = titles.max_tokens + len(model.image_begin) if titles else 0

  def empty_cache():
    prefix = model.prefill(params, model.embed(params, asked), asked.mask)
    both = prefix.replace(mask=jnp.repeat(prefix.mask, 2, 0))
    return model.init_cache(both, num_samples, words + model.image_tokens)

  shape = jax.eval_shape(empty_cache).keys[0].shape
  program = hlo.parse(compiled.as_text())
  # Of what loops carry, and of what is copied at every pass of one.
  carried, copied = (
    [array for arrays in found for array in arrays if array.shape == shape]
    for found in (
      (loop.carried for loop in hlo_walk.loops(program)),
      (
        step.instruction.arrays
        for step in hlo_walk.walk(program)
        if step.loops and step.instruction.opcode == "copy"
      ),
    )
  )
  assert carried
  assert not copied


@pytest.mark.optimised
@pytest.mark.parametrize("large", [16, 17])
def test_images_are_decoded_each_on_its_own(model, params, monkeypatch, large):
  monkeypatch.setattr(images, "_LARGE", large)  # of 16 pixels a side
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
      model,
      params,
      prompt,
      key,
      Sampling(num_samples=1, guidance=5.0, greedy=True),
    )
  )(jax.random.key(0))
  both = [
    code_logits(model, params, one, rollout.codes)
    for one in (prompt, model.unconditional(prompt))
  ]
  guided = both[1] + 5.0 * (both[0] - both[1])
  np.testing.assert_array_equal(rollout.codes, np.argmax(guided, -1))
  np.testing.assert_array_equal(rollout.logprobs, 0.0)


def test_samples_follow_the_distribution(model, params, prompt):
  rollout = jax.jit(
    lambda key: sampling.sample_images(
      model, params, prompt, key, Sampling(num_samples=4000, guidance=2.0)
    )
  )(jax.random.key(2))
  for row in range(2):
    first = np.asarray(rollout.codes[row, :, 0])
    counts = np.bincount(first, minlength=model.codebook_size) / len(first)
    probs = np.exp(rollout.logprobs[row, :, 0])
    for code in np.unique(first):
      expected = probs[first == code][0]
      assert abs(counts[code] - expected) < 4 * np.sqrt(expected / len(first))


def test_each_code_of_each_image_has_its_own_noise():
  """Of a uniform distribution over 64 codes few neighbours are equal."""
  model = Bandit(image_tokens=6, codebook_size=64)
  params = {"table": {"embedding": jnp.zeros((4, 6 * 64))}}
  codes = sampling.sample_images(
    model,
    params,
    bandit_batch(3, model).prompt,
    jax.random.key(0),
    Sampling(num_samples=8, guidance=2.0),
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


def test_a_kernel_for_caches_changes_no_code(
  model, params, asked, titles, monkeypatch
):
  """One that is told how many tokens of a cache there are, and sees no mask."""
  options = Sampling(num_samples=3, guidance=2.0)
  calls = []

  def own(q, k, v, filled):
    calls.append(k.shape)
    there = (jnp.arange(k.shape[-2]) < filled).reshape(1, 1, 1, 1, 1, -1)
    scores = jnp.einsum("pkgrth,pkgsh->pkgrts", q, k) * q.shape[-1] ** -0.5
    scores = jnp.where(there, scores, -1e30)
    peak = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - peak)
    out = jnp.einsum("pkgrts,pkgsh->pkgrth", weights, v)
    return out, weights.sum(-1, keepdims=True), peak

  def sample():
    key = jax.random.key(1)
    return jax.jit(
      lambda: sampling.sample_items(model, params, asked, key, options, titles)
    )()

  expected = sample()
  monkeypatch.setattr(token_attention, "_kernel", lambda *_: own)
  found = sample()
  assert calls
  np.testing.assert_array_equal(found.codes, expected.codes)
  np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-4)


@pytest.mark.parametrize("shards", [1, 4])
def test_kernels_in_eight_bits_sample_as_what_they_stand_for(
  model, params, asked, titles, shards
):
  """On two devices of two halves each, too, in place of one."""
  words = titles is not None
  narrow = functools.partial(
    sampling.rollout_params, model, words=words, narrow=True
  )
  options = Sampling(num_samples=3, guidance=2.0)

  def sample(params, prompt):
    key = jax.random.key(1)
    return sampling.sample_items(model, params, prompt, key, options, titles)

  def whole(params):
    """Multiplies the kernels by their scales: float32 again."""
    flat = tree.flatten(narrow(params, lambda tree: tree))
    for path in [path for path in flat if path.endswith(int8.SCALE)]:
      place = path.replace(int8.SCALE, "kernel")
      scale = flat.pop(path)[:, None]  # [L, 1, out]
      assert flat[place].dtype == jnp.int8
      flat[place] = flat[place] * scale
    return tree.unflatten(flat)

  expected = jax.jit(lambda p, x: sample(whole(p), x))(params, asked)
  if shards == 1:
    found = jax.jit(lambda p, x: sample(narrow(p, lambda tree: tree), x))(
      params, asked
    )
  else:
    mesh = mesh_lib.make_mesh(model=2, devices=jax.devices()[:shards])
    (rules,) = (f.rules for f in FAMILIES.values() if f.model is model)
    specs = sharding.specs(rules, params)
    layout = sharding.shardings(mesh, sharding.drop_axis("data", specs))
    traced = sharding.trace_with_mesh(
      mesh,
      lambda p, x: sample(
        narrow(p, lambda p: jax.lax.with_sharding_constraint(p, layout)), x
      ),
    )
    given = (
      sharding.shard_params(mesh, specs, params),
      jax.device_put(asked, jax.NamedSharding(mesh, sharding.BATCH)),
    )
    found = jax.jit(traced)(*given)
  np.testing.assert_array_equal(found.codes, expected.codes)
  np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-4)


def test_loops_read_kernels_in_eight_bits(model, params):
  half = model.with_compute(dtype="bfloat16")

  def read(params):
    held = sampling.rollout_params(half, params, lambda tree: tree, narrow=True)
    return half.image_vocabulary.decode_params(held)

  layers = jax.eval_shape(read, params)["language"]["layers"]
  for layer in layers:
    flat = tree.flatten(layer)
    kernels = [x for path, x in flat.items() if path.endswith("/kernel")]
    assert [x.dtype.name for x in kernels] == 7 * ["int8"]


def test_what_is_in_eight_bits_is_widened_inside_the_loop(
  model, params, asked, titles
):
  """Else all codes read what the first one widened."""
  half = model.with_compute(dtype="bfloat16")
  options = Sampling(num_samples=3, guidance=2.0, int8_cache=True)

  def sample(params):
    narrow = sampling.rollout_params(
      half, params, lambda tree: tree, narrow=True
    )
    key = jax.random.key(1)
    return sampling.sample_items(half, narrow, asked, key, options, titles)

  program = hlo.parse(jax.jit(sample).lower(params).compile().as_text())
  (loop,) = (x for x in hlo_walk.loops(program) if x.is_of("decode"))
  narrow = [x for x in loop.carried if x.dtype == "s8"]
  # Of a layer seven kernels, and keys and values of prefix and answers.
  assert len(narrow) == half.language.num_layers * (7 + 4)


@pytest.mark.parametrize("parts", [False, True])
def test_caches_in_eight_bits_sample_as_what_they_stand_for(
  model, params, asked, titles, monkeypatch, parts
):
  """Also where one unconditional prefix is shared, and read in parts."""
  options = Sampling(num_samples=3, guidance=2.0, int8_cache=True)
  monkeypatch.setattr(llama_prefix, "_LONG", 1)
  if parts:
    in_parts(monkeypatch)

  def sample():
    key = jax.random.key(1)
    return jax.jit(
      lambda: sampling.sample_items(model, params, asked, key, options, titles)
    )()

  found = sample()
  vectors, zeros = int8.vectors, int8.zeros

  def wide(x):
    narrow = vectors(x)
    return narrow.replace(
      values=narrow.wide * narrow.scale[..., None],
      scale=jnp.ones_like(narrow.scale),
    )

  def wide_zeros(shape, dtype):
    return zeros(shape, dtype).replace(values=jnp.zeros(shape, dtype))

  monkeypatch.setattr(int8, "vectors", wide)
  monkeypatch.setattr(int8, "zeros", wide_zeros)
  expected = sample()
  np.testing.assert_array_equal(found.codes, expected.codes)
  np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-4)
