"""Text sampling: answers in words, token by token, until the end token.

Letters: P prompts, G answers, W tokens of the longest answer, V vocabulary.
"""

from collections.abc import Sequence

from flax import struct
import jax
import jax.numpy as jnp

from genrec_jax.core.types import KVCache, Prompt, PyTree
from genrec_jax.models.api import Generator
from genrec_jax.sampling import decoding
from genrec_jax.sampling.decoding import Decoder
from genrec_jax.sampling.distribution import Sampling


@struct.dataclass
class Answers:
  """Tokens, and which of them are the answer's; the end token is its last."""

  tokens: jax.Array  # [P, G, W] int32, 0 where not of the answer
  mask: jax.Array  # [P, G, W] bool, True = of the answer
  logprobs: jax.Array  # [P, G, W] float32, 0 where not of the answer


def answer(
  model: Generator,
  params: PyTree,
  prompt: Prompt,
  key: jax.Array,
  sampling: Sampling,
  *,
  end_ids: Sequence[int],
  max_tokens: int,
) -> Answers:
  """Samples G answers to each prompt.

  The prompt is prefilled once; its answers attend to that one prefix. The loop
  stops as soon as all of them have ended.

  Args:
    model: the generator.
    params: its parameters.
    prompt: P prompts.
    key: PRNG key; each token folds its own number in.
    sampling: how tokens are sampled, and how many answers; without guidance,
      as a question has no unconditional branch.
    end_ids: tokens that end an answer; none: it has `max_tokens`.
    max_tokens: W, at least 1.

  Returns:
    Answers of P prompts.

  Raises:
    ValueError: a guidance other than 1.
  """
  if sampling.guided:
    raise ValueError(
      f"guidance={sampling.guidance} of an answer: expected 1, words are"
      " sampled from the prompt's own distribution"
    )
  decoder = decoding.start(model, params, prompt, sampling)
  cache = decoder.empty_cache(max_tokens)
  return write(decoder, cache, key, end_ids=end_ids, max_tokens=max_tokens)[0]


def write(
  decoder: Decoder,
  cache: KVCache,
  key: jax.Array,
  *,
  end_ids: Sequence[int],
  max_tokens: int,
  unread: int = 0,
) -> tuple[Answers, KVCache]:
  """Writes words from where prompts end, until all samples have ended.

  Words are sampled from the prompt's own distribution: its guidance is left
  out.

  Args:
    decoder: of P prompts.
    cache: empty, of `max_tokens` and those that come after words.
    key: see `answer`.
    end_ids: see `answer`.
    max_tokens: see `answer`.
    unread: tokens of the cache that come after words.

  Returns:
    The answers, and the cache with their tokens, and anything after their end.
  """
  sampling, words = decoder.sampling, decoder.model.text_vocabulary
  logits = decoder.first_logits(words, guided=False)  # [P, G, V]
  step = decoder.step(words, guided=False)
  ends = jnp.asarray(tuple(end_ids), jnp.int32).reshape(1, 1, -1)

  def unfinished(state):
    index, _, _, going, _ = state
    return (index < max_tokens) & jnp.any(going)

  def body(state):
    index, cache, logits, going, answers = state
    # [P, G] both.
    ids, logprobs = sampling.draw(logits, jax.random.fold_in(key, index))
    answers = jax.tree.map(
      lambda old, new: jax.lax.dynamic_update_slice(
        old, new[..., None], (0, 0, index)
      ),
      answers,
      Answers(
        tokens=jnp.where(going, ids, 0),
        mask=going,
        logprobs=jnp.where(going, logprobs, 0.0),
      ),
    )
    going &= jnp.all(ids[..., None] != ends, -1)
    logits, cache = step(cache, ids, index, unread=unread)  # [P, G, V]
    return index + 1, cache, logits, going, answers

  rows = logits.shape[:2]  # P, G
  state = (
    jnp.int32(0),
    cache,
    logits,
    jnp.ones(rows, bool),
    Answers(
      tokens=jnp.zeros((*rows, max_tokens), jnp.int32),
      mask=jnp.zeros((*rows, max_tokens), bool),
      logprobs=jnp.zeros((*rows, max_tokens), jnp.float32),
    ),
  )
  with jax.named_scope("answer"):
    _, cache, _, _, answers = jax.lax.while_loop(unfinished, body, state)
  return answers, cache
