"""Decoding: what the loops of image and text sampling have in common.

Letters: P prompts, G samples, C values a token can take; P' rows, two per
prompt where guided.
"""

import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from genrec_jax.core.types import KVCache, Prefix, Prompt, PyTree
from genrec_jax.models.api import Generator, Vocabulary
from genrec_jax.sampling import guidance
from genrec_jax.sampling.distribution import Sampling


class Step(Protocol):
  """Appends a token to each sample; see `Generator.decode_step`."""

  def __call__(
    self,
    cache: KVCache,
    tokens: jax.Array,
    index: jax.Array,
    *,
    unread: int = 0,
  ) -> tuple[jax.Array, KVCache]:
    """Maps tokens [P, G] to the next logits [P, G, C], and the cache."""


@dataclasses.dataclass(frozen=True, eq=False)
class Decoder:
  """Prompts that have been read, and the answers that go on from them.

  Attributes:
    model: the generator.
    params: of the model.
    prefix: of P' rows, laid out for decoding; what else than `hidden` it has
      is the model's own.
    sampling: guidance, and how many samples.
  """

  model: Generator
  params: PyTree
  prefix: Any
  sampling: Sampling

  def first_logits(
    self, vocabulary: Vocabulary, *, guided: bool = True
  ) -> jax.Array:
    """Returns the logits [P, G, C] of every answer's first token."""
    params = vocabulary.decode_params(self.params)
    logits = vocabulary.logits(params, self.prefix.hidden)  # [P', C]
    logits = self._combine(logits, guided)[:, None]
    # All samples go on from the prompt's last state.
    shape = (logits.shape[0], self.sampling.num_samples, logits.shape[-1])
    return jnp.broadcast_to(logits, shape)

  def empty_cache(self, length: int) -> KVCache:
    """Returns the cache of answers of up to `length` tokens."""
    return self.model.init_cache(self.prefix, self.sampling.num_samples, length)

  def step(
    self,
    vocabulary: Vocabulary,
    *,
    guided: bool = True,
    words: jax.Array | None = None,
    begun: int = 0,
  ) -> Step:
    """Returns what appends a token to each sample.

    Args:
      vocabulary: of the tokens, and of those whose logits are next.
      guided: whether the next logits are, by the sampling's guidance; if not
        they are the prompt's own.
      words: [P, G, W] bool, of the W tokens of titles that caches hold, True =
        a word; the unconditional rows attend to none. None: W = 0.
      begun: tokens after the words which all rows attend to.
    """
    params, before = vocabulary.decode_params(self.params), None
    if words is not None:
      rows = self._rows(words, jnp.zeros_like(words))  # [P', G, W]
      wider = [(0, 0), (0, 0), (0, begun)]
      before = jnp.pad(rows, wider, constant_values=True)

    def step(cache, tokens, index, *, unread=0):
      # Both branches read the one token that was sampled from their mixture.
      logits, cache = self.model.decode_step(
        vocabulary,
        params,
        self.prefix,
        cache,
        self._rows(tokens, tokens),
        index,
        before,
        unread=unread,
      )
      return self._combine(logits, guided), cache

    return step

  def _rows(self, conditional: jax.Array, other: jax.Array) -> jax.Array:
    """Returns [P', ...] of what is [P, ...] in each of the branches."""
    if not self.sampling.guided:
      return conditional
    return guidance.interleave(conditional, other)

  def _combine(self, logits: jax.Array, guided: bool) -> jax.Array:
    """Guides logits [P', ..., C], or takes the prompt's own: [P, ..., C]."""
    if not self.sampling.guided:
      return logits
    both = guidance.separate(logits)
    return guidance.guide(*both, self.sampling.guidance) if guided else both[0]


@jax.named_scope("prefill")
def start(
  model: Generator, params: PyTree, prompt: Prompt, sampling: Sampling
) -> Decoder:
  """Prefills each prompt once; its samples attend to that one prefix.

  Args:
    model: the generator.
    params: of the model.
    prompt: P prompts.
    sampling: guidance, and how many samples.
  """

  def prefill(prompt: Prompt) -> Prefix:
    return model.prefill(params, model.embed(params, prompt), prompt.mask)

  lay_out = functools.partial(model.decode_prefix, narrow=sampling.int8_cache)
  if not sampling.guided:
    prefix = lay_out(prefill(prompt))
  elif model.shares_unconditional(*prompt.ids.shape):
    other = prefill(model.unconditional(prompt))
    # One after the other, or a device would hold what both take.
    other, prompt = jax.lax.optimization_barrier((other, prompt))
    prefix = lay_out(prefill(prompt), other)
  else:
    embeds, mask = guidance.embed_both(model, params, prompt)  # [P', T, D]
    prefix = lay_out(model.prefill(params, embeds, mask))
  return Decoder(model, params, prefix, sampling)
