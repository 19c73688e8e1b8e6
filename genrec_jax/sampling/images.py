"""Image sampling: code by code in one decode loop, then to pixels.

The log-probabilities that `sample_images` returns are of the distribution in
`distribution.py`; `scoring.score_images` computes the same numbers of given
codes, with gradients.

Letters: P prompts, T prompt tokens, G samples, I codes, C codebook, h w pixels;
P' rows, two per prompt where guided.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp

from genrec_jax.core import chunks, sharding, tree
from genrec_jax.core.types import KVCache, Prompt, PyTree, Rollout
from genrec_jax.models.api import Generator
from genrec_jax.nn import int8, token_attention
from genrec_jax.sampling import decoding
from genrec_jax.sampling.decoding import Decoder
from genrec_jax.sampling.distribution import Sampling

# Codes of a loop at least, and loops at most: each is compiled by itself.
_STAGE = 128
_MOST_STAGES = 4
# Pixels of a side from which on two images at once are slower than one by one.
_LARGE = 256


def rollout_params(
  model: Generator,
  params: PyTree,
  to_rollout_layout: Callable[[PyTree], PyTree],
  *,
  words: bool = False,
  narrow: bool = False,
) -> PyTree:
  """Lays out what the decode loop reads, once per rollout.

  Cast to the compute type and then gathered, so half the bytes travel in
  bfloat16; nothing changes in value, unless rounded to eight bits. What only
  reads prompts stays as it is.

  Args:
    model: the generator.
    params: its parameters, laid out for training.
    to_rollout_layout: constrains a tree like `params` to the decode loop's
      layout.
    words: whether answers have words.
    narrow: round kernels of the language model's layers to eight bits; see
      `int8`.

  Returns:
    A tree like `params`, for `sample_images`; if narrow, with scales.
  """
  read = model.decode_subtree(params, words=words)
  flat, loop = tree.flatten(params), tree.flatten(read)
  moved = tree.flatten(to_rollout_layout(tree.unflatten(flat | loop)))
  # The barrier keeps a training pass from reusing the gathered copy, which
  # would stay alive through the whole step.
  held = {path: moved[path] for path in loop}
  if narrow:
    held = tree.flatten(int8.narrowed(tree.unflatten(held), model.adaptable))
  return tree.unflatten(flat | jax.lax.optimization_barrier(held))


def sample_images(
  model: Generator,
  params: PyTree,
  prompt: Prompt,
  key: jax.Array,
  sampling: Sampling,
) -> Rollout:
  """Samples G images for each prompt.

  The prompt is prefilled once; its samples attend to that one prefix.

  Args:
    model: the generator.
    params: its parameters.
    prompt: P prompts.
    key: PRNG key; each code index folds its own number in.
    sampling: how codes are sampled, and how many images.

  Returns:
    Rollout of codes and logprobs, [P, G, I] each.
  """
  decoder = decoding.start(model, params, prompt, sampling)
  codes, logprobs = sample_codes(
    decoder,
    decoder.first_logits(model.image_vocabulary),
    decoder.empty_cache(model.image_tokens),
    key,
  )
  return Rollout(codes=codes, logprobs=logprobs)


def sample_codes(
  decoder: Decoder,
  logits: jax.Array,
  cache: KVCache,
  key: jax.Array,
  *,
  words: jax.Array | None = None,
  begun: int = 0,
) -> tuple[jax.Array, jax.Array]:
  """Samples the codes of images, one after another.

  Args:
    decoder: of P prompts.
    logits: [P, G, C] of the first code.
    cache: with room for the codes, behind what comes before them.
    key: PRNG key; each code index folds its own number in.
    words: [P, G, W], see `Decoder.step`.
    begun: see `Decoder.step`.

  Returns:
    Codes [P, G, I] int32 and their log-probabilities.
  """
  model, sampling = decoder.model, decoder.sampling
  step = decoder.step(model.image_vocabulary, words=words, begun=begun)

  def draw(logits, index):
    return sampling.draw(logits, jax.random.fold_in(key, index))

  def body(carry, index, *, unread):
    cache, codes = carry
    logits, cache = step(cache, codes, index, unread=unread)
    codes, logprobs = draw(logits, index + 1)  # [P, G]
    return (cache, codes), (codes, logprobs)

  first = draw(logits, jnp.int32(0))  # [P, G]
  carry, parts = (cache, first[0]), [jax.tree.map(lambda x: x[None], first)]
  room = model.cache_tokens(model.image_tokens)  # for codes, in the cache
  with jax.named_scope("decode"):
    for begin, end in _stages(model.image_tokens):
      # The last code is read by no one.
      indices = jnp.arange(begin, min(end, model.image_tokens - 1))
      unread = room - model.cache_tokens(end)
      carry, rest = jax.lax.scan(
        functools.partial(body, unread=unread), carry, indices
      )
      parts.append(rest)  # [n, P, G]
  codes, logprobs = (
    jnp.concatenate(each).transpose(1, 2, 0)  # [P, G, I]
    for each in zip(*parts, strict=True)
  )
  return codes, logprobs


def _stages(codes: int) -> list[tuple[int, int]]:
  """Returns the first and the last + 1 of the codes of each loop.

  A loop reads the cache up to its last code, filled or not, which of the whole
  would be twice what is filled. The cache itself does not grow: while it did,
  it would be there twice.
  """
  most = _MOST_STAGES if token_attention.reads_parts() else 1
  count = max(min(codes // _STAGE, most), 1)
  ends = [codes * (n + 1) // count for n in range(count)]
  return list(zip([0, *ends[:-1]], ends, strict=True))


@jax.named_scope("vq_decode")
def decode_images(
  model: Generator, params: PyTree, codes: jax.Array
) -> jax.Array:
  """Decodes codes [P, G, I]: float32 pixels [P, G, h, w, 3] in [0, 1].

  One sample of every prompt at a time, of large images one of each device: a
  decoder's feature maps are a hundred times as large as its pixels, and small
  ones stay in a CPU's cache or on a TPU's core.
  """

  def decode(codes: jax.Array) -> jax.Array:
    # Over G, not P: prompts are split over devices, samples are not.
    pixels = jax.lax.map(
      lambda one: model.decode_pixels(params, one), codes.swapaxes(0, 1)
    )  # [G, p, h, w, 3]
    return pixels.swapaxes(0, 1)

  prompts, shards = codes.shape[0], sharding.batch_shards()
  apart = model.image_size >= _LARGE and prompts % shards == 0
  # Strided: every device goes on decoding what it holds.
  parts = prompts // shards if apart else 1
  return chunks.map_chunks(decode, parts, codes, strided=True)


def generate_images(
  model: Generator,
  params: PyTree,
  prompt: Prompt,
  key: jax.Array,
  sampling: Sampling,
) -> jax.Array:
  """Samples and decodes: float32 pixels [P, G, h, w, 3] in [0, 1]."""
  rollout = sample_images(model, params, prompt, key, sampling)
  return decode_images(model, params, rollout.codes)
