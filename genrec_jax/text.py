"""Answers a prompt in words, token by token, until the model ends its turn.

Letters: P prompts, G answers, W tokens of the longest answer, V vocabulary.
"""

from collections.abc import Sequence

from flax import struct
import jax
import jax.numpy as jnp

from genrec_jax.core.types import Prompt, PyTree
from genrec_jax.models.api import Generator
from genrec_jax.sampling import log_distribution


@struct.dataclass
class Answers:
  """Tokens, and which of them are the answer's; the end token is its last."""

  tokens: jax.Array  # [P, G, W] int32, 0 where not of the answer
  mask: jax.Array  # [P, G, W] bool, True = of the answer


def answer(
  model: Generator,
  params: PyTree,
  prompt: Prompt,
  key: jax.Array,
  *,
  end_ids: Sequence[int],
  max_tokens: int,
  num_samples: int = 1,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
  greedy: bool = False,
) -> Answers:
  """Writes `num_samples` answers to each prompt.

  The prompt is prefilled once; its answers attend to that one prefix. The loop
  stops as soon as all of them have ended.

  Args:
    model: the generator.
    params: its parameters.
    prompt: P prompts.
    key: PRNG key; each token folds its own number in.
    end_ids: tokens that end an answer; none: it has `max_tokens`.
    max_tokens: W, at least 1.
    num_samples: G.
    temperature: see `sampling.log_distribution`.
    top_k: see `sampling.log_distribution`.
    top_p: see `sampling.log_distribution`.
    greedy: take the likeliest token, the first of equals.

  Returns:
    Answers of P prompts.
  """
  prefix = model.prefill(params, model.embed(params, prompt), prompt.mask)
  prefix = model.decode_prefix(prefix)
  decode_params = model.text_decode_params(params)
  ends = jnp.asarray(tuple(end_ids), jnp.int32).reshape(1, 1, -1)

  def choose(logits, index):
    if greedy:
      return jnp.argmax(logits, -1).astype(jnp.int32)
    logprobs = log_distribution(
      logits, temperature=temperature, top_k=top_k, top_p=top_p
    )
    ids = jax.random.categorical(jax.random.fold_in(key, index), logprobs)
    return ids.astype(jnp.int32)

  def unfinished(state):
    index, _, _, going, _ = state
    return (index < max_tokens) & jnp.any(going)

  def body(state):
    index, cache, logits, going, answers = state
    ids = choose(logits, index)
    answers = jax.tree.map(
      lambda old, new: jax.lax.dynamic_update_slice(
        old, new[..., None], (0, 0, index)
      ),
      answers,
      Answers(tokens=jnp.where(going, ids, 0), mask=going),
    )
    going &= jnp.all(ids[..., None] != ends, -1)
    logits, cache = model.decode_text_step(
      decode_params, prefix, cache, ids, index
    )
    return index + 1, cache, logits, going, answers

  logits = model.text_logits(decode_params, prefix.hidden)[:, None]
  rows = (logits.shape[0], num_samples)
  state = (
    jnp.int32(0),
    model.init_text_cache(prefix, num_samples, max_tokens),
    jnp.broadcast_to(logits, (*rows, logits.shape[-1])),
    jnp.ones(rows, bool),
    Answers(
      tokens=jnp.zeros((*rows, max_tokens), jnp.int32),
      mask=jnp.zeros((*rows, max_tokens), bool),
    ),
  )
  with jax.named_scope("answer"):
    return jax.lax.while_loop(unfinished, body, state)[-1]
