"""Image scoring: log-probabilities of given codes, with gradients.

Teacher-forced: one pass over all codes, in which G samples share the prefix of
their prompt. Letters: P prompts, G samples, I codes, C codebook, D width,
B branches (2 where guided, else 1).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genrec_jax.core.chunks import map_chunks
from genrec_jax.core.types import Prompt, PyTree
from genrec_jax.models.api import Generator
from genrec_jax.sampling import guidance
from genrec_jax.sampling.distribution import Sampling, take_codes

# Logits of one sample that training holds at a time, float32: those of Janus-
# Pro (576 codes of 16,384) do not fit a device for a whole batch.
_MAX_LOGITS = 2**19


class Extra(NamedTuple):
  """One more number of each code, of the whole distribution at its place.

  Given to `score_images`, as no other place holds the distributions.
  """

  # ([P, G, i, C] log-probabilities, [P, G, i] codes, `inputs` of those i codes)
  # -> [P, G, i]
  function: Callable[[jax.Array, jax.Array, PyTree], jax.Array]
  inputs: PyTree  # [P, G, I, ...] each


class Scores(NamedTuple):
  """Log-probabilities and entropy of given codes under a policy."""

  logprobs: jax.Array  # [P, G, I] float32
  entropy: jax.Array  # [P, G, I] float32, of the distribution, in nats
  # [P, G, I, B] float32 of each branch by itself, without temperature and
  # cuts; None unless asked for.
  branches: jax.Array | None = None
  # [P, G, I] float32, see `Extra`; None unless asked for.
  extra: jax.Array | None = None


def score_images(
  model: Generator,
  params: PyTree,
  prompt: Prompt,
  codes: jax.Array,
  sampling: Sampling,
  *,
  stop_unconditional_gradient: bool = False,
  branches: bool = False,
  extra: Extra | None = None,
) -> Scores:
  """Scores codes under the distribution that `sample_images` samples from.

  Args:
    model: the generator.
    params: its parameters; gradients flow to them.
    prompt: P prompts.
    codes: [P, G, I] int32.
    sampling: the distribution; guidance 1 scores the conditional logits alone.
      Its num_samples and greedy are not looked at.
    stop_unconditional_gradient: treat the unconditional branch as constant.
    branches: also score each branch by itself: the conditional one and, where
      guided, the unconditional one.
    extra: one more number of each code.
  """
  # The unconditional branch's parameters, which may take no gradient.
  constant = (
    jax.lax.stop_gradient(params) if stop_unconditional_gradient else params
  )
  hidden = _hidden_states(model, params, constant, prompt, codes, sampling)

  def score(hidden, codes, inputs):
    """Scores [P, G, i] codes, i of the I, by the states before them."""
    logits_of = model.image_vocabulary.logits
    each = [logits_of(params, hidden[0])]  # B x [P, G, i, C]
    logits = each[0]
    if sampling.guided:
      each.append(logits_of(constant, hidden[1]))
      logits = guidance.guide(each[0], each[1], sampling.guidance)
    logprobs = sampling.logprobs(logits, keep=codes)  # [P, G, i, C]
    # A code cut off has probability 0 and adds nothing, not 0 * -inf.
    finite = jnp.where(jnp.isfinite(logprobs), logprobs, 0.0)
    entropy = -jnp.sum(jnp.exp(logprobs) * finite, -1)  # [P, G, i]
    scores = Scores(take_codes(logprobs, codes), entropy)
    if extra is not None:
      one_more = extra.function(logprobs, codes, inputs)  # [P, G, i]
      scores = scores._replace(extra=one_more)
    if not branches:
      return scores
    own = [take_codes(jax.nn.log_softmax(x), codes) for x in each]
    return scores._replace(branches=jnp.stack(own, -1))

  inputs = None if extra is None else extra.inputs
  return map_logits(model, score, hidden, codes, inputs)


def _hidden_states(
  model: Generator,
  params: PyTree,
  constant: PyTree,
  prompt: Prompt,
  codes: jax.Array,
  sampling: Sampling,
) -> tuple[jax.Array, ...]:
  """Returns the states before each code, B x [P, G, I, D].

  Args:
    model: the generator.
    params: its parameters.
    constant: those of the unconditional branch: `params`, or a copy of it
      without gradients.
    prompt: P prompts.
    codes: [P, G, I].
    sampling: whether there are two branches.
  """

  def run_alone(params, prompt):
    embeds = model.embed(params, prompt)
    return model.teacher_forced_hidden(params, embeds, prompt.mask, codes)

  if not sampling.guided:
    return (run_alone(params, prompt),)
  if constant is not params:
    # Two passes: rows of one batch could not differ in what takes gradients.
    return (
      run_alone(params, prompt),
      run_alone(constant, model.unconditional(prompt)),
    )
  both = guidance.embed_both(model, params, prompt)
  rows = guidance.interleave(codes, codes)  # [2P, G, I]
  return guidance.separate(model.teacher_forced_hidden(params, *both, rows))


def map_logits(
  model: Generator, function: Callable[..., PyTree], *inputs: PyTree
) -> PyTree:
  """Maps a function of logits over chunks of the codes, one after another.

  One chunk's intermediates live at a time, in the backward pass, too.

  Args:
    model: the generator; its codebook is the width of logits.
    function: of trees of arrays [P, G, i, ...], to another such tree.
    *inputs: trees of arrays [P, G, I, ...].

  Returns:
    The results for all I codes.
  """
  # The backward pass computes each chunk's logits again: all of them at once
  # are what would not fit.
  remat = jax.checkpoint(function, prevent_cse=False)
  chunks = _num_chunks(model)
  return map_chunks(function if chunks == 1 else remat, chunks, *inputs, axis=2)


def _num_chunks(model: Generator) -> int:
  """Returns the fewest equal parts of I codes that hold `_MAX_LOGITS`."""
  length = model.image_tokens
  most = max(_MAX_LOGITS // model.codebook_size, 1)
  return next(
    n for n in range(1, length + 1) if length % n == 0 and length <= n * most
  )
