"""Item sampling: a title, and the image that it is the title of.

    prompt -> title words, until an end or the maximum -> begin of an image ->
    image codes, given history and title

One rollout on one cache: a prompt is prefilled once. Words are sampled from the
prompt's own distribution. In an image's guidance the unconditional branch sees
neither history nor title; it is the one of images alone, to the token. Letters:
P prompts, G samples, W tokens of a title, H of an image's begin, I codes.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax.core.types import KVCache, Prompt, PyTree, Rollout, Title
from genrec_jax.models.api import Generator
from genrec_jax.sampling import decoding, images, text
from genrec_jax.sampling.decoding import Decoder
from genrec_jax.sampling.distribution import Sampling

# What an answer may be: an image, or its title and then the image.
ANSWERS = ("image", "title_image")
# Folded into a rollout's key for its titles; codes fold in small numbers.
_TITLES = np.uint32(2**32 - 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Titles:
  """How titles are written.

  Attributes:
    max_tokens: W, of a title and its end, at least 1. A title that has not
      ended by then is cut off there, and the image begins.
    end_ids: tokens that end a title; the first is the one that is taught.
  """

  max_tokens: int
  end_ids: tuple[int, ...]

  @classmethod
  def from_options(
    cls, options: Mapping[str, Any], model: Generator, end_ids: Sequence[int]
  ) -> "Titles | None":
    """Returns how titles are written; None where answers are images alone.

    Args:
      options: a config's `model`.
      model: the generator. What begins an image ends a title.
      end_ids: tokens that end an answer in words, and so a title, too.
    """
    if not title_tokens(options):
      return None
    ends = dict.fromkeys([model.image_begin[0], *end_ids])  # each once
    return cls(max_tokens=title_tokens(options), end_ids=tuple(ends))


def title_tokens(options: Mapping[str, Any]) -> int:
  """Returns W of a config's `model`; 0 where answers are images alone."""
  # Configs of runs before there were titles have neither.
  if options.get("answer", "image") == "image":
    return 0
  return options["title_tokens"]


def sample_items(
  model: Generator,
  params: PyTree,
  prompt: Prompt,
  key: jax.Array,
  sampling: Sampling,
  titles: Titles | None,
) -> Rollout:
  """Samples G items for each prompt: titles with images, or images alone.

  Args:
    model: the generator.
    params: its parameters.
    prompt: P prompts; they end before the begin of an image where a title comes
      first, else with it.
    key: PRNG key.
    sampling: how tokens are sampled, and how many items.
    titles: how titles are written; None: none are.

  Returns:
    Rollout; with titles it holds them. Images are whole, whatever their titles.
  """
  if titles is None:
    return images.sample_images(model, params, prompt, key, sampling)
  decoder = decoding.start(model, params, prompt, sampling)
  begun = len(model.image_begin)
  length = titles.max_tokens + begun + model.image_tokens
  answers, cache = text.write(
    decoder,
    decoder.empty_cache(length),
    jax.random.fold_in(key, _TITLES),
    end_ids=titles.end_ids,
    max_tokens=titles.max_tokens,
    unread=begun + model.cache_tokens(model.image_tokens),
  )
  words = answers.mask & ~_among(answers.tokens, titles.end_ids)
  logits, cache = _begin_image(decoder, cache, words)
  codes, logprobs = images.sample_codes(
    decoder, logits, cache, key, words=words, begun=begun
  )
  return Rollout(
    codes=codes,
    logprobs=logprobs,
    title=Title(tokens=answers.tokens, words=words),
    title_logprobs=answers.logprobs,
  )


def _begin_image(
  decoder: Decoder, cache: KVCache, words: jax.Array
) -> tuple[jax.Array, KVCache]:
  """Appends the begin of an image to titles.

  Args:
    decoder: of P prompts.
    cache: with W tokens of titles.
    words: [P, G, W] bool, those that are seen.

  Returns:
    Logits [P, G, C] of the first code, and the cache with W + H tokens.
  """
  model, rows = decoder.model, words.shape[:2]
  vocabulary = model.begin_vocabulary
  codes = model.cache_tokens(model.image_tokens)  # that come after it
  step = decoder.step(vocabulary, words=words)
  begin = jnp.asarray(model.image_begin, jnp.int32)  # [H]

  def append(index, carry):
    cache, _ = carry
    token = jnp.broadcast_to(begin[index], rows)
    logits, cache = step(cache, token, index, unread=codes)
    return cache, logits

  # In a loop, so that a step of it is compiled once, however long it is.
  start = cache, jnp.zeros((*rows, vocabulary.size), jnp.float32)
  if len(begin) == 1:
    cache, logits = append(jnp.int32(0), start)
  else:
    cache, logits = jax.lax.fori_loop(0, len(begin), append, start)
  return logits, cache


def _among(tokens: jax.Array, ids: Sequence[int]) -> jax.Array:
  """Returns which of tokens [...] are one of some ids: [...] bool."""
  ends = jnp.asarray(tuple(ids), tokens.dtype)
  return jnp.any(
    tokens[..., None] == ends.reshape((1,) * tokens.ndim + (-1,)), -1
  )
