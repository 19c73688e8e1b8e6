"""Decoding: what the loops of image and text sampling have in common.

Letters: P prompts, G samples, C values a token can take; P' rows, two per
prompt where guided.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genrec_jax.core.types import KVCache, Prompt, PyTree
from genrec_jax.models.api import Generator, Vocabulary
from genrec_jax.sampling import guidance
from genrec_jax.sampling.distribution import Sampling

# Maps (cache, tokens [P, G], their index []) to (next logits [P, G, C], cache).
Step = Callable[[KVCache, jax.Array, jax.Array], tuple[jax.Array, KVCache]]


@jax.named_scope("prefill")
def start(
  model: Generator,
  vocabulary: Vocabulary,
  params: PyTree,
  prompt: Prompt,
  sampling: Sampling,
  length: int,
) -> tuple[jax.Array, KVCache, Step]:
  """Prefills each prompt once; its samples attend to that one prefix.

  Args:
    model: the generator.
    vocabulary: of the model; what answers are made of.
    params: of the model.
    prompt: P prompts.
    sampling: guidance, and how many samples.
    length: tokens of the longest answer.

  Returns:
    The first token's logits [P, G, C], the empty cache, and the step that
    appends a token to each sample.
  """
  if sampling.guided:
    embeds, mask = guidance.embed_both(model, params, prompt)  # [P', T, D]
  else:
    embeds, mask = model.embed(params, prompt), prompt.mask
  prefix = model.decode_prefix(model.prefill(params, embeds, mask))
  decode_params = vocabulary.decode_params(params)

  def combine(logits):
    """Guides logits [P', ..., C]: [P, ..., C]."""
    if not sampling.guided:
      return logits
    return guidance.guide(*guidance.separate(logits), sampling.guidance)

  def step(cache, tokens, index):
    # Both branches read the one token that was sampled from their mixture.
    rows = guidance.interleave(tokens, tokens) if sampling.guided else tokens
    logits, cache = model.decode_step(
      vocabulary, decode_params, prefix, cache, rows, index
    )
    return combine(logits), cache

  # The first token of every sample comes from the prompt's last state.
  logits = combine(vocabulary.logits(decode_params, prefix.hidden))[:, None]
  shape = (logits.shape[0], sampling.num_samples, logits.shape[-1])
  cache = model.init_cache(prefix, sampling.num_samples, length)
  return jnp.broadcast_to(logits, shape), cache, step
