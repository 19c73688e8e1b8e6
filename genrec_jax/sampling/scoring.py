"""Image scoring: log-probabilities of given codes, with gradients.

Teacher-forced: one pass over all codes, in which G samples share the prefix of
their prompt. Letters: P prompts, G samples, I codes, C codebook, D width,
B branches (2 where guided, else 1), W tokens of a title, V vocabulary.
"""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genrec_jax.core.chunks import map_chunks
from genrec_jax.core.types import Prompt, PyTree, Title
from genrec_jax.models.api import Generator, Vocabulary
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
  # Of the title's tokens, [P, G, W] and one branch, the prompt's own; 0 where
  # nothing was written. None where answers have no title.
  title: "Scores | None" = None


def score_images(
  model: Generator,
  params: PyTree,
  prompt: Prompt,
  codes: jax.Array,
  sampling: Sampling,
  *,
  title: Title | None = None,
  stop_unconditional_gradient: bool = False,
  branches: bool = False,
  extra: Extra | None = None,
) -> Scores:
  """Scores answers under the distribution that `sample_items` samples from.

  Args:
    model: the generator.
    params: its parameters; gradients flow to them.
    prompt: P prompts.
    codes: [P, G, I] int32.
    sampling: the distribution; guidance 1 scores the conditional logits alone.
      Its num_samples and greedy are not looked at.
    title: what answers write before the image; None: nothing.
    stop_unconditional_gradient: treat the unconditional branch as constant.
    branches: also score each branch by itself: the conditional one and, where
      guided, the unconditional one.
    extra: one more number of each code.
  """
  # The unconditional branch's parameters, which may take no gradient.
  constant = (
    jax.lax.stop_gradient(params) if stop_unconditional_gradient else params
  )
  hidden = _hidden_states(
    model, params, constant, prompt, codes, title, sampling
  )
  of_title = None
  if title is not None:
    length = title.tokens.shape[-1]
    of_title = _score_title(
      model,
      params,
      hidden[0][:, :, :length],
      title,
      sampling,
      branches=branches,
    )
    hidden = tuple(states[:, :, length:] for states in hidden)

  def score(hidden, codes, inputs):
    """Scores [P, G, i] codes, i of the I, by the states before them."""
    logits_of = model.image_vocabulary.logits
    each = [logits_of(params, hidden[0])]  # B x [P, G, i, C]
    logits = each[0]
    if sampling.guided:
      each.append(logits_of(constant, hidden[1]))
      logits = guidance.guide(each[0], each[1], sampling.guidance)
    scores, logprobs = _score(logits, codes, sampling)
    if extra is not None:
      one_more = extra.function(logprobs, codes, inputs)  # [P, G, i]
      scores = scores._replace(extra=one_more)
    if not branches:
      return scores
    own = [take_codes(jax.nn.log_softmax(x), codes) for x in each]
    return scores._replace(branches=jnp.stack(own, -1))

  inputs = None if extra is None else extra.inputs
  scores = map_logits(model.image_vocabulary, score, hidden, codes, inputs)
  return scores._replace(title=of_title)


def _score(
  logits: jax.Array, tokens: jax.Array, sampling: Sampling
) -> tuple[Scores, jax.Array]:
  """Scores tokens [P, G, i] of logits [P, G, i, C].

  Returns:
    Their scores, and all log-probabilities [P, G, i, C].
  """
  logprobs = sampling.logprobs(logits, keep=tokens)
  # A code cut off has probability 0 and adds nothing, not 0 * -inf.
  finite = jnp.where(jnp.isfinite(logprobs), logprobs, 0.0)
  entropy = -jnp.sum(jnp.exp(logprobs) * finite, -1)  # [P, G, i]
  return Scores(take_codes(logprobs, tokens), entropy), logprobs


def _score_title(
  model: Generator,
  params: PyTree,
  hidden: jax.Array,
  title: Title,
  sampling: Sampling,
  *,
  branches: bool,
) -> Scores:
  """Scores titles by the states before their tokens, [P, G, W, D]."""
  vocabulary = model.text_vocabulary

  def score(hidden, tokens, written):
    logits = vocabulary.logits(params, hidden)  # [P, G, w, V]
    scores, _ = _score(logits, tokens, sampling.of_words)
    if branches:
      own = take_codes(jax.nn.log_softmax(logits), tokens)
      scores = scores._replace(branches=own[..., None])
    # Of what was not written there is no score, whatever its logits.
    return jax.tree.map(
      lambda x: jnp.where(
        written.reshape(written.shape + (1,) * (x.ndim - 3)), x, 0.0
      ),
      scores,
    )

  return map_logits(vocabulary, score, hidden, title.tokens, title.written)


def score_titles(
  model: Generator, params: PyTree, prompt: Prompt, title: Title
) -> jax.Array:
  """Returns log-probabilities of titles that follow prompts: [P, G, W].

  Answers are titles alone, sampled as they are; 0 where nothing is written.

  Args:
    model: the generator.
    params: its parameters.
    prompt: P prompts.
    title: G of each.
  """
  embeds = model.embed(params, prompt)
  hidden = model.teacher_forced_hidden(
    params, embeds, prompt.mask, None, title
  )  # [P, G, W, D]
  return _score_title(
    model, params, hidden, title, Sampling(), branches=False
  ).logprobs


def _hidden_states(
  model: Generator,
  params: PyTree,
  constant: PyTree,
  prompt: Prompt,
  codes: jax.Array,
  title: Title | None,
  sampling: Sampling,
) -> tuple[jax.Array, ...]:
  """Returns the states before each token, B x [P, G, W + I, D].

  Args:
    model: the generator.
    params: its parameters.
    constant: those of the unconditional branch: `params`, or a copy of it
      without gradients.
    prompt: P prompts.
    codes: [P, G, I].
    title: before the codes; the unconditional branch sees none of it.
    sampling: whether there are two branches.
  """
  run = model.teacher_forced_hidden

  def run_alone(params, prompt, title):
    embeds = model.embed(params, prompt)
    return run(params, embeds, prompt.mask, codes, title)

  if not sampling.guided:
    return (run_alone(params, prompt, title),)
  unseen = None
  if title is not None:
    unseen = dataclasses.replace(title, words=jnp.zeros_like(title.words))
  if constant is not params:
    # Two passes: rows of one batch could not differ in what takes gradients.
    return (
      run_alone(params, prompt, title),
      run_alone(constant, model.unconditional(prompt), unseen),
    )
  both = guidance.embed_both(model, params, prompt)
  rows = guidance.interleave(codes, codes)  # [2P, G, I]
  titles = jax.tree.map(guidance.interleave, title, unseen)
  return guidance.separate(run(params, *both, rows, titles))


def map_logits(
  vocabulary: Vocabulary, function: Callable[..., PyTree], *inputs: PyTree
) -> PyTree:
  """Maps a function of logits over chunks of the tokens, one after another.

  One chunk's intermediates live at a time, in the backward pass, too.

  Args:
    vocabulary: of the tokens; its size is the width of logits.
    function: of trees of arrays [P, G, i, ...], to another such tree.
    *inputs: trees of arrays [P, G, I, ...].

  Returns:
    The results for all I tokens.
  """
  # The backward pass computes each chunk's logits again: all of them at once
  # are what would not fit.
  remat = jax.checkpoint(function, prevent_cse=False)
  length = jax.tree.leaves(inputs)[0].shape[2]
  chunks = _num_chunks(length, vocabulary.size)
  return map_chunks(function if chunks == 1 else remat, chunks, *inputs, axis=2)


def _num_chunks(length: int, size: int) -> int:
  """Returns the fewest equal parts of I tokens that hold `_MAX_LOGITS`."""
  most = max(_MAX_LOGITS // size, 1)
  return next(
    n for n in range(1, length + 1) if length % n == 0 and length <= n * most
  )
