"""Reward slopes: from weighted rewards back to the vectors that were decoded.

    d sum_r slope_r reward_r / d embeddings   [P, G, E']    rewards
    -> encoders -> VQ decoder ->              [P, G, I, E]  a slope per code

Taken once per rollout, before the policy's pass: at the sampled codes slopes do
not depend on the parameters that are trained, so the decoder's activations
never meet those of the language model. Letters: P prompts, G samples per
prompt, I codes per image, E width of a codebook vector, E' of an encoder's
space.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from genrec_jax import rewards
from genrec_jax.core.types import PyTree
from genrec_jax.models.api import Generator
from genrec_jax.objectives import advantages, pathwise
from genrec_jax.sampling import Extra
from genrec_jax.train import microbatch
from genrec_jax.train.rl_options import RLOptions

# Pixels [p, h, w, 3] in [0, 1] to what rewards read: [p, E'] by each encoder.
Embed = Callable[[jax.Array], PyTree]


def embed_slopes(
  views: Mapping[str, rewards.View],
  raw: Mapping[str, jax.Array],
  weights: Mapping[str, advantages.Weight],
  options: RLOptions,
) -> dict[str, jax.Array]:
  """Returns what the weighted rewards gain by each embedding: [P, G, E'].

  Args:
    views: the generated images and what they are compared with, by encoder.
    raw: the rewards [P, G] of these images, by name.
    weights: theirs at this step.
    options: with `pathwise`; of the rewards those that have a gradient count.

  Returns:
    By encoder, of all that look at images.
  """
  assert options.pathwise is not None
  slopes = pathwise.reward_slopes(
    raw,
    weights,
    normalise=options.pathwise.normalise,
    advantage=options.advantage,
    kept=rewards.kept_groups(raw),
  )  # name -> [P, G]
  smooth = {
    name: reward
    for name, reward in options.rewards.items()
    if name in slopes and name not in rewards.WITHOUT_GRADIENT
  }
  images = {
    name: view.images
    for name, view in views.items()
    if name not in rewards.NO_ENCODERS
  }

  def score(images: dict[str, jax.Array]) -> dict[str, jax.Array]:
    moved = {name: views[name]._replace(images=x) for name, x in images.items()}
    return rewards.score_views(moved, smooth)

  _, pull = jax.vjp(score, images)
  return pull({name: slopes[name] for name in smooth})[0]


def code_slopes(
  model: Generator,
  params: PyTree,
  embed: Embed,
  codes: jax.Array,
  slopes: PyTree,
  parts: int,
) -> jax.Array:
  """Returns the slopes of codes' vectors by those of the images' embeddings.

  One sample of every prompt of a microbatch at a time, as images are decoded.

  Args:
    model: the generator.
    params: its parameters.
    embed: of the encoders that reward.
    codes: [P, G, I].
    slopes: see `embed_slopes`.
    parts: microbatches that the prompts are taken in.

  Returns:
    [P, G, I, E] float32, constants to the gradient.
  """
  table = model.code_vectors(params)  # [C, E]

  def pull_back(one: tuple[jax.Array, PyTree]) -> jax.Array:
    codes, slopes = one  # [p, I], [p, E']
    _, pull = jax.vjp(
      lambda vectors: embed(model.decode_vectors(params, vectors)),
      table[codes],
    )
    return pull(slopes)[0]  # [p, I, E]

  def over_samples(codes: jax.Array, slopes: PyTree) -> jax.Array:
    # Over G, not P: prompts are split over devices, samples are not.
    each = jax.tree.map(lambda x: x.swapaxes(0, 1), (codes, slopes))
    return jax.lax.map(pull_back, each).swapaxes(0, 1)  # [p, G, I, E]

  found = microbatch.map_prompts(over_samples, parts, codes, slopes)
  return jax.lax.stop_gradient(found)


def find(
  model: Generator,
  params: PyTree,
  embed: Embed,
  codes: jax.Array,
  slopes: PyTree,
  key: jax.Array,
  options: RLOptions,
) -> tuple[pathwise.Slopes, dict[str, jax.Array]]:
  """Returns what a pathwise loss needs of a rollout, and its metric.

  Args:
    model: see `code_slopes`, as the next four.
    params: of the generator.
    embed: of the encoders that reward.
    codes: [P, G, I].
    slopes: of embeddings.
    key: of the step.
    options: with `pathwise`.

  Returns:
    Slopes, and `slope_norm` []: the mean length of a code's.
  """
  assert options.pathwise is not None
  vectors = code_slopes(
    model, params, embed, codes, slopes, options.microbatches
  )
  keys = None
  if options.pathwise.relaxation == "gumbel":
    # The sampler folds in small numbers, one for each code.
    own = jax.random.fold_in(key, jnp.uint32(2**32 - 1))
    keys = jax.random.split(own, codes.shape)  # [P, G, I]
  norms = jnp.sqrt(jnp.sum(vectors * vectors, -1))  # [P, G, I]
  return pathwise.Slopes(vectors, keys), {"slope_norm": norms.mean()}


def scored_with(
  options: pathwise.Pathwise, code_vectors: jax.Array, slopes: pathwise.Slopes
) -> Extra:
  """Returns what scoring computes of each code for a pathwise loss."""
  table = jax.lax.stop_gradient(code_vectors)  # [C, E]

  def surrogate(
    logprobs: jax.Array, codes: jax.Array, slopes: pathwise.Slopes
  ) -> jax.Array:
    return pathwise.surrogate(options, logprobs, codes, slopes, table)

  return Extra(surrogate, slopes)
