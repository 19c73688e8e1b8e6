"""Draws images code by code, and scores given codes the same way.

One distribution serves both: logits, guided by an unconditional branch, divided
by a temperature, cut by top-k and top-p. What `sample_images` reports is the
log-probability under it, and `score_images` gives the same number, with
gradients. G samples share the prefix of their prompt in both.

Letters: P prompts, T prompt tokens, G samples, I codes, C codebook, h w pixels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genrec_jax.core import tree
from genrec_jax.core.types import Prompt, PyTree, Rollout
from genrec_jax.models.api import Generator

# Logits of one sample that training holds at a time, float32: those of Janus-
# Pro (576 codes of 16,384) do not fit a device for a whole batch.
_MAX_LOGITS = 2**19


def guide(
  conditional: jax.Array, unconditional: jax.Array, guidance: float
) -> jax.Array:
  """Classifier-free guidance l = u + w (c - u) on logits [..., C].

  Source: arXiv 2207.12598, in the form transformers uses (w = 1: no guidance).
  """
  return unconditional + guidance * (conditional - unconditional)


def log_distribution(
  logits: jax.Array,
  *,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
  keep: jax.Array | None = None,
) -> jax.Array:
  """Returns the log-probabilities [..., C] that codes are sampled from.

  Args:
    logits: [..., C], any float type.
    temperature: divides the logits, > 0.
    top_k: keep the k largest logits (ties with the k-th too); 0 keeps all.
    top_p: then keep the smallest set of largest codes whose probability
      reaches top_p (arXiv 1904.09751), in (0, 1]; 1 keeps all.
    keep: [...] int32, a code that stays in whatever the cuts say. Scoring
      passes the sampled code: on the very edge of a cut, rounding must not
      turn its log-probability into -inf.
  """
  if temperature <= 0 or top_k < 0 or not 0 < top_p <= 1:
    raise ValueError(
      f"temperature={temperature}, top_k={top_k}, top_p={top_p}: expected"
      " temperature > 0, top_k >= 0 and 0 < top_p <= 1"
    )
  logits = logits.astype(jnp.float32) / temperature
  if not (top_k or top_p < 1):
    return jax.nn.log_softmax(logits)
  kept = logits
  if top_k:
    floor = jax.lax.top_k(kept, min(top_k, logits.shape[-1]))[0][..., -1:]
    kept = jnp.where(kept >= floor, kept, -jnp.inf)
  if top_p < 1:
    ordered = -jnp.sort(-kept)
    probs = jax.nn.softmax(ordered)
    before = jnp.cumsum(probs, -1) - probs
    floor = jnp.min(
      jnp.where(before < top_p, ordered, jnp.inf), -1, keepdims=True
    )
    kept = jnp.where(kept >= floor, kept, -jnp.inf)
  if keep is not None:
    codes = jnp.arange(logits.shape[-1]).reshape((1,) * keep.ndim + (-1,))
    kept = jnp.where(keep[..., None] == codes, logits, kept)
  return jax.nn.log_softmax(kept)


def _pair(conditional: jax.Array, unconditional: jax.Array) -> jax.Array:
  """Interleaves the rows of two [P, ...]: [2P, ...].

  A prompt's two rows stay on its device; one half after the other would move
  rows between devices, where P is sharded, in both directions.
  """
  rows = jnp.stack([conditional, unconditional], 1)
  return rows.reshape(-1, *conditional.shape[1:])


def _unpair(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Undoes `_pair`."""
  pairs = rows.reshape(-1, 2, *rows.shape[1:])
  return pairs[:, 0], pairs[:, 1]


def _both_branches(
  model: Generator, params: PyTree, prompt: Prompt
) -> tuple[jax.Array, jax.Array]:
  """Returns embeddings [2P, T, D] and mask [2P, T] of both, as `_pair` does."""
  other = model.unconditional(prompt)
  embeds = _pair(model.embed(params, prompt), model.embed(params, other))
  return embeds, _pair(prompt.mask, other.mask)


def rollout_params(
  model: Generator, params: PyTree, gather: Callable[[PyTree], PyTree]
) -> PyTree:
  """Lays out what the decode loop reads, once per rollout.

  Cast to the compute type and then gathered, so half the bytes travel in
  bfloat16; nothing changes in value. What only reads prompts stays as it is.

  Args:
    model: the generator.
    params: its parameters, laid out for training.
    gather: constrains a tree like `params` to the decode loop's layout.

  Returns:
    A tree like `params`, for `sample_images`.
  """
  flat, loop = (tree.flatten(x) for x in (params, model.decode_subtree(params)))
  gathered = tree.flatten(gather(tree.unflatten(flat | loop)))
  # The barrier keeps a training pass from reusing the gathered copy, which
  # would stay alive through the whole step.
  held = jax.lax.optimization_barrier({path: gathered[path] for path in loop})
  return tree.unflatten(flat | held)


def sample_images(
  model: Generator,
  params: PyTree,
  prompt: Prompt,
  key: jax.Array,
  *,
  num_samples: int,
  guidance: float,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
  greedy: bool = False,
) -> Rollout:
  """Samples `num_samples` images for each prompt.

  The prompt is prefilled once; its samples attend to that one prefix. With
  `greedy` the most likely code is taken, the first of equals, and its
  log-probability is 0: the distribution sampled from is a point.

  Args:
    model: the generator.
    params: its parameters.
    prompt: P prompts.
    key: PRNG key; each code index folds its own number in.
    num_samples: G.
    guidance: weight of `guide`; 1 leaves the unconditional branch out.
    temperature: see `log_distribution`.
    top_k: see `log_distribution`.
    top_p: see `log_distribution`.
    greedy: take the most likely code.

  Returns:
    Rollout of codes and logprobs, [P, G, I] each.
  """
  guided = guidance != 1
  if guided:
    prefix = model.prefill(params, *_both_branches(model, params, prompt))
  else:
    prefix = model.prefill(params, model.embed(params, prompt), prompt.mask)
  prefix = model.decode_prefix(prefix)
  decode_params = model.decode_params(params)

  def combine(logits):
    return guide(*_unpair(logits), guidance) if guided else logits

  def choose(logits, index):
    if greedy:
      codes = jnp.argmax(logits, -1).astype(jnp.int32)
      return codes, jnp.zeros(codes.shape, jnp.float32)
    logprobs = log_distribution(
      logits, temperature=temperature, top_k=top_k, top_p=top_p
    )
    codes = jax.random.categorical(jax.random.fold_in(key, index), logprobs)
    return codes.astype(jnp.int32), _gather(logprobs, codes)

  def body(carry, index):
    cache, codes = carry
    rows = _pair(codes, codes) if guided else codes
    logits, cache = model.decode_step(decode_params, prefix, cache, rows, index)
    codes, logprobs = choose(combine(logits), index + 1)
    return (cache, codes), (codes, logprobs)

  logits = combine(model.logits(decode_params, prefix.hidden))[:, None]
  shape = (logits.shape[0], num_samples, logits.shape[-1])
  first = choose(jnp.broadcast_to(logits, shape), jnp.int32(0))
  cache = model.init_cache(prefix, num_samples)
  with jax.named_scope("decode"):
    _, rest = jax.lax.scan(
      body, (cache, first[0]), jnp.arange(model.image_tokens - 1)
    )
  codes, logprobs = (
    jnp.concatenate([one[None], more]).transpose(1, 2, 0)
    for one, more in zip(first, rest, strict=True)
  )
  return Rollout(codes=codes, logprobs=logprobs)


def score_images(
  model: Generator,
  params: PyTree,
  prompt: Prompt,
  codes: jax.Array,
  *,
  guidance: float,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
  stop_unconditional_gradient: bool = False,
  branches: bool = False,
) -> tuple[jax.Array, ...]:
  """Scores codes under the distribution `sample_images` draws from.

  Args:
    model: the generator.
    params: its parameters; gradients flow to them.
    prompt: P prompts.
    codes: [P, G, I] int32.
    guidance: see `sample_images`; 1 scores the conditional logits alone.
    temperature: see `log_distribution`.
    top_k: see `log_distribution`.
    top_p: see `log_distribution`.
    stop_unconditional_gradient: treat the unconditional branch as constant.
    branches: also score each branch by itself: the conditional one and, where
      guided, the unconditional one, as the model has them, without
      temperature and cuts.

  Returns:
    logprobs [P, G, I] and the distribution's entropy in nats [P, G, I]; with
    `branches` also their logprobs [P, G, I, B], B = 2 or 1.
  """
  guided = guidance != 1
  # The unconditional branch's parameters, which may take no gradient.
  others = (
    jax.lax.stop_gradient(params) if stop_unconditional_gradient else params
  )

  def run_alone(params, prompt):
    embeds = model.embed(params, prompt)
    return model.teacher_forced_hidden(params, embeds, prompt.mask, codes)

  if not guided:
    hidden = (run_alone(params, prompt),)
  elif stop_unconditional_gradient:
    hidden = (
      run_alone(params, prompt),
      run_alone(others, model.unconditional(prompt)),
    )
  else:
    both = _both_branches(model, params, prompt)
    hidden = _unpair(
      model.teacher_forced_hidden(params, *both, _pair(codes, codes))
    )

  def score(hidden, codes):
    """Scores [P, G, i] codes, i of the I, by the states before them."""
    each = [model.logits(params, hidden[0])]
    if guided:
      each.append(model.logits(others, hidden[1]))
    logits = guide(*each, guidance) if guided else each[0]
    logprobs = log_distribution(
      logits, temperature=temperature, top_k=top_k, top_p=top_p, keep=codes
    )
    # A code cut off has probability 0 and adds nothing, not 0 * -inf.
    finite = jnp.where(jnp.isfinite(logprobs), logprobs, 0.0)
    entropy = -jnp.sum(jnp.exp(logprobs) * finite, -1)
    found = _gather(logprobs, codes), entropy
    if not branches:
      return found
    own = [_gather(jax.nn.log_softmax(x), codes) for x in each]
    return *found, jnp.stack(own, -1)

  return in_chunks(model, score, hidden, codes)


def in_chunks(
  model: Generator, function: Callable[..., PyTree], *inputs: PyTree
) -> PyTree:
  """Maps a function of logits over chunks of the codes, one after another.

  One chunk's intermediates live at a time, in the backward pass, too.

  Args:
    model: the generator, whose codebook says how large logits are.
    function: of trees of arrays [P, G, i, ...], to another such tree.
    *inputs: trees of arrays [P, G, I, ...].

  Returns:
    The results for all I codes.
  """
  chunks = _chunks(model)
  if chunks == 1:
    return function(*inputs)

  def split(x):
    parts = x.reshape(*x.shape[:2], chunks, -1, *x.shape[3:])
    return jnp.moveaxis(parts, 2, 0)

  def join(parts):
    x = jnp.moveaxis(parts, 0, 2)
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])

  parts = jax.lax.map(
    jax.checkpoint(lambda part: function(*part), prevent_cse=False),
    jax.tree.map(split, inputs),
  )
  return jax.tree.map(join, parts)


def _chunks(model: Generator) -> int:
  """Returns into how few equal parts I codes go by `_MAX_LOGITS`."""
  length = model.image_tokens
  most = max(_MAX_LOGITS // model.codebook_size, 1)
  return next(
    n for n in range(1, length + 1) if length % n == 0 and length <= n * most
  )


def decode_images(
  model: Generator, params: PyTree, codes: jax.Array
) -> jax.Array:
  """Draws codes [P, G, I]: float32 pixels [P, G, h, w, 3] in [0, 1].

  One sample of every prompt at a time: a decoder's feature maps are a hundred
  times as large as its pixels, and small ones stay in a CPU's cache.
  """
  pixels = jax.lax.map(
    lambda one: model.decode_pixels(params, one), codes.swapaxes(0, 1)
  )
  return pixels.swapaxes(0, 1)


def draw_images(
  model: Generator, params: PyTree, prompt: Prompt, key: jax.Array, **options
) -> jax.Array:
  """Samples and decodes: float32 pixels [P, G, h, w, 3] in [0, 1].

  Takes the options of `sample_images`.
  """
  rollout = sample_images(model, params, prompt, key, **options)
  return decode_images(model, params, rollout.codes)


def _gather(values: jax.Array, codes: jax.Array) -> jax.Array:
  """Takes values [..., C] at codes [...]."""
  return jnp.take_along_axis(values, codes[..., None], -1)[..., 0]
